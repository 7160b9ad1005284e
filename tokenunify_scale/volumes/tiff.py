"""TIFF stacks: one page a section, mapped into memory where the file allows it."""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from tokenunify_scale.config import DataError
from tokenunify_scale.registry import READERS
from tokenunify_scale.volumes.geometry import NANOMETRES
from tokenunify_scale.volumes.volume import Claim, Volume

SUFFIXES = (".tif", ".tiff")


class Pages:
    """A stack that reads the pages it is asked for, for files that cannot be mapped."""

    def __init__(self, series: tifffile.TiffPageSeries) -> None:
        """Read from ``series``, of three axes."""
        self.series, self.shape, self.dtype = series, series.shape, series.dtype

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """The voxels of three slices."""
        sections, rows, columns = index
        wanted = range(*sections.indices(self.shape[0]))
        try:
            if len(self.series.pages) != self.shape[0]:
                return self.series.asarray()[index]
            pages = [self.series.pages[z].asarray()[rows, columns] for z in wanted]
        except (ValueError, RuntimeError) as error:  # of tifffile and of imagecodecs
            raise OSError(str(error)) from error
        empty = np.empty((0, *self.shape[1:]), self.dtype)[:, rows, columns]
        return np.stack(pages) if pages else empty


def open_tiff(spec: str) -> Volume:
    """A volume in a TIFF file, one page a section; the voxel size from ImageJ or OME, if told.

    Args:
        spec: path of the file.

    Raises:
        DataError: no such file, not TIFF, a single image, colour, or more than three axes.
    """
    path = Path(spec)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        file = tifffile.TiffFile(path)
    except (tifffile.TiffFileError, OSError) as error:
        raise DataError(f"{path}: not a readable TIFF file ({error})") from error
    try:
        series = file.series[0]
        # Writers that are told nothing call the sections of a stack C: only S is surely colour.
        if "S" in series.axes:
            raise DataError(
                f"{path}: axes {series.axes}, shape {series.shape}: a colour image; a volume is a "
                "stack of grey sections"
            )
        array = _mapped(file, series) if len(series.shape) == 3 else Pages(series)
        voxel_size, attributes = _voxel_size(file), {"axes": series.axes}
    except DataError:
        file.close()
        raise
    return Volume(spec, array, voxel_size=voxel_size, attributes=attributes, close=file.close)


def write_tiff(
    path: Path,
    sections: Iterable[np.ndarray],
    *,
    shape: Sequence[int],
    largest: int,
    voxel_size: Sequence[float] | None = None,
) -> None:
    """Write a stack of label images that appears under its name only when it is whole.

    ImageJ's kind of TIFF while the ids fit 16 bits, else OME's with 32, which napari reads.

    Args:
        path: of the file; its folder exists.
        sections: [H, W] unsigned ids each, asked for one after the other; an array [D, H, W] will
            do.
        shape: (D, H, W).
        largest: id of all sections, below 2**32.
        voxel_size: (z, y, x) in nm.

    Raises:
        DataError: the ids do not fit 32 bits.
    """
    if largest >= 1 << 32:
        raise DataError(
            f"{path}: id {largest} does not fit the 32 bits of a TIFF: use HDF5 or Zarr"
        )
    short = largest < 1 << 16
    dtype = np.uint16 if short else np.uint32
    facts: dict[str, Any] = {"axes": "ZYX"}
    resolution = None
    if voxel_size is not None:
        z, y, x = (side / 1000 for side in voxel_size)
        facts |= {"spacing": z, "unit": "um"} if short else _physical(z, y, x)
        resolution = (1 / x, 1 / y)
    part = path.with_name(f".{path.name}.part")
    tifffile.imwrite(
        part,
        (section.astype(dtype) for section in sections),
        shape=tuple(shape),
        dtype=dtype,
        imagej=short,
        ome=not short,
        resolution=resolution,
        metadata=facts,
        compression="zlib",
    )
    part.replace(path)


def _physical(z: float, y: float, x: float) -> dict[str, Any]:
    """The sides of a voxel in micrometres, as OME spells them."""
    sides = zip("ZYX", (z, y, x), strict=True)
    return {f"PhysicalSize{axis}": side for axis, side in sides}


def _mapped(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Any:
    """The series mapped into memory, or read page by page where it is compressed or scattered."""
    offset = series.dataoffset
    if offset is None or series.keyframe.compression != 1:
        return Pages(series)
    size = int(np.prod(series.shape)) * series.dtype.itemsize
    if offset + size > Path(file.filehandle.path).stat().st_size:
        raise DataError(f"{file.filehandle.path}: cut short, {size} bytes of voxels expected")
    dtype = series.dtype.newbyteorder(file.byteorder)
    return np.memmap(file.filehandle.path, dtype, "r", offset, series.shape)


def _voxel_size(file: tifffile.TiffFile) -> tuple[float, float, float] | None:
    """(z, y, x) in nm from OME or ImageJ metadata."""
    if file.is_ome:
        found = re.search(r"<(\w+:)?Pixels\b[^>]*>", file.ome_metadata or "")
        told = dict(re.findall(r'(\w+)="([^"]*)"', found[0])) if found else {}
        sides = [
            _number(told.get(f"PhysicalSize{axis}"))
            * NANOMETRES.get(html.unescape(told.get(f"PhysicalSize{axis}Unit", "um")), 0.0)
            for axis in "ZYX"
        ]
    else:
        told = file.imagej_metadata or {}
        unit = NANOMETRES.get(str(told.get("unit", "")), 0.0)
        # These tags count pixels per unit, as a fraction.
        tags = (file.pages[0].tags.get(f"{axis}Resolution") for axis in "YX")
        counts = [tag.value if tag else (0, 1) for tag in tags]
        sides = [_number(told.get("spacing")) * unit]
        sides += [unit * below / above if above else 0.0 for above, below in counts]
    z, y, x = sides
    return (z, y, x) if all(0 < side < float("inf") for side in sides) else None


def _number(text: object) -> float:
    """The number a text is, or 0."""
    try:
        return float(str(text))
    except ValueError:
        return 0.0


READERS.add("tiff", open_tiff, Claim(suffixes=SUFFIXES), source="TIFF 6.0, ImageJ, OME")
