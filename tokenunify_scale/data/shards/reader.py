"""Shards: WebDataset tars of crops, each sample read by one call that fills the crop in place."""

import json
import os
import sys
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.shards.cache import Cache, OpenFile
from tokenunify_scale.data.shards.index import (
    INDEX,
    PARTIAL,
    Index,
    Sample,
    Shard,
    index_from,
    parse,
    read_index,
)
from tokenunify_scale.data.shards.members import Layout, unpack
from tokenunify_scale.volumes import store

Damaged = Literal["stop", "skip"]
SHOWN = 4  # lost tars that one line names

# Of all folders together, enough for the tars that are shuffled together. Opening costs a request
# to a server where the file system is shared.
keep_open = lru_cache(256)(OpenFile)


class ShardSet:
    """The samples of a shard folder, by number; several threads may read at once."""

    def __init__(
        self,
        folder: Path | str,
        index: Index,
        *,
        damaged: Damaged = "stop",
        cache: Cache | None = None,
        lost: dict[int, str] | None = None,
    ) -> None:
        """See ``open_shards``, which checks the folder first.

        Args:
            folder: a path, or a URL where there is a cache.
            index: what lies there.
            damaged: "skip": a tar that could not be fetched once is not asked for again.
            cache: holds the tars of a URL.
            lost: numbers of tars that are known to be damaged, and in what way.
        """
        self.folder, self.index = folder, index
        self.lost: dict[int, str] = lost or {}
        self._damaged, self._cache = damaged, cache
        # As the user knows them; where a path leads is settled now.
        self._names = [store.join(str(folder), shard.name) for shard in index.shards]
        self._root = os.path.abspath(folder) if cache is None else ""
        self._ends = list(accumulate(shard.count for shard in index.shards))
        self._shape = index.stored
        self._layout = Layout(self._shape)

    def __len__(self) -> int:
        """Number of samples."""
        return self.index.count

    def read(self, sample: int) -> Sample:
        """The crop, uint8 [C*D, H, W], and its meta: {"volume": number, "box": [start, stop]}.

        Raises:
            IndexError: no such sample.
            DataError: the tar is missing, cut off or damaged; names the file and the byte.
        """
        crop = np.empty(self._shape, np.uint8)
        text = self._fill(sample, crop)
        try:
            return crop, json.loads(text)
        except ValueError as error:
            number, start, _ = self._place(sample)
            where = f"{self._names[number]} is damaged: sample {sample} at byte {start}"
            raise DataError(f"{where}: {error}") from None

    def read_into(self, sample: int, out: np.ndarray) -> None:
        """Read a crop to where it belongs, such as its place in a batch.

        Args:
            sample: its number.
            out: uint8 [C*D, H, W], contiguous; half filled where an error is raised.

        Raises:
            ValueError: ``out`` is of another shape or type.
            IndexError: no such sample.
            DataError: as `read`.
        """
        if out.shape != self._shape or out.dtype.char != "B":  # cheaper than dtype's own ==
            wanted = f"uint8 {self._shape}"
            raise ValueError(f"a crop is read into {wanted}, not into {out.dtype} {out.shape}")
        self._fill(sample, out)

    def prefetch(self, sample: int) -> None:
        """Begin to fetch the tar of a sample in the background, where it comes from a URL."""
        number, _, _ = self._place(sample)
        if self._cache is not None and number not in self.lost:
            shard = self.index.shards[number]
            self._cache.prefetch(self._names[number], bytes=shard.bytes, sha256=shard.sha256)

    def _place(self, sample: int) -> tuple[int, int, int]:
        """The tar of a sample, by number, and the bytes where it starts and stops."""
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)} in {self.folder}")
        number = bisect_right(self._ends, sample)
        shard = self.index.shards[number]
        first = sample - (self._ends[number] - shard.count)
        return number, shard.offsets[first], shard.offsets[first + 1]

    def _fill(self, sample: int, out: np.ndarray) -> bytes:
        """Read the crop of a sample into ``out``; its json comes back."""
        number, start, stop = self._place(sample)
        head = bytearray(max(stop - start - self._layout.behind, 0))
        try:
            file = self._open(number)
            # From the tar to where it belongs, without a copy in between.
            buffers = [head, out, bytearray(self._layout.filler)]
            if os.preadv(file.descriptor, buffers, start) == stop - start:
                text = self._layout.json(head)
                if text is not None:
                    return text
            data = _read(file, start, stop)
        except DataError as error:
            raise DataError(f"{error} (sample {sample}, byte {start})") from None
        except OSError as error:
            what = f"{error.strerror} (sample {sample}, byte {start})"
            raise DataError(f"{self._names[number]}: {what}") from None
        if len(data) < stop - start:
            what = f"sample {sample} at byte {start} is cut off"
            raise DataError(f"{self._names[number]} ends early: {what}")
        try:
            text, out[...] = unpack(data, crop=self._shape)
        except ValueError as error:
            what = f"{self._names[number]} is damaged: sample {sample} at byte {start}"
            raise DataError(f"{what}: {error}") from None
        return text

    def _open(self, number: int) -> OpenFile:
        """A tar, open."""
        if number in self.lost:
            raise DataError(self.lost[number])
        shard = self.index.shards[number]
        if self._cache is not None:
            try:
                return self._cache.open(self._names[number], bytes=shard.bytes, sha256=shard.sha256)
            except DataError as error:
                if self._damaged == "skip":  # a tar is fetched whole: not again for each sample
                    self.lost[number] = str(error)
                raise
        path = f"{self._root}/{shard.name}"
        file = keep_open(path)
        if os.fstat(file.descriptor).st_nlink == 0:  # deleted since, or replaced
            keep_open.cache_clear()
            file = keep_open(path)
        return file


