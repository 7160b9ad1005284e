"""Shards: WebDataset tars of crops, and the index.json that says where each sample lies."""

import hashlib
import io
import json
import math
import os
import tarfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, groupby
from pathlib import Path

import numpy as np

from tokenunify_scale.config import ConfigError, DataError, HostError
from tokenunify_scale.train.runlog import track, write_atomically

INDEX = "index.json"
PARTIAL = "index.partial.json"
VERSION = 1
BLOCK = tarfile.BLOCKSIZE

Sample = tuple[np.ndarray, dict]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar: sample ``i`` of it fills the bytes ``offsets[i]`` to ``offsets[i + 1]``."""

    name: str
    count: int
    bytes: int
    sha256: str
    offsets: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Index:
    """What index.json says of a shard folder: shapes in zyx voxels, ``voxel_size`` in nm or None.

    ``volumes`` describes the sources; a sample's ``volume`` is a number into it. ``request`` is
    what was asked for: the same request finds its output finished, another one is refused.
    """

    version: int
    crop: tuple[int, int, int]
    count: int
    voxel_size: tuple[float, float, float] | None
    volumes: tuple[dict, ...]
    request: dict
    shards: tuple[Shard, ...]


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
    index = _read_index(folder / INDEX)
    for shard in index.shards:
        path = folder / shard.name
        if not path.is_file():
            raise DataError(f"{path} is missing, but {INDEX} lists it")
        if (size := path.stat().st_size) != shard.bytes:
            cut = ", it was cut off" if size < shard.bytes else ""
            raise DataError(f"{path} has {size} bytes, {INDEX} says {shard.bytes}{cut}")
    return ShardSet(folder, index)


def finished(folder: str | Path, *, request: dict) -> Index | None:
    """The index of a folder that already holds all of ``request``; None if there is work to do.

    Raises:
        ConfigError: the folder holds, wholly or in part, what another request wrote.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; choose another --out")
    indices = [path for path in (folder / INDEX, folder / PARTIAL) if path.exists()]
    for path in indices:
        held = _load(path).get("request") or {}
        if keys := [k for k in {**held, **request} if held.get(k) != request.get(k)]:
            what = ", ".join(f"{k} was {held.get(k)}, is {request.get(k)}" for k in keys)
            raise ConfigError(f"{path}: written for another request ({what}); choose another --out")
    if not indices and any(folder.glob("shard-*.tar")):
        raise ConfigError(f"{folder} holds shards without {INDEX}; choose another --out")
    if not (folder / INDEX).exists():
        return None
    try:
        return open_shards(folder).index
    except DataError as error:
        print(f"{error}; it is written again", flush=True)
        return None


