"""index.json of a shard folder: which tars there are, and where in them each sample lies."""

import json
import math
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenunify_scale.config import DataError

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

    ``channels`` stands there where it is not 1. ``volumes`` describes the sources; a sample's
    ``volume`` is a number into it. ``request`` is what was asked for: the same request finds its
    output finished, another one is refused.
    """

    version: int
    crop: tuple[int, int, int]
    count: int
    voxel_size: tuple[float, float, float] | None
    volumes: tuple[dict, ...]
    request: dict
    shards: tuple[Shard, ...]
    channels: int = 1

    @property
    def stored(self) -> tuple[int, int, int]:
        """The shape of the array of a sample: the channels of its crop, one after another in z."""
        depth, height, width = self.crop
        return self.channels * depth, height, width


def padded(size: int, unit: int = BLOCK) -> int:
    """``size`` rounded up to whole units."""
    return -(-size // unit) * unit


def read_index(path: Path) -> Index:
    """Read and check index.json.

    Raises:
        DataError: it is not readable, of another version, or contradicts itself.
    """
    return index_from(load(path), name=path)


def index_from(data: dict, *, name: object) -> Index:
    """The index that a JSON object describes; ``name`` says in errors where it was read.

    Raises:
        DataError: it is of another version, lacks something, or contradicts itself.
    """
    if (found := data.get("version")) != VERSION:
        raise DataError(f"{name}: format version {found}, this program reads {VERSION}")
    try:
        shards = [
            Shard(**{**shard, "offsets": tuple(shard["offsets"])}) for shard in data["shards"]
        ]
        lists = {key: tuple(data[key]) for key in ("crop", "volumes")}
        size = data["voxel_size"]
        size = None if size is None else tuple(size)
        index = Index(**{**data, **lists, "voxel_size": size, "shards": tuple(shards)})
    except (KeyError, TypeError) as error:
        raise DataError(f"{name} is not an index of shards: {error}") from None
    if (fault := _fault(index)) is not None:
        raise DataError(f"{name}: {fault}")
    return index


def _fault(index: Index) -> str | None:
    """The first thing in an index that cannot be."""
    if len(index.crop) != 3 or not all(_counts(side, least=1) for side in index.crop):
        return f"crop is {list(index.crop)}, not three sides in voxels"
    if not _counts(index.channels, least=1):
        return f"channels is {index.channels!r}, not a number of them"
    if (size := index.voxel_size) is not None and (
        len(size) != 3 or not all(isinstance(side, int | float) and side > 0 for side in size)
    ):
        return f"voxel_size is {list(size)}, not three sides in nm"
    seen: set[str] = set()
    for shard in index.shards:
        fault = _shard_fault(shard, voxels=math.prod(index.stored))
        if fault is None and shard.name in seen:
            fault = "is listed twice"
        if fault is not None:
            return f"{shard.name} {fault}"
        seen.add(shard.name)
    if index.count != (total := sum(shard.count for shard in index.shards)):
        return f"count is {index.count}, but its shards hold {total}"
    return None


def _shard_fault(shard: Shard, *, voxels: int) -> str | None:
    """What cannot be in the facts of one tar of crops, as the rest of a sentence about it."""
    # Names and digests become parts of paths and of URLs.
    if not isinstance(shard.name, str) or not re.fullmatch(r"\w[\w.+-]*\.tar", shard.name):
        return "is not the name of a tar in this folder"
    if not isinstance(shard.sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", shard.sha256):
        return f"has a sha256 of {shard.sha256!r}, not 64 hexadecimal digits"
    if not _counts(shard.count, least=1) or not _counts(shard.bytes, least=1):
        return f"has {shard.count!r} samples in {shard.bytes!r} bytes"
    offsets = shard.offsets
    if len(offsets) != shard.count + 1:
        return f"has {shard.count} samples, but {len(offsets)} offsets and not one more"
    if not all(_counts(offset, least=0) for offset in offsets) or offsets[-1] > shard.bytes:
        return f"has offsets beyond its {shard.bytes} bytes, the last is {offsets[-1]!r}"
    for sample, (start, stop) in enumerate(zip(offsets, offsets[1:], strict=False)):
        if stop - start < voxels:
            return f"has offsets {start}, {stop}: no room for {voxels} voxels, its sample {sample}"
    return None


def _counts(value: Any, *, least: int) -> bool:
    """Whether a value is a whole number that is large enough."""
    return type(value) is int and value >= least


def load(path: Path) -> dict:
    """A JSON object from a file."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} is not readable: {error.strerror}") from None
    return parse(text, name=path)


def parse(text: bytes, *, name: object) -> dict:
    """A JSON object from text; ``name`` says in errors where it was read."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise DataError(f"{name} is not readable: {error}") from None
    if not isinstance(data, dict):
        raise DataError(f"{name} does not hold a JSON object")
    return data