def open_shards(
    folder: str | Path, *, damaged: Damaged = "stop", cache: Cache | None = None
) -> ShardSet:
    """Open a folder that ``prepare`` wrote; checks that each tar is there in its full size.

    Args:
        folder: its path, or its URL (https, gs, s3); of that only index.json is read at once.
        damaged: "skip": a tar that is missing or of another size is no error here but one line on
            stderr; all its samples raise when they are read.
        cache: where the tars of a URL are kept; those of a path are read where they are.

    Raises:
        ConfigError: a URL without a cache, or with tars that are larger than it may be.
        DataError: folder, index.json or a tar is missing, unreadable, or of another size.
    """
    if store.is_remote(str(folder)):
        return _open_remote(str(folder), damaged=damaged, cache=cache)
    folder = store.local_path(str(folder))
    if not folder.is_dir():
        raise DataError(f"{folder}: no such shard folder; `prepare --out {folder}` writes one")
    if not (folder / INDEX).is_file():
        why = "prepare was interrupted, run it again" if (folder / PARTIAL).exists() else "missing"
        raise DataError(f"{folder / INDEX}: {why}")
    index = read_index(folder / INDEX)
    faults = ((number, _fault(folder, shard)) for number, shard in enumerate(index.shards))
    lost = {number: fault for number, fault in faults if fault is not None}
    if lost and (damaged == "stop" or len(lost) == len(index.shards)):
        raise DataError(next(iter(lost.values())))
    if lost:
        more = f"; and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        told = "; ".join(list(lost.values())[:SHOWN]) + more
        print(f"{len(lost)} of {len(index.shards)} tars cannot be read: {told}", file=sys.stderr)
    return ShardSet(folder, index, damaged=damaged, lost=lost)


def _open_remote(url: str, *, damaged: Damaged, cache: Cache | None) -> ShardSet:
    """Open a folder by its URL."""
    if cache is None:
        raise ConfigError(f"{url}: shards are read from a URL through a cache folder; name one")
    name = store.join(url, INDEX)
    if (text := store.read_bytes(name)) is None:
        raise DataError(f"{name}: missing")
    index = index_from(parse(text, name=name), name=name)
    for shard in index.shards:
        cache.check_size(store.join(url, shard.name), bytes=shard.bytes)
    return ShardSet(url, index, damaged=damaged, cache=cache)


def _fault(folder: Path, shard: Shard) -> str | None:
    """Why a tar is not the one that the index lists, by what can be seen from outside."""
    path = folder / shard.name
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return f"{path} is missing, but {INDEX} lists it"
    except OSError as error:
        return f"{path}: {error.strerror}"
    if size == shard.bytes:
        return None
    cut = ", it was cut off" if size < shard.bytes else ""
    return f"{path} has {size} bytes, {INDEX} says {shard.bytes}{cut}"


def _read(file: OpenFile, start: int, stop: int) -> bytes:
    """The bytes from ``start`` to ``stop``, or to the end of the file where that comes before."""
    data = bytearray()
    while more := os.pread(file.descriptor, stop - start - len(data), start + len(data)):
        data += more
    return bytes(data)
