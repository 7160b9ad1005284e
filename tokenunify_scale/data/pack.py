"""Write shards: WebDataset tars of crops, the same bytes each time, whole or absent."""

import hashlib
import io
import json
import math
import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import numpy as np

from tokenunify_scale.config import ConfigError, DataError, HostError
from tokenunify_scale.data.index import (
    BLOCK,
    INDEX,
    PARTIAL,
    VERSION,
    Index,
    Sample,
    Shard,
    load,
    padded,
    read_index,
)
from tokenunify_scale.data.shards import open_shards
from tokenunify_scale.train.runlog import track, write_atomically


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
        held = load(path).get("request") or {}
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
    return read_index(out / INDEX)


def shard_bytes(count: int, *, crop: tuple[int, int, int]) -> int:
    """Size of a tar of ``count`` samples: two headers, a short json and the npy each."""
    sample = 3 * BLOCK + padded(128 + math.prod(crop))
    return padded(count * sample + 2 * BLOCK, tarfile.RECORDSIZE)


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
    end = members[-1].offset_data + padded(members[-1].size) if members else 0
    # A tar ends with two empty blocks, filled up to a whole record.
    if len(members) != 2 * count or size != padded(end + 2 * BLOCK, tarfile.RECORDSIZE):
        return None
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    offsets = (*(member.offset for member in members[::2]), end)
    sha256 = digest.hexdigest()
    return Shard(name=path.name, count=count, bytes=size, sha256=sha256, offsets=offsets)