def write_shards(
    samples: Sequence[Sample], out: str | Path, *, per_shard: int, index: dict
) -> Index:
    """Write samples as tars of ``per_shard``, then index.json; keeps the tars that are finished.

    The bytes depend on the samples only. A tar appears under its name when it is whole, and
    index.json when all are; so a killed run is continued by calling this again.

    Args:
        samples: ``samples[i]`` gives a uint8 crop [D, H, W] and a JSON-able meta dict; it is not
            asked for samples whose tar is finished.
        out: the folder; other files in it are left alone.
        per_shard: samples a tar.
        index: crop, voxel_size, volumes and request of ``Index``; the request as plain JSON data,
            lists and not tuples.

    Raises:
        ConfigError: the folder belongs to another request.
        HostError: the disk is full, or not writable.
    """
    out = Path(out)
    if (done := finished(out, request=index["request"])) is not None:
        return done
    names = [f"shard-{n:06d}.tar" for n in range(-(-len(samples) // per_shard))]
    counts = [min(per_shard, len(samples) - n * per_shard) for n in range(len(names))]
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / PARTIAL, json.dumps(index, indent=1) + "\n")
        (out / INDEX).unlink(missing_ok=True)
        facts = zip(names, counts, strict=True)
        kept = [_describe(out / name, count=count) for name, count in facts]
        missing = [n for n in range(len(samples)) if kept[n // per_shard] is None]
        steps = track(missing, total=len(missing), description="shards", unit="crop")
        for shard, numbers in groupby(steps, key=lambda number: number // per_shard):
            _write_tar(out / names[shard], ((n, samples[n]) for n in numbers))
            kept[shard] = _describe(out / names[shard], count=counts[shard])
        shards = [asdict(shard) for shard in kept]
        whole = {"version": VERSION, "count": len(samples), **index, "shards": shards}
        write_atomically(out / PARTIAL, json.dumps(whole, indent=1) + "\n")
        (out / PARTIAL).replace(out / INDEX)
    except OSError as error:
        if error.errno is None:  # a library's own, from reading a sample
            raise
        raise HostError(f"cannot write {error.filename or out}: {error.strerror}") from error
    return _read_index(out / INDEX)


def shard_bytes(count: int, *, crop: tuple[int, int, int]) -> int:
    """Size of a tar of ``count`` samples: two headers, a short json and the npy each."""
    sample = 3 * BLOCK + _padded(128 + math.prod(crop))
    return _padded(count * sample + 2 * BLOCK, tarfile.RECORDSIZE)


def _write_tar(path: Path, samples: Iterable[tuple[int, Sample]]) -> None:
    """Write numbered samples to a tar of the same bytes each time, atomically."""
    from webdataset import TarWriter

    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            # An integer mtime: a float costs a PAX header of 1 KiB a member.
            with TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
                for number, (crop, meta) in samples:
                    npy = io.BytesIO()
                    np.save(npy, np.ascontiguousarray(crop, dtype=np.uint8))
                    text = json.dumps(meta, sort_keys=True).encode()
                    key = f"{number:09d}"
                    tar.write({"__key__": key, "json": text, "raw.npy": npy.getvalue()})
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _describe(path: Path, *, count: int) -> Shard | None:
    """Facts of a finished tar; None if it is absent or does not hold ``count`` whole samples."""
    if not path.is_file():
        return None
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
    except tarfile.TarError:
        return None
    end = members[-1].offset_data + _padded(members[-1].size) if members else 0
    # A tar ends with two empty blocks, filled up to a whole record.
    if len(members) != 2 * count or size != _padded(end + 2 * BLOCK, tarfile.RECORDSIZE):
        return None
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    offsets = (*(member.offset for member in members[::2]), end)
    sha256 = digest.hexdigest()
    return Shard(name=path.name, count=count, bytes=size, sha256=sha256, offsets=offsets)


def _padded(size: int, unit: int = BLOCK) -> int:
    """``size`` rounded up to whole units."""
    return -(-size // unit) * unit


def _members(data: bytes) -> Iterator[tuple[str, memoryview]]:
    """Extension and content of the tar members that ``data`` consists of."""
    at = 0
    while at < len(data):
        header = tarfile.TarInfo.frombuf(data[at : at + BLOCK], "utf-8", "strict")
        at += BLOCK
        yield header.name.partition(".")[2], memoryview(data)[at : at + header.size]
        at += _padded(header.size)


def _read_index(path: Path) -> Index:
    """Read and check index.json."""
    data = _load(path)
    if (found := data.get("version")) != VERSION:
        raise DataError(f"{path}: format version {found}, this program reads {VERSION}")
    try:
        shards = [
            Shard(**{**shard, "offsets": tuple(shard["offsets"])}) for shard in data["shards"]
        ]
        data["shards"] = tuple(shards)
        data["crop"], data["volumes"] = tuple(data["crop"]), tuple(data["volumes"])
        data["voxel_size"] = data["voxel_size"] and tuple(data["voxel_size"])
        index = Index(**data)
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not an index of shards: {error}") from None
    if index.count != (total := sum(shard.count for shard in index.shards)):
        raise DataError(f"{path}: count is {index.count}, but its shards hold {total}")
    return index


def _load(path: Path) -> dict:
    """A JSON object from a file."""
    try:
        data = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not readable: {error}") from None
    if not isinstance(data, dict):
        raise DataError(f"{path} does not hold a JSON object")
    return data
