"""A volume on disk or made up: its facts at once, its voxels when asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.registry import READERS
from tokenunify_scale.volumes.geometry import Box, Triple

VOXEL_SIZE_KEYS = ("voxel_size", "resolution_nm", "resolution")


class ArrayLike(Protocol):
    """What a reader hands over: an array that is read where it is sliced."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """The voxels of three slices."""


@dataclass(frozen=True)
class Claim:
    """Which words a reader answers to: a URL's scheme, a word before the colon, a path's suffix.

    A folder whose name says nothing is known by what lies in it.
    """

    suffixes: tuple[str, ...] = ()
    """Ends of paths, with the dot, in lower case; behind them may stand ``:dataset``."""
    prefix: str = ""
    """What the spec is, or begins with, before a colon."""
    schemes: tuple[str, ...] = ()
    """Beginnings of URLs, such as ``https://``; a spec with ``://`` is for these readers only."""
    folder: Callable[[Path], bool] | None = None
    """Whether a local folder is such a volume."""

    def covers(self, spec: str) -> bool:
        """Whether ``spec`` (path, path:dataset, prefix:words, URL) is for this reader."""
        words = spec.lower()
        if "://" in words:
            return words.startswith(self.schemes) if self.schemes else False
        if self.prefix and spec.split(":")[0] == self.prefix:
            return True
        return any(words.endswith(s) or f"{s}:" in words for s in self.suffixes)

    def holds(self, spec: str) -> bool:
        """Whether ``spec`` is a folder this reader knows, or lies in one by its name.

        Args:
            spec: ``folder``, ``folder:dataset``, or ``folder.suffix/dataset``.
        """
        if self.folder is None or not spec or "://" in spec:
            return False
        if any(f"{suffix}/" in spec.lower() for suffix in self.suffixes):
            return True
        path = Path(spec if Path(spec).is_dir() else spec.rpartition(":")[0] or spec)
        return path.is_dir() and self.folder(path)


class Volume:
    """A 3-D array with its facts; a context manager, or call `close`."""

    def __init__(
        self,
        path: str,
        array: ArrayLike,
        *,
        voxel_size: tuple[float, float, float] | None,
        attributes: dict[str, Any],
        close: Any = None,
    ) -> None:
        """Wrap ``array``.

        Args:
            path: the spec, as the user wrote it.
            array: sliced when read.
            voxel_size: nm (z, y, x), or None where the data does not say.
            attributes: what else the data says of itself.
            close: called once, without arguments, when the volume is closed.

        Raises:
            DataError: the array is not 3-D, or is empty.
        """
        self._array, self._close = array, close
        if len(array.shape) != 3 or 0 in array.shape:
            self.close()
            kind = "a single image" if len(array.shape) == 2 else f"{len(array.shape)}-D"
            shape = "x".join(map(str, array.shape))
            raise DataError(
                f"{path}: {kind}, shape {shape}; a volume is 3-D (sections, rows, "
                "columns) and not empty"
            )
        z, y, x = (int(side) for side in array.shape)
        self.path: str = path
        self.shape: Triple = (z, y, x)
        self.dtype = np.dtype(array.dtype).newbyteorder("=")
        self.voxel_size = voxel_size
        self.attributes = attributes

    def read(self, box: Box | None = None) -> np.ndarray:
        """The voxels of a box, or all of them.

        Args:
            box: within ``Box.of(self.shape)``.

        Returns:
            [D, H, W], the stored type in native byte order, the caller's own.

        Raises:
            DataError: the box reaches out of the volume, or the file is damaged there.
        """
        box = Box.of(self.shape) if box is None else box
        if not Box.of(self.shape).contains(box):
            raise DataError(
                f"{self.path}: crop {box.start} to {box.stop} reaches out of the "
                f"volume of {self.shape} (zyx voxels)"
            )
        try:
            voxels = np.asarray(self._array[box.slices])
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read at {box.start}: {error}") from error
        return np.require(voxels, voxels.dtype.newbyteorder("="), ["C", "W", "O"])

    def close(self) -> None:
        """Close the file behind the volume, if there is one; a second call does nothing."""
        close, self._close = self._close, None
        if close is not None:
            close()

    def __enter__(self) -> "Volume":
        """The volume itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()


def open_volume(spec: str | Path) -> Volume:
    """Open a volume by what the user typed.

    Args:
        spec: ``stack.h5:raw`` (or ``stack.h5`` if it holds one dataset), ``stack.tif``,
            ``vol.zarr``, ``vol.n5:volumes/raw``, ``precomputed://gs://bucket/vol``, a folder,
            ``synthetic`` or ``synthetic:seed=7,shape=64x512x512,dataset=labels``.

    Raises:
        ConfigError: no reader answers to this spec.
        DataError: the file is missing, damaged, or not one 3-D volume; a host is silent.
        HostError: a package that reads this kind is not installed.
    """
    spec = str(spec)
    entries = [READERS.get(name) for name in READERS.names()]
    for entry in entries:
        if entry.config.covers(spec):
            return entry.factory(spec)
    for entry in entries:
        if entry.config.holds(spec):
            return entry.factory(spec)
    claims = [entry.config for entry in entries]
    known = [word for claim in claims for word in (*claim.suffixes, claim.prefix) if word]
    schemes = [scheme for claim in claims for scheme in claim.schemes]
    raise ConfigError(
        f"{spec!r}: no reader for this kind of volume, or no such folder; known: "
        f"{', '.join((*known, *schemes))}, and folders of chunks or of images"
    )


def sections_box(volume: Volume, sections: tuple[int, int] | None) -> Box:
    """The box of sections ``[start, stop)`` of a volume, or of all of them.

    Raises:
        ConfigError: the range is empty or reaches out of the volume.
    """
    whole = Box.of(volume.shape)
    if sections is None:
        return whole
    start, stop = sections
    if not 0 <= start < stop <= volume.shape[0]:
        raise ConfigError(
            f"sections {start} to {stop} of {volume.path}: must be within 0 to "
            f"{volume.shape[0]} and not empty (the stop is not included)"
        )
    return Box((start, 0, 0), (stop, *whole.stop[1:]))


def voxel_size_of(*sources: dict[str, Any]) -> tuple[float, float, float] | None:
    """The voxel size (z, y, x) in nm that attributes tell, the first source first, else None."""
    for attributes in sources:
        for key in VOXEL_SIZE_KEYS:
            try:
                sides = tuple(float(side) for side in attributes[key])
            except (KeyError, TypeError, ValueError):
                continue
            if len(sides) == 3 and all(0 < side < float("inf") for side in sides):
                return sides
    return None
