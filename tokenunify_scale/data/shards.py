"""Shards: WebDataset tars of crops, each sample read by one seek."""

import io
import json
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.data.index import BLOCK, INDEX, PARTIAL, Index, Sample, padded, read_index


class ShardSet:
    """The samples of a shard folder, each read by one seek; no file stays open between reads."""

    def __init__(self, folder: Path, index: Index) -> None:
        """See ``open_shards``, which checks the folder first."""
        self.folder, self.index = folder, index
        self._ends = list(accumulate(shard.count for shard in index.shards))

    def __len__(self) -> int:
        """Number of samples."""
        return self.index.count

    def read(self, sample: int) -> Sample:
        """The crop, uint8 [D, H, W], and its meta: {"volume": number, "box": [start, stop]}.

        Raises:
            IndexError: no such sample.
            DataError: the tar is missing, cut off or damaged; names the file and the byte.
        """
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)} in {self.folder}")
        number = bisect_right(self._ends, sample)
        shard = self.index.shards[number]
        first = sample - (self._ends[number] - shard.count)
        start, stop = shard.offsets[first], shard.offsets[first + 1]
        path = self.folder / shard.name
        try:
            with open(path, "rb") as file:
                file.seek(start)
                data = file.read(stop - start)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror} (sample {sample}, byte {start})") from None
        if len(data) < stop - start:
            raise DataError(f"{path} ends early: sample {sample} at byte {start} is cut off")
        try:
            members = dict(_members(data))
            crop = np.load(io.BytesIO(members["raw.npy"]), allow_pickle=False)
            meta = json.loads(bytes(members["json"]))
        except (tarfile.HeaderError, KeyError, ValueError, EOFError) as error:
            what = f"{path} is damaged: sample {sample} at byte {start}"
            raise DataError(f"{what}: {error}") from None
        if crop.shape != self.index.crop or crop.dtype != np.uint8:
            raise DataError(
                f"{path}: sample {sample} at byte {start} is {crop.dtype} {crop.shape}, "
                f"{INDEX} says uint8 {self.index.crop}"
            )
        return crop, meta


def open_shards(folder: str | Path) -> ShardSet:
    """Open a folder that ``prepare`` wrote; checks that each tar is there in its full size.

    Raises:
        DataError: folder, index.json or a tar is missing, unreadable, or of another size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such shard folder; `prepare --out {folder}` writes one")
    if not (folder / INDEX).is_file():
        why = "prepare was interrupted, run it again" if (folder / PARTIAL).exists() else "missing"
        raise DataError(f"{folder / INDEX}: {why}")
    index = read_index(folder / INDEX)
    for shard in index.shards:
        path = folder / shard.name
        if not path.is_file():
            raise DataError(f"{path} is missing, but {INDEX} lists it")
        if (size := path.stat().st_size) != shard.bytes:
            cut = ", it was cut off" if size < shard.bytes else ""
            raise DataError(f"{path} has {size} bytes, {INDEX} says {shard.bytes}{cut}")
    return ShardSet(folder, index)


def _members(data: bytes) -> Iterator[tuple[str, memoryview]]:
    """Extension and content of the tar members that ``data`` consists of."""
    at = 0
    while at < len(data):
        header = tarfile.TarInfo.frombuf(data[at : at + BLOCK], "utf-8", "strict")
        at += BLOCK
        yield header.name.partition(".")[2], memoryview(data)[at : at + header.size]
        at += padded(header.size)
