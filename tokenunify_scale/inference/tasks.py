"""Cut a request into the columns that ranks predict one after another, within a memory budget."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tokenunify_scale.config import ConfigError
from tokenunify_scale.inference.lattice import Lattice
from tokenunify_scale.volumes.geometry import Box, Triple

CHUNK: Triple = (8, 128, 128)
"""Of what is written while predicting. Few sections, as all of a chunk's are held until the last
tile that touches them is done."""
FP32 = 4


@dataclass(frozen=True)
class Division:
    """A request cut into tasks."""

    tasks: list[Box]
    """In voxels of the volume; their sides are multiples of the chunk from the request's start."""

    tiles: int
    """Tiles that all of them compute; those at borders are computed on either side."""

    held: int
    """Bytes that one of them holds at most, the network's own left out."""


def divide(box: Box, lattice: Lattice, *, channels: int, budget: int, world: int) -> Division:
    """Cut a request so that each task fits the budget and ranks have equally much to do.

    A task is an in-plane block that is rolled along z. What is computed twice lies at the borders
    of tasks, so they are as large as the budget allows and the ranks permit.

    Args:
        box: the request, in voxels of the volume.
        lattice: its tiles.
        channels: of the prediction.
        budget: bytes that a task may hold beside the network.
        world: ranks; rank r takes tasks r, r + world, and so on.

    Raises:
        ConfigError: not even one chunk fits the budget; says what would.
    """
    best, least = None, math.inf
    # From the largest tasks down: of equal work, the fewest tasks.
    axes = [_cuts(box, axis, lattice) for axis in range(3)]
    for cuts in itertools.product(*axes):
        sides = tuple(cut.side for cut in cuts)
        held = held_by(sides, lattice, channels=channels)
        least = min(least, held)
        if held > budget:
            continue
        parts, tiles = (
            math.prod(getattr(cut, what) for cut in cuts) for what in ("parts", "tiles")
        )
        work = tiles / parts * -(-parts // world)  # of the rank that has most
        if best is None or work < best[0]:
            best = (work, sides, tiles, held)
    if best is None:
        needed = -(-int(least) // 2**20)
        raise ConfigError(
            f"memory_MiB {budget / 2**20:.3g} does not hold one column of chunks {CHUNK} under "
            f"tiles of {lattice.side}: at least {needed}"
        )
    _, sides, tiles, held = best
    spans = [list(_spans(box, axis, cut)) for axis, cut in enumerate(sides)]
    tasks = [
        Box((z0, y0, x0), (z1, y1, x1))
        for (z0, z1), (y0, y1), (x0, x1) in itertools.product(*spans)
    ]
    return Division(tasks, tiles, held)


def held_by(sides: Triple, lattice: Lattice, *, channels: int) -> int:
    """Bytes that predicting a task of these sides holds at most, the network's own left out.

    Sums and weights of the sections that tiles still touch, a block that is being written and two
    slabs of the volume.
    """
    depth, tile, margin = CHUNK[0], lattice.side, lattice.look.margin
    touched = (-(-tile[0] // depth) + 1) * depth  # whole blocks under one tile
    sections = min(touched, -(-sides[0] // depth) * depth) + depth
    plane = math.prod(map(min, sides[1:], lattice.shape[1:]))
    seen = tile[0] + 2 * margin[0]
    for axis in (1, 2):
        reach = min(sides[axis] + 2 * tile[axis], lattice.shape[axis])
        seen *= reach + 2 * margin[axis]
    return (channels + 1) * FP32 * sections * plane + 2 * seen


class _Cut(NamedTuple):
    """Parts of an axis."""

    side: int
    parts: int
    tiles: int
    """Of all parts together."""


def _cuts(box: Box, axis: int, lattice: Lattice) -> list[_Cut]:
    """How an axis may be cut: into 1, 2, ... parts of whole chunks, as equal as they can be."""
    chunks, found = -(-box.shape[axis] // CHUNK[axis]), {}
    for parts in range(1, chunks + 1):
        side = -(-chunks // parts) * CHUNK[axis]
        if side not in found:
            spans = _spans(box, axis, side)
            tiles = [len(lattice.starts(axis, start=a, stop=b)) for a, b in spans]
            found[side] = _Cut(side, len(tiles), sum(tiles))
    return list(found.values())


def _spans(box: Box, axis: int, side: int) -> Iterator[tuple[int, int]]:
    start, stop = box.start[axis], box.stop[axis]
    return ((first, min(first + side, stop)) for first in range(start, stop, side))
