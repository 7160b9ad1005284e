"""Write shards: WebDataset tars of crops, the same bytes each time, whole or absent."""

import io
import json
import math
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.shards.index import (
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
from tokenunify_scale.data.shards.reader import open_shards
from tokenunify_scale.data.shards.target import disk_errors
from tokenunify_scale.data.team import Team
from tokenunify_scale.train.runlog import write_atomically
from tokenunify_scale.train.sealed import file_sha256


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
    except DataError:
        return None


def write_shards(
    samples: Sequence[Sample],
    out: str | Path,
    *,
    per_shard: int,
    index: dict,
    team: Team | None = None,
) -> Index:
    """Write samples as tars of ``per_shard``, then index.json; keeps the tars that are finished.

    The bytes depend on the samples only, not on how many processes write them. A tar appears under
    its name when it is whole, and index.json when all are; so a killed run is continued by calling
    this again. One job at a time: see ``target.writing_to``.

    Args:
        samples: ``samples[i]`` gives a uint8 crop [C*D, H, W] and a JSON-able meta dict; it is
            not asked for samples whose tar is finished.
        out: the folder; other files in it are left alone.
        per_shard: samples a tar.
        index: crop, voxel_size, volumes and request of ``Index``, and channels if it is not 1; the
            request as plain JSON data, lists and not tuples. Where metas say how many places were
            ``tried``, each volume gets the sum of its own.
        team: the processes that write; all of them call this. None: this one alone.

    Raises:
        ConfigError: the folder belongs to another request.
        HostError: the disk is full, or not writable.
    """
    out, team = Path(out), team or Team()
    names = [f"shard-{n:06d}.tar" for n in range(-(-len(samples) // per_shard))]
    parts = [range(len(samples))[n * per_shard : (n + 1) * per_shard] for n in range(len(names))]
    request = index["request"]
    if (done := team.ask(lambda: finished(out, request=request))) is not None:
        return done
    known = team.ask(lambda: _begin(out, index))

    def keep(shard: int) -> tuple[Shard, Counter] | None:
        with disk_errors(out):
            found = _describe(out / names[shard], count=len(parts[shard]))
        if found is not None:
            team.done()
        changed = found is not None and found[0].sha256 != known.get(names[shard], found[0].sha256)
        return None if changed else found

    def write(shard: int) -> tuple[Shard, Counter]:
        with disk_errors(out):
            _write_tar(out / names[shard], _each(samples, parts[shard], team))
            return _describe(out / names[shard], count=len(parts[shard]))

    there = team.ask(lambda: sum((out / name).exists() for name in names))
    with team.progress(there, description="checking what is there", unit="shard"):
        kept = team.deal(range(len(names)), keep)
    missing = [shard for shard, facts in enumerate(kept) if facts is None]
    total = sum(len(parts[shard]) for shard in missing)
    with team.progress(total, description="shards", unit="crop"):
        for shard, facts in zip(missing, team.deal(missing, write), strict=True):
            kept[shard] = facts
    return team.ask(lambda: _finish(out, index, kept=kept))


def _begin(out: Path, index: dict) -> dict[str, str]:
    """Mark a folder as begun; what is known of its tars from before, name to sha256."""
    if (out / INDEX).exists():
        try:
            open_shards(out)
        except DataError as error:
            print(f"{error}; what does not match is written again", flush=True)
    held = next((load(out / name) for name in (INDEX, PARTIAL) if (out / name).exists()), {})
    try:
        known = {shard["name"]: shard["sha256"] for shard in held.get("shards", [])}
    except (KeyError, TypeError):
        known = {}
    shards = [{"name": name, "sha256": sha256} for name, sha256 in known.items()]
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for rest in out.glob(".index.*.tmp"):
            rest.unlink()  # of a process that was killed
        _write_json(out / PARTIAL, {**index, "shards": shards})
        (out / INDEX).unlink(missing_ok=True)
    return known


def _finish(out: Path, index: dict, *, kept: Sequence[tuple[Shard, Counter]]) -> Index:
    """Write index.json."""
    tried = sum((counter for _, counter in kept), Counter())
    volumes = [
        {**volume, **({"tried": tried[number]} if number in tried else {})}
        for number, volume in enumerate(index["volumes"])
    ]
    shards = [asdict(shard) for shard, _ in kept]
    count = sum(shard.count for shard, _ in kept)
    whole = {"version": VERSION, "count": count, **index, "volumes": volumes, "shards": shards}
    with disk_errors(out):
        _write_json(out / PARTIAL, whole)
        (out / PARTIAL).replace(out / INDEX)
    return read_index(out / INDEX)


def _each(samples: Sequence[Sample], numbers: Iterable[int], team: Team) -> Iterator:
    """Numbered samples, each counted as done when the next one is asked for."""
    for number in numbers:
        yield number, samples[number]
        team.done()


def _write_json(path: Path, data: dict) -> None:
    write_atomically(path, json.dumps(data, indent=1) + "\n")


def shard_bytes(count: int, *, crop: tuple[int, int, int]) -> int:
    """Size of a tar of ``count`` samples: two headers, a short json and the npy each."""
    sample = 3 * BLOCK + padded(128 + math.prod(crop))
    return padded(count * sample + 2 * BLOCK, tarfile.RECORDSIZE)


def plan_shards(
    samples: int, *, per_shard: int, crop: tuple[int, int, int]
) -> list[tuple[str, int]]:
    """Name and bytes of each tar that so many samples become; ``crop`` as it is stored."""
    counts = [min(per_shard, samples - first) for first in range(0, samples, per_shard)]
    return [(f"shard-{n:06d}.tar", shard_bytes(count, crop=crop)) for n, count in enumerate(counts)]


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


def _describe(path: Path, *, count: int) -> tuple[Shard, Counter] | None:
    """Facts of a finished tar, and the places tried for it by volume.

    None if it is absent or does not hold ``count`` whole samples.
    """
    if not path.is_file():
        return None
    size = path.stat().st_size
    tried: Counter = Counter()
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
            for member in members[::2]:
                meta = json.loads(tar.extractfile(member).read())
                if "tried" in meta:
                    tried[meta["volume"]] += meta["tried"]
    except (tarfile.TarError, AttributeError, ValueError, TypeError):
        return None
    end = members[-1].offset_data + padded(members[-1].size) if members else 0
    # A tar ends with two empty blocks, filled up to a whole record.
    if len(members) != 2 * count or size != padded(end + 2 * BLOCK, tarfile.RECORDSIZE):
        return None
    sha256 = file_sha256(path)
    offsets = (*(member.offset for member in members[::2]), end)
    return Shard(name=path.name, count=count, bytes=size, sha256=sha256, offsets=offsets), tried
