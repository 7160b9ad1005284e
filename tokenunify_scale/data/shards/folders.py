"""Shard folders for a stream: all open, with crops of one kind, and room for what is elsewhere."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.shards.cache import Cache
from tokenunify_scale.data.shards.reader import ShardSet, open_shards
from tokenunify_scale.volumes import store
from tokenunify_scale.volumes.geometry import Box, Triple

GB = 10**9


def open_folders(
    folders: Sequence[str | Path],
    *,
    damaged: Literal["stop", "skip"],
    window: int,
    cache: Path | None,
    cache_bytes: int,
) -> tuple[list[ShardSet], int]:
    """Open folders that ``prepare`` wrote, those that are elsewhere through one cache.

    Args:
        folders: paths, or URLs.
        damaged: as in ``open_shards``.
        window: shards of each folder that are read at the same time.
        cache: folder for the shards of a URL.
        cache_bytes: the most that the cache may hold.

    Returns:
        The folders, and for how many shards beyond each window the cache has room; 0 if all
        folders are on this machine.

    Raises:
        DataError: a folder is missing, damaged or empty.
        ConfigError: no folder; a URL without a cache; no room for a window and the next shard.
    """
    if not folders:
        raise ConfigError("no shard folder to read from")
    remote = [store.is_remote(str(folder)) for folder in folders]
    if not any(remote):
        return [_open(folder, damaged=damaged) for folder in folders], 0
    if cache is None:
        url = folders[remote.index(True)]
        raise ConfigError(f"{url} is not on this machine: name a cache folder for its shards")
    shared = Cache(cache, limit=cache_bytes)
    sets = [
        _open(folder, damaged=damaged, cache=shared if far else None)
        for folder, far in zip(folders, remote, strict=True)
    ]
    totals = []
    for shards in (shards for shards, far in zip(sets, remote, strict=True) if far):
        sizes = sorted((shard.bytes for shard in shards.index.shards), reverse=True)
        totals.append(list(accumulate(sizes)))
    for ahead in range(min(window, max(map(len, totals))), 0, -1):
        needed = sum(total[: window + ahead][-1] for total in totals)
        if needed <= cache_bytes:
            return sets, ahead
    raise ConfigError(
        f"windows of {window} shards and the next shard need {needed / GB:.3g} GB, for "
        f"{len(totals)} folders that are not on this machine; the cache may hold "
        f"{cache_bytes / GB:.3g} GB"
    )


def _open(
    folder: str | Path, *, damaged: Literal["stop", "skip"], cache: Cache | None = None
) -> ShardSet:
    """One folder, with something in it."""
    shards = open_shards(folder, damaged=damaged, cache=cache)
    if len(shards) == 0:
        raise DataError(f"{shards.folder} holds no samples")
    return shards


def common_channels(sets: Sequence[ShardSet]) -> int:
    """The number of channels that the crops of all folders have.

    Raises:
        ConfigError: they differ.
    """
    channels = sets[0].index.channels
    for shards in sets:
        if (other := shards.index.channels) != channels:
            raise ConfigError(
                f"{shards.folder} stores crops of {other} channels, {sets[0].folder} of "
                f"{channels}: a stream has one kind of them"
            )
    return channels


def common_crop(sets: Sequence[ShardSet], *, crop: Triple | None) -> Triple:
    """The size (z, y, x) of crops that all folders can give: ``crop``, or what they all store.

    Raises:
        ConfigError: ``crop`` does not fit into the stored ones, or is None and these differ.
    """
    taken = tuple(crop or sets[0].index.crop)
    for shards in sets:
        stored = shards.index.crop
        if not Box.of(stored).contains(Box.of(taken)):
            raise ConfigError(f"crop {taken} does not fit {stored}, as {shards.folder} has")
        if crop is None and stored != taken:
            raise ConfigError(
                f"{shards.folder} stores crops of {stored}, {sets[0].folder} of "
                f"{taken}: say which crop to take"
            )
    return taken
