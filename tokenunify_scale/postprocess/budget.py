"""Whether a volume is segmented at once or in blocks, and how large these may be."""

import functools
import math
import resource
from dataclasses import dataclass
from pathlib import Path

from tokenunify_scale.config import ConfigError
from tokenunify_scale.train.host import read_memory
from tokenunify_scale.volumes.geometry import Triple

MIB = 1 << 20
CHUNK: Triple = (16, 128, 128)
"""Of the stores that blocks are written to, and of the files that affinities are read from."""
FLOAT, ID = 4, 8
FINISH = 40
"""Bytes a voxel to renumber, and to find the nearest segment of a speck. Measured."""
REPAIR, REPAIRED = 180, 1 << 21
"""Bytes a voxel to overrule affinities that contradict others, and voxels at once. Measured."""
READING = 16 * MIB
"""Chunks that are decoded while a block is read. Measured."""
WORKER = 300 * MIB
"""Of a worker process, without voxels: interpreter and libraries. Measured."""
UNKNOWN = 4096 * MIB
"""Taken to be available where the system does not tell."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a voxel costs."""

    channels: int
    method: int
    """Bytes a voxel of the method, beyond its affinities."""
    results: int = 1
    """Segmentations at once, one a threshold."""

    def of(self, voxels: int) -> int:
        """Bytes at the peak: while the method runs, or when its results are finished."""
        running = (2 * FLOAT * self.channels + self.method) * voxels
        running += REPAIR * min(voxels, REPAIRED) + READING
        return max(running, (ID * (self.results + 1) + FINISH) * voxels)


@dataclass(frozen=True)
class Cut:
    """How a volume is cut."""

    block: Triple | None
    """Sides (z, y, x) of a block; None: the whole volume in memory."""
    count: int
    """Blocks; 1 for the whole."""
    memory: int
    """Estimated peak in bytes, of all workers together, without the graph of fragments."""


def cut(
    shape: Triple,
    *,
    need: Need,
    limit: int,
    block: Triple | None = None,
    halo: Triple = (0, 0, 0),
    workers: int = 1,
) -> Cut:
    """The whole volume if it fits and one process works, else the largest blocks that fit.

    Args:
        shape: of the volume (z, y, x).
        need: of a voxel.
        limit: bytes of memory.
        block: what the user wants; a side above ``CHUNK``'s is a multiple of it.
        halo: voxels read beyond a block on either side.
        workers: processes that have a block in memory each.

    Raises:
        ConfigError: a block that does not suit the chunks, or a limit below the smallest block.
    """
    whole = need.of(math.prod(shape))
    if block is None and workers == 1 and whole <= limit:
        return Cut(None, 1, whole)
    price = functools.partial(_priced, shape, need=need, halo=halo, workers=workers)
    if block is not None:
        chunk_of(block)
        return price(block)
    found = price(_least(CHUNK, shape))
    if found.memory > limit:
        raise ConfigError(
            f"blocks of {'x'.join(map(str, found.block))} with a halo of {halo} need "
            f"{found.memory // MIB + 1} MiB for {workers} workers and memory_MiB is "
            f"{limit // MIB}: raise it, or give fewer workers, a smaller halo or --block"
        )
    while True:
        grown = [price(side) for side in _doubled(found.block, shape)]
        grown = [each for each in grown if each.memory <= limit and each.count >= workers]
        if not grown:
            return found
        # What is read twice decides: the halo's share of a block.
        found = min(grown, key=lambda each: _read(each.block, halo, shape) / math.prod(each.block))


def chunk_of(block: Triple) -> Triple:
    """The chunks of a store whose blocks are whole chunks.

    Raises:
        ConfigError: a side is longer than a chunk's and no multiple of it.
    """
    for axis, side, chunk in zip("zyx", block, CHUNK, strict=True):
        if side < 1 or (side > chunk and side % chunk):
            nearest = max(chunk, round(side / chunk) * chunk)
            raise ConfigError(
                f"block side {axis} is {side} voxels; above {chunk} it is a multiple of {chunk}: "
                f"{nearest} is the nearest"
            )
    return _least(block, CHUNK)


def available() -> int:
    """Bytes that this process may still take: of the machine, its container and its own limit."""
    known = [read_memory()["available"] or UNKNOWN]
    group = Path("/sys/fs/cgroup")
    try:
        most = (group / "memory.max").read_text().strip()
        if most != "max":
            known.append(int(most) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no such limit here
    own, _ = resource.getrlimit(resource.RLIMIT_AS)
    if own != resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        known.append(own - pages * resource.getpagesize())
    return max(min(known), 0)


def _priced(shape: Triple, block: Triple, *, need: Need, halo: Triple, workers: int) -> Cut:
    count = math.prod(math.ceil(a / b) for a, b in zip(shape, block, strict=True))
    busy = min(workers, count)
    voxels = need.of(_read(block, halo, shape))
    return Cut(block, count, busy * (voxels + (WORKER if busy > 1 else 0)))


def _read(block: Triple, halo: Triple, shape: Triple) -> int:
    """Voxels that the largest block reads."""
    return math.prod(min(b + 2 * h, s) for b, h, s in zip(block, halo, shape, strict=True))


def _doubled(block: Triple, shape: Triple) -> list[Triple]:
    """The block with one side twice as long, where the volume goes on."""
    found = []
    for axis, (side, size) in enumerate(zip(block, shape, strict=True)):
        if side < size:
            found.append((*block[:axis], side * 2, *block[axis + 1 :]))
    return found


def _least(one: Triple, other: Triple) -> Triple:
    z, y, x = map(min, one, other)
    return z, y, x
