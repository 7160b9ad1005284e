"""index.json of a shard folder: which tars there are, and where in them each sample lies."""

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

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


def padded(size: int, unit: int = BLOCK) -> int:
    """``size`` rounded up to whole units."""
    return -(-size // unit) * unit


def read_index(path: Path) -> Index:
    """Read and check index.json."""
    data = load(path)
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


def load(path: Path) -> dict:
    """A JSON object from a file."""
    try:
        data = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not readable: {error}") from None
    if not isinstance(data, dict):
        raise DataError(f"{path} does not hold a JSON object")
    return data
