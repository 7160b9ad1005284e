"""Zarr v2 and v3, OME-NGFF, N5 and Neuroglancer precomputed, from local paths and URLs.

Reading is lazy: a crop fetches the chunks it touches. A chunk that does not exist reads as the
fill value, as all these formats mean it.
"""

import itertools
import math
from typing import Any

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.registry import READERS
from tokenunify_scale.volumes.address import KINDS, Address, is_chunked, parse_address
from tokenunify_scale.volumes.level import Level
from tokenunify_scale.volumes.n5 import find_n5
from tokenunify_scale.volumes.precomputed import find_precomputed
from tokenunify_scale.volumes.store import (
    ANSWER_SECONDS,
    CACHE_BYTES,
    READ_SECONDS,
    SCHEMES,
    brief,
    context,
    is_remote,
    join,
    kvstore,
    library,
    local_path,
    read_json,
)
from tokenunify_scale.volumes.volume import Claim, Volume
from tokenunify_scale.volumes.zarr import find_zarr

FINDERS = {
    "zarr": find_zarr,
    "zarr2": find_zarr,
    "zarr3": find_zarr,
    "n5": find_n5,
    "precomputed": find_precomputed,
}
TELLING = {
    "info": "precomputed",
    "zarr.json": "zarr",
    ".zarray": "zarr",
    ".zattrs": "zarr",
    ".zgroup": "zarr",
    "attributes.json": "n5",
    "s0/attributes.json": "n5",
}
"""Files that tell the format of a folder, the first one found."""


