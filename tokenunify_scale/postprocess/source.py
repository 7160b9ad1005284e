"""Predicted affinities on disk: their facts at once, their values box by box."""

from pathlib import Path
from typing import Any

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.boxed import open_boxed
from tokenunify_scale.volumes.geometry import Box, Triple
from tokenunify_scale.volumes.hdf5 import split_spec

# What the methods here understand; predict writes exactly this, and long-range channels behind.
NEAREST: tuple[Triple, ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
AXES = "czyx"


class Affinities:
    """Affinities [C, D, H, W] of which a part is read at a time."""

    def __init__(self, source: str, array: Any, *, offsets: tuple[Triple, ...], scale: float):
        """Wrap an array of boxes; ``open_affinities`` checks it first."""
        self.source, self._array, self._scale = source, array, scale
        self.offsets = offsets
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.attributes: dict[str, Any] = array.attributes
        self.voxel_size: tuple[float, float, float] | None = array.voxel_size
        self.written = _written(source)
        """Bytes and time of the file; another prediction of that name has others."""

    @property
    def sides(self) -> Triple:
        """(D, H, W)."""
        z, y, x = self.shape[1:]
        return z, y, x

    def read(self, box: Box | None = None, *, channels: slice | None = None) -> np.ndarray:
        """Affinities of a box, of all channels or some.

        Args:
            box: within the volume (zyx voxels); all of it if None.
            channels: of ``offsets``.

        Returns:
            float32 [C, *box.shape], as they were predicted: what is stored over its scale.

        Raises:
            DataError: the box reaches out of the volume, or the file is damaged there.
        """
        values = self._array.read(box or Box.of(self.sides), channels=channels)
        values = values.astype(np.float32, copy=False)
        if self._scale != 1:
            values *= np.float32(1 / self._scale)
        return values


def open_affinities(source: str | Path) -> Affinities:
    """Open affinities, and refuse those whose meaning is another or is not told.

    Args:
        source: a predict folder with affinities.h5 or affinities.zarr, ``file.h5:dataset``, or
            ``x.zarr``.

    Raises:
        DataError: missing file or dataset, or attributes that say another convention or none;
            affinities read with another convention give a segmentation that looks fine and is
            wrong.
    """
    array = open_boxed(place(source))
    attributes = array.attributes
    for key, wanted in {"offsets": [list(each) for each in NEAREST], "axes": AXES}.items():
        if key not in attributes:
            raise DataError(f"{source}: attribute {key!r} is missing; expected {key} = {wanted}")
    if attributes["axes"] != AXES:
        raise DataError(
            f"{source}: attribute axes = {attributes['axes']}; only {AXES} is understood"
        )
    offsets = tuple(tuple(int(step) for step in each) for each in attributes["offsets"])
    if offsets[: len(NEAREST)] != NEAREST:
        raise DataError(
            f"{source}: attribute offsets = {attributes['offsets']}; only those that begin with "
            f"{[list(each) for each in NEAREST]} are understood: channel c at voxel p is the edge "
            "(p, p - offsets[c]), channels z, y, x first"
        )
    if len(array.shape) != 4 or array.shape[0] != len(offsets) or 0 in array.shape:
        raise DataError(
            f"{source}: shape {tuple(array.shape)}; expected [{len(offsets)}, D, H, W], a channel "
            "for each offset"
        )
    return Affinities(
        str(source), array, offsets=offsets, scale=_scale(source, array.dtype, attributes)
    )


def place(source: str | Path) -> str:
    """Which array a folder or a spec stands for.

    Raises:
        DataError: no such place, a folder without affinities, or a prediction that goes on.
    """
    words, folder = str(source), Path(source)
    if not split_spec(words)[0].exists():
        raise DataError(f"{words}: no such file or folder of affinities")
    if not folder.is_dir() or (folder / ".zarray").is_file():
        return words
    if (folder / "affinities.h5").is_file():
        return f"{folder}/affinities.h5:affinities"
    if not (folder / "affinities.zarr").is_dir():
        raise DataError(f"{folder}/affinities.h5: no such file, and no affinities.zarr beside it")
    # What nobody has written yet reads as 0.
    if (folder / "environment.json").is_file() and not (folder / "result.json").is_file():
        raise DataError(f"{folder}: predict has not finished there; the same command goes on")
    return f"{folder}/affinities.zarr"


def _scale(source: str | Path, dtype: np.dtype, attributes: dict[str, Any]) -> float:
    """What stored values are divided by."""
    told = attributes.get("scale")
    if told is None and np.dtype(dtype).kind == "f":
        return 1.0
    if told is None:
        raise DataError(
            f"{source}: stored as {np.dtype(dtype)} without the attribute scale; 255 would say "
            "that 255 is an affinity of 1"
        )
    if not float(told) > 0:
        raise DataError(f"{source}: attribute scale = {told}; expected a number above 0")
    return float(told)


def _written(source: str) -> tuple[int, int]:
    path = split_spec(place(source))[0]
    told = (path / ".zattrs" if path.is_dir() else path).stat()
    return told.st_size, told.st_mtime_ns
