"""NIfTI volumes, plain or gzipped: x varies fastest on disk, so the file as it lies is z, y, x."""

import gzip
import logging
import math
import shutil
import tempfile
import threading
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tokenunify_scale.config import DataError, HostError
from tokenunify_scale.registry import READERS
from tokenunify_scale.volumes.geometry import Triple
from tokenunify_scale.volumes.volume import Claim, Volume

SUFFIXES = (".nii", ".nii.gz")
UNITS = {1: ("meter", 1e9), 2: ("mm", 1e6), 3: ("micron", 1e3)}
"""The lengths that a header can tell, by the code in its ``xyzt_units``, and their nm."""
PIECE = 8 << 20
"""Bytes that are unpacked at a time."""
SILENT = logging.Logger("nifti", level=logging.CRITICAL + 1)
"""For nibabel, which would tell of a header's faults beside our one line."""


class Voxels:
    """The voxels of a file, mapped into memory when they are first sliced.

    A gzip stream can only be read from its beginning, which per crop would be a whole volume per
    crop. So it is unpacked once, at the first read, into a temporary file without a name that is
    mapped in its place: volumes larger than memory work, loader processes forked later share the
    pages, and a killed process leaves nothing behind. ``TMPDIR`` says where. Processes that do
    not descend from one another each unpack their own: there ``gunzip`` first is the faster way.
    """

    def __init__(
        self,
        path: Path,
        *,
        shape: Triple,
        stored: np.dtype,
        offset: int,
        scaling: tuple[float, float] | None,
    ) -> None:
        """Read nothing yet.

        Args:
            path: of the file.
            shape: (z, y, x).
            stored: type on disk, byte order included.
            offset: bytes before the first voxel, in the unpacked file.
            scaling: a slope and an intercept, or None: the voxels are as stored.

        Raises:
            DataError: a plain file that is too short.
        """
        self.path, self.shape, self._stored, self._offset = path, shape, stored, offset
        self.dtype = stored if scaling is None else np.result_type(stored, np.float32)
        self._scaling, self._lock = scaling, threading.Lock()
        self._mapped: np.ndarray | None = None
        self._bytes = math.prod(shape) * stored.itemsize
        if not _zipped(path) and path.stat().st_size < offset + self._bytes:
            raise DataError(f"{path}: cut short, {self._bytes} bytes of voxels expected")

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """The voxels of three slices."""
        with self._lock:
            if self._mapped is None:
                self._mapped = self._map()
            voxels = self._mapped[index]
        if self._scaling is None:
            return voxels
        slope, intercept = self._scaling
        return voxels.astype(self.dtype) * slope + intercept

    def close(self) -> None:
        """Let go of the file, and of the temporary one."""
        self._mapped = None

    def _map(self) -> np.ndarray:
        """The file in memory, z slowest: the only place where x, y, z become z, y, x."""
        if not _zipped(self.path):
            return np.memmap(self.path, self._stored, "r", self._offset, self.shape)
        with tempfile.TemporaryFile() as plain:
            self._unpack(plain)
            return np.memmap(plain, self._stored, "r", 0, self.shape)

    def _unpack(self, plain: BinaryIO) -> None:
        """Write the voxels, and read on to the end of the stream, where its checksum is."""
        folder, gib = tempfile.gettempdir(), 1 << 30
        if (free := shutil.disk_usage(folder).free) < self._bytes:
            raise HostError(
                f"{self.path}: unpacks to {self._bytes / gib:.1f} GiB, but {folder} has "
                f"{free / gib:.1f} GiB left; name another folder in TMPDIR, or gunzip the file"
            )
        missing = self._bytes
        try:
            with gzip.open(self.path) as stream:
                stream.seek(self._offset)
                while piece := stream.read(PIECE):
                    plain.write(piece[:missing])
                    missing -= min(len(piece), missing)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{self.path}: damaged, or cut short ({error})") from error
        if missing:
            raise DataError(f"{self.path}: cut short, {self._bytes} bytes of voxels expected")
        plain.flush()