class Chunks:
    """An array in chunks that is read where it is sliced."""

    def __init__(self, array: Any, *, place: str) -> None:
        """Read from ``array``, a tensorstore [D, H, W] that begins at 0.

        Args:
            array: open.
            place: for messages.
        """
        self._array, self._place = array, place
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype = array.dtype.numpy_dtype

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """The voxels of slices with a start and a stop.

        Raises:
            DataError: a chunk is damaged, or its host silent.
        """
        out = np.empty([part.stop - part.start for part in index], self.dtype)
        for piece in self._pieces(index):
            pairs = zip(piece, index, strict=True)
            there = [slice(a.start - b.start, a.stop - b.start) for a, b in pairs]
            try:
                out[tuple(there)] = self._array[piece].read().result(timeout=READ_SECONDS)
            except (ValueError, TimeoutError) as error:
                start = tuple(part.start for part in index)
                raise DataError(
                    f"{self._place}: cannot be read at {start} (zyx voxels): {brief(error)}"
                ) from error
        return out

    def _pieces(self, index: tuple[slice, ...]) -> list[tuple[slice, ...]]:
        """A crop in one piece, or in several where its chunks together outgrow the cache.

        All chunks of one read are in memory at the same time, whatever the cache's limit.
        """
        layout, counts = self._array.chunk_layout, []
        sides = [side or 1 for side in layout.read_chunk.shape]
        firsts = [
            (part.start - (origin or 0)) // side * side + (origin or 0)
            for part, side, origin in zip(index, sides, layout.grid_origin, strict=True)
        ]
        for part, side, first in zip(index, sides, firsts, strict=True):
            counts.append(max(1, -(-(part.stop - first) // side)))
        for axis in range(3):
            while (
                counts[axis] > 1 and math.prod(counts + sides) * self.dtype.itemsize > CACHE_BYTES
            ):
                counts[axis] = -(-counts[axis] // 2)
        spans = []
        for part, side, first, count in zip(index, sides, firsts, counts, strict=True):
            cuts = [part.start, *range(first + side * count, part.stop, side * count), part.stop]
            spans.append([slice(a, b) for a, b in itertools.pairwise(cuts)])
        return list(itertools.product(*spans))


def open_chunked(spec: str) -> Volume:
    """A volume in Zarr, N5 or precomputed, in zyx, from its first voxel on.

    Args:
        spec: see ``parse_address``; behind a colon, a dataset, or a level or scale by its name
            or number. Where a group of levels is named, the finest is taken.

    Raises:
        ConfigError: a URL of a scheme that is not read.
        DataError: nothing there, not a volume, or metadata or chunks that cannot be read.
        HostError: tensorstore is not installed.
    """
    address = parse_address(spec)
    if not is_remote(address.url) and not local_path(address.url).is_dir():
        what = "a file, not a folder" if local_path(address.url).exists() else "no such folder"
        raise DataError(f"{address.url}: {what}")
    kvstore(address.url)
    library()
    level = FINDERS[address.kind or _kind(address)](address)
    array = arrange(open_level(level), level=level, place=spec)
    kind = array.dtype.numpy_dtype.kind
    if kind not in "biuf":
        raise DataError(f"{spec}: voxels of type {array.dtype.name}; numbers are expected")
    facts = {**level.attributes, "axes": list(level.axes)}
    return Volume(spec, Chunks(array, place=spec), voxel_size=level.voxel_size, attributes=facts)


def level_spec(level: Level) -> dict[str, Any]:
    """What tensorstore is asked to open for a level, as JSON."""
    store = kvstore(level.url)
    folder = f"{store['path'].rstrip('/')}/" if store["path"] else ""
    return {
        "driver": level.driver,
        "kvstore": {**store, "path": folder},
        # What lies there when a volume is opened is what it is: no question to the host for
        # each chunk that is in the cache.
        "recheck_cached_data": "open",
        "recheck_cached_metadata": "open",
        **level.options,
    }


def open_level(level: Level) -> Any:
    """The tensorstore of a level, with the axes as they are stored.

    Raises:
        DataError: a codec, a type or metadata that are not read, or a silent host.
    """
    spec = level_spec(level)
    try:
        future = library().open(spec, read=True, open=True, context=context("read"))
        return future.result(timeout=ANSWER_SECONDS)
    except (ValueError, TimeoutError) as error:
        raise DataError(f"{level.url}: {brief(error)}") from error


def arrange(array: Any, *, level: Level, place: str) -> Any:
    """A tensorstore with its axes in the order z, y, x, beginning at 0.

    Args:
        array: with the axes of ``level``; those besides z, y and x must have length 1.
        level: names of the axes.
        place: for messages.

    Raises:
        DataError: another axis that is longer.
    """
    dims = library().d
    extra = [at for at, axis in enumerate(level.axes) if axis not in ("z", "y", "x")]
    for at in extra:
        if array.shape[at] != 1:
            raise DataError(
                f"{place}: axis {level.axes[at]!r} has length {array.shape[at]}; a volume has "
                f"the axes z, y, x, and others of length 1 (stored: {', '.join(level.axes)})"
            )
    if extra:
        array = array[dims[extra][tuple(array.domain.origin[at] for at in extra)]]
    left = [axis for axis in level.axes if axis in ("z", "y", "x")]
    order = [left.index(axis) for axis in "zyx" if axis in left]
    return array[dims[order].transpose[:]][dims[:].translate_to[0]]


def _kind(address: Address) -> str:
    """The format of a folder whose name does not tell it."""
    for path in dict.fromkeys(("", address.dataset)):
        for name, kind in TELLING.items():
            found = read_json(join(join(address.url, path), name))
            if found is not None and (name != "info" or "scales" in found):
                return kind
    hint = f"; a URL may begin with its format, as in {KINDS[-1]}://{address.url}"
    raise DataError(
        f"{address.url}: no metadata of Zarr, N5 or precomputed that can be read there"
        + (hint if is_remote(address.url) else "")
    )


READERS.add(
    "tensorstore",
    open_chunked,
    Claim(
        suffixes=(".zarr", ".n5"),
        schemes=(*SCHEMES, *(f"{kind}://" for kind in KINDS)),
        folder=is_chunked,
    ),
    source="Zarr v2 and v3, OME-NGFF 0.1 to 0.5, N5, Neuroglancer precomputed",
)
