"""Arrays on disk that are written box by box, by several processes at once.

Zarr v2, since every viewer reads it. A chunk appears whole or not at all, so a process that is
killed leaves no half of one; chunks that nobody wrote read as 0.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tokenunify_scale.config import DataError, HostError
from tokenunify_scale.volumes.geometry import Box, Triple
from tokenunify_scale.volumes.hdf5 import SUFFIXES as HDF5
from tokenunify_scale.volumes.hdf5 import Dataset, split_spec, write_hdf5
from tokenunify_scale.volumes.store import READ_SECONDS, brief, library
from tokenunify_scale.volumes.tiff import write_tiff
from tokenunify_scale.volumes.volume import voxel_size_of
from tokenunify_scale.volumes.zarr import WRITER

COMPRESSOR = {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 1}
KNOWN = ("|u1", "<u2", "<u4", "<u8", "<f2", "<f4")


class Boxed:
    """An array [D, H, W] or [C, D, H, W] in a folder."""

    def __init__(self, path: Path, array: Any, attributes: dict[str, Any]) -> None:
        """Use ``create`` or ``open``."""
        self.path, self._array, self.attributes = path, array, attributes
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype = array.dtype.numpy_dtype
        z, y, x = array.chunk_layout.write_chunk.shape[-3:]
        self.chunk: Triple = (z, y, x)
        self.voxel_size = voxel_size_of(attributes)

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        shape: tuple[int, ...],
        dtype: np.dtype | type,
        chunk: Triple,
        attributes: Mapping[str, Any],
    ) -> "Boxed":
        """Make an array of zeros, or open the same one where it is there already.

        Args:
            path: of its folder, best NAME.zarr.
            shape: [D, H, W] or [C, D, H, W].
            dtype: unsigned integers, float16 or float32.
            chunk: (z, y, x) voxels of one file; a channel has its own. Cut to the shape.
            attributes: plain data; values of None are left out.

        Raises:
            DataError: another array lies there.
            HostError: the disk does not take it, or tensorstore is not installed.
        """
        path, kind = Path(path), np.dtype(dtype).newbyteorder("<").str
        if kind not in KNOWN or len(shape) not in (3, 4):
            raise ValueError(f"{shape} of {kind}: expected 3 or 4 axes of {', '.join(KNOWN)}")
        chunks = [*[1] * (len(shape) - 3), *map(min, chunk, shape[-3:])]
        told = {key: value for key, value in attributes.items() if value is not None}
        told = json.loads(json.dumps(told | dict([WRITER])))
        if (path / ".zarray").is_file():
            there = cls.open(path)
            same = (there.shape, there.dtype.str, there.attributes) == (tuple(shape), kind, told)
            if not same or list(there.chunk) != chunks[-3:]:
                raise DataError(f"{path} holds another array: delete it, or choose another --out")
            return there
        metadata = {
            "shape": list(shape),
            "chunks": chunks,
            "dtype": kind,
            "compressor": COMPRESSOR,
            "fill_value": 0,
            "dimension_separator": "/",
        }
        path.mkdir(parents=True, exist_ok=True)
        part = path / f".zattrs.{os.getpid()}.part"
        part.write_text(json.dumps(told, indent=1))
        part.replace(path / ".zattrs")
        # Another process may create the same at this moment.
        return cls(path, _open(path, metadata=metadata, create=True, open=True), told)

    @classmethod
    def open(cls, path: Path | str) -> "Boxed":
        """Open what ``create`` made.

        Raises:
            DataError: no such array, or not one of three or four axes.
        """
        path = Path(path)
        if not (path / ".zarray").is_file():
            raise DataError(f"{path}: no Zarr array (version 2) there")
        array = _open(path, open=True)
        if len(array.shape) not in (3, 4):
            raise DataError(f"{path}: shape {array.shape}; expected [D, H, W] or [C, D, H, W]")
        told = path / ".zattrs"
        return cls(path, array, json.loads(told.read_text()) if told.is_file() else {})

    def read(self, box: Box, *, channels: slice | None = None) -> np.ndarray:
        """The values of a box (zyx), of all channels or some; the caller's own.

        Raises:
            DataError: the box reaches out of the array, or a chunk is damaged.
        """
        if not Box.of(self.shape[-3:]).contains(box):
            raise DataError(f"{self.path}: {box} reaches out of shape {self.shape}")
        first = () if len(self.shape) == 3 else (channels or slice(None),)
        try:
            return self._array[(*first, *box.slices)].read().result(timeout=READ_SECONDS)
        except (ValueError, TimeoutError) as error:
            raise DataError(f"{self.path}: cannot be read at {box.start}: {brief(error)}") from None

    def write(self, box: Box, values: np.ndarray) -> None:
        """Write whole chunks, so that no two processes write parts of one.

        Args:
            box: begins where a chunk does, and ends where one does or the array ends.
            values: [*box.shape], or [C, *box.shape].

        Raises:
            HostError: the disk does not take it.
            ValueError: parts of chunks, or values of another shape.
        """
        sides = self.shape[-3:]
        starts = any(a % c for a, c in zip(box.start, self.chunk, strict=True))
        stops = zip(box.stop, self.chunk, sides, strict=True)
        if starts or any(b % c and b != side for b, c, side in stops):
            raise ValueError(f"{box} is not made of whole chunks of {self.chunk} in {sides}")
        if values.shape != (*self.shape[:-3], *box.shape):
            raise ValueError(f"values of {values.shape} for {box} of an array {self.shape}")
        try:
            self._array[(..., *box.slices)].write(values.astype(self.dtype, copy=False)).result()
        except (ValueError, OSError) as error:
            raise HostError(f"{self.path} cannot be written: {brief(error)}") from None

    def sections(self) -> Iterator[np.ndarray]:
        """Its sections [H, W] (or [C, H, W]), one after the other; chunks are read once."""
        depth, *plane = self.shape[-3:]
        for z in range(0, depth, self.chunk[0]):
            slab = self.read(Box((z, 0, 0), (min(z + self.chunk[0], depth), *plane)))
            yield from np.moveaxis(slab, -3, 0)


def open_boxed(spec: Path | str) -> Boxed | Dataset:
    """An array of three or four axes: ``x.zarr``, or ``x.h5:dataset``; both are read by boxes.

    Raises:
        DataError: nothing there that can be read, or another number of axes.
    """
    words = str(spec)
    return Dataset(words) if split_spec(words)[0].suffix.lower() in HDF5 else Boxed.open(words)


def write_hdf5_from(
    path: Path, arrays: Mapping[str, Boxed], *, attributes: Mapping[str, Any] | None = None
) -> None:
    """Copy arrays into one HDF5 file, slab by slab; it appears when it is whole.

    Args:
        path: of the file.
        arrays: by the name of their dataset; their attributes go with them.
        attributes: more of them, by dataset.

    Raises:
        HostError: the disk is full.
    """
    told = {name: {**array.attributes} for name, array in arrays.items()}
    for name, more in (attributes or {}).items():
        told[name] = {**told.get(name, {}), **more}
    write_hdf5(path, arrays, attributes=told)


def write_tiff_from(path: Path, array: Boxed, *, largest: int | None = None) -> None:
    """Copy ids [D, H, W] into a TIFF stack, section by section; it appears when it is whole.

    Args:
        path: of the file.
        array: ids; its voxel size goes with it.
        largest: id; looked for where it is not known.

    Raises:
        DataError: an id does not fit 32 bits.
    """
    if largest is None:
        largest = max(int(section.max()) for section in array.sections())
    write_tiff(
        path, array.sections(), shape=array.shape, largest=largest, voxel_size=array.voxel_size
    )


def _open(path: Path, **options: Any) -> Any:
    """The tensorstore of a folder, without a cache: others write there, too."""
    spec = {
        "driver": "zarr",
        # A killed process loses nothing that it wrote; a machine without power may.
        "kvstore": {"driver": "file", "path": f"{path.absolute()}/", "file_io_sync": False},
    }
    metadata = options.pop("metadata", None)
    if metadata:
        spec["metadata"] = metadata
    try:
        return library().open(spec, read=True, write=True, **options).result()
    except ValueError as error:
        kind = HostError if options.get("create") else DataError
        raise kind(f"{path}: {brief(error)}") from None