def open_nifti(spec: str) -> Volume:
    """A volume in a NIfTI file, in voxels as they are stored.

    The header's affine is not applied, so nothing is flipped, rotated or resampled; it is among
    the attributes, with its unit. Opening reads the header only; ``Voxels`` says how gzip is read.
    Voxels are the stored numbers, unless a slope and an intercept make floats of them: 32 bits
    for integers of up to 16. The voxel size is None where the header names no unit of length.

    Args:
        spec: path of a ``.nii`` or ``.nii.gz`` file, version 1 or 2.

    Raises:
        DataError: no such file, not NIfTI, cut short, colour, or not three axes; axes behind the
            third may have a length of 1.

    Source: https://nifti.nimh.nih.gov (nifti1.h: dim, pixdim, xyzt_units, scl_slope).
    """
    from nibabel.spatialimages import HeaderDataError

    path = Path(spec)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        header = _read_header(path)
        # Before nibabel mends the header: a side of 0 would become one of 1.
        voxel_size, unit = _voxel_size(header), _unit(header)[0]
        header.check_fix(logger=SILENT)
        voxels = Voxels(
            path,
            shape=_shape(header, path=path)[::-1],
            stored=header.get_data_dtype(),
            offset=header.get_data_offset(),
            scaling=_scaling(header),
        )
        attributes = {"affine": header.get_best_affine().tolist(), "affine_unit": unit}
    except DataError:
        raise
    except (HeaderDataError, OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise DataError(f"{path}: not a readable NIfTI file ({error})") from error
    return Volume(spec, voxels, voxel_size=voxel_size, attributes=attributes, close=voxels.close)


def _zipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _read_header(path: Path) -> Any:
    """The header as it is in the file, which nibabel has not checked."""
    from nibabel import Nifti1Header, Nifti2Header

    with gzip.open(path) if _zipped(path) else path.open("rb") as file:
        block = file.read(Nifti2Header.template_dtype.itemsize)
    for kind in (Nifti1Header, Nifti2Header):
        if kind.may_contain_header(block):
            return kind(block[: kind.template_dtype.itemsize], check=False)
    raise ValueError("it does not begin like one")


def _shape(header: Any, *, path: Path) -> tuple[int, ...]:
    """Sides x, y, z, or the fewer there are."""
    shape, dtype = tuple(map(int, header.get_data_shape())), header.get_data_dtype()
    sides = "x".join(map(str, shape))
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {sides}")
    if dtype.kind not in "iuf":
        kind = "colours" if dtype.names else str(dtype)
        raise DataError(f"{path}: holds {kind}; a volume holds grey values or labels")
    if any(side != 1 for side in shape[3:]):
        raise DataError(
            f"{path}: {len(shape)}-D, shape {sides} (x, y, z, and more); a volume is 3-D: save "
            "one frame or channel of it first"
        )
    return shape[:3]


def _scaling(header: Any) -> tuple[float, float] | None:
    """Slope and intercept; None where they are unset or change nothing."""
    slope, intercept = header.get_slope_inter()
    return None if slope is None or (slope, intercept) == (1, 0) else (slope, intercept)


def _unit(header: Any) -> tuple[str, float]:
    """The unit of length and its nm; the higher bits of the code are the unit of time."""
    return UNITS.get(int(header["xyzt_units"]) & 7, ("unknown", 0.0))


def _voxel_size(header: Any) -> tuple[float, float, float] | None:
    """(z, y, x) in nm; None where the unit or the sides say nothing."""
    # The shortest decimal of a header's float: 8e-6 mm are 8 nm, not 7.9999998.
    decimals = (abs(float(str(side))) for side in header["pixdim"][1:4])
    x, y, z = (round(side * _unit(header)[1], 6) for side in decimals)
    return (z, y, x) if all(0 < side < math.inf for side in (z, y, x)) else None


READERS.add("nifti", open_nifti, Claim(suffixes=SUFFIXES), source="NIfTI-1 and NIfTI-2")
