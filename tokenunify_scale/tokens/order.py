"""Paths through the patch grid: the order pi in which a sequence objective visits the patches."""

import math
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import permutations, product
from typing import Literal, get_args

import numpy as np
import torch
from torch import Generator, Tensor

from tokenunify_scale.config import ConfigError

Size3 = tuple[int, int, int]
Corner = tuple[bool, bool, bool]  # of a box: which axes (z, y, x) are at their far end
Path = Literal["raster", "snake", "hilbert", "random", "relevance"]
CORNERS: tuple[Corner, ...] = tuple(sorted(product((False, True), repeat=3), key=sum))


def visiting_order(
    grid: Size3,
    *,
    path: Path = "raster",
    generator: Generator | None = None,
    scores: Tensor | None = None,
) -> Tensor:
    """Raster indices of the patches in visiting order.

    Args:
        grid: number of patches along (z, y, x).
        path: ``raster`` visits rows of x, then y, then z; ``snake`` turns round at the end of each
            row and section; ``hilbert`` halves the longer axes and finishes each part before it
            enters the next, at every scale. Successive patches of these two touch in any grid.
            ``random`` is a new permutation each time; ``relevance`` falls with the scores.
        generator: what ``random`` draws from, on the CPU.
        scores: [K], what ``relevance`` ranks by, highest first; ties in raster order.

    Returns:
        int64 [K] on the CPU, a permutation of 0..K-1.

    Raises:
        ConfigError: an unknown path, or one without the generator or the K scores that it needs.

    Source: Eq. 4, the path pi.
    """
    count = math.prod(grid)
    if path == "random" and generator is not None:
        return torch.randperm(count, generator=generator)
    if path == "relevance" and scores is not None and scores.shape == (count,):
        return scores.detach().cpu().argsort(descending=True, stable=True)
    if path in FIXED:
        return torch.from_numpy(FIXED[path](tuple(grid)).copy())
    if path in get_args(Path):
        given = "no scores" if scores is None else f"scores {list(scores.shape)}"
        needs = f"{count} scores, got {given}" if path == "relevance" else "a generator"
        raise ConfigError(f"path {path!r} of grid {tuple(grid)} needs {needs}")
    raise ConfigError(f"path {path!r} is not one of {', '.join(get_args(Path))}")


def _raster(grid: Size3) -> np.ndarray:
    return np.arange(math.prod(grid))


def _snake(grid: Size3) -> np.ndarray:
    indices = _raster(grid).reshape(grid)
    indices[1::2] = indices[1::2, ::-1].copy()
    rows = indices.reshape(-1, grid[2])
    rows[1::2] = rows[1::2, ::-1].copy()
    return rows.reshape(-1)


@lru_cache(maxsize=64)
def _hilbert(grid: Size3) -> np.ndarray:
    """A curve that leaves the grid at the other end of its longest axis, where one can."""
    sides = sorted(range(3), key=lambda axis: (grid[axis], axis), reverse=True)
    ranked = sorted(CORNERS, key=lambda end: (sum(end), [not end[axis] for axis in sides]))
    # One is always found: cutting off a section and a row at a time is the snake.
    curves = (_curve(grid, end) for end in ranked)
    found = next(curve for curve in curves if curve is not None)
    _curve.cache_clear()
    return np.ravel_multi_index(tuple(found.T), grid)


@cache
def _curve(sides: Size3, end: Corner) -> np.ndarray | None:
    """A path through all cells of a box, from its near corner to ``end``, by steps of one cell.

    The box is cut into halves along its longer axes, the parts are visited as a Gray code visits
    the corners of a cube, and each is entered and left at one of its corners; in a cube whose side
    is a power of two that is Hilbert's curve. Where the parity of the sides forbids a cut, the next
    is tried.

    Returns:
        int64 [N, 3], cells (z, y, x); None where no such path is found.

    Source: Hilbert 1891; cutting and turning by search are ours.
    """
    count = math.prod(sides)
    # Neighbours differ in the parity of z + y + x, so the parity of the last cell is known.
    parity = sum(side - 1 for side, far in zip(sides, end, strict=True) if far)
    flat = any(far and side == 1 for side, far in zip(sides, end, strict=True))
    if flat or parity % 2 != (count - 1) % 2 or (count > 1 and not any(end)):
        return None
    if max(sides) == count:  # a line, or one cell
        return np.arange(count)[:, None] * np.array(end, dtype=np.int64)
    for cuts, blocks in _divisions(sides, end):
        found = _thread(sides, end, cuts=cuts, blocks=blocks)
        if found is not None:
            return found
    return None


def _divisions(sides: Size3, end: Corner) -> Iterator[tuple[Size3, list[Corner]]]:
    """Ways to cut a box and to visit the parts, best first: (cells before each cut, parts).

    An axis that stays whole is cut at its length.
    """
    long = [2 * side > max(sides) for side in sides]
    wide = tuple(side > 1 for side in sides)
    chosen = [axes for axes in CORNERS if all(map(bool.__ge__, wide, axes))]
    chosen.sort(key=lambda axes: sum(a != b for a, b in zip(axes, long, strict=True)))
    for axes in chosen:
        last = tuple(a and far for a, far in zip(axes, end, strict=True))
        tours = list(_tours(axes, last))
        if tours:
            places = [_halves(side) if a else [side] for side, a in zip(sides, axes, strict=True)]
            yield from product(product(*places), tours)


def _halves(side: int) -> list[int]:
    """Where to cut a side: near the middle, and last after a single cell."""
    half = side // 2
    near = (half, side - half, half + 1, half - 1, 1)
    return [cut for cut in dict.fromkeys(near) if 0 < cut < side]


@cache
def _tours(axes: Corner, last: Corner) -> tuple[list[Corner], ...]:
    """Orders of the parts of a box cut along ``axes``, each a neighbour of the one before."""
    parts = [part for part in CORNERS if all(map(bool.__ge__, axes, part))]
    inner = [part for part in parts if any(part) and part != last]
    if len(parts) < 2 or not any(last):
        return ()
    tours = ([CORNERS[0], *order, last] for order in permutations(inner))
    return tuple(
        tour
        for tour in tours
        if all(sum(map(bool.__xor__, a, b)) == 1 for a, b in zip(tour, tour[1:], strict=False))
    )


def _thread(sides: Size3, end: Corner, *, cuts: Size3, blocks: list[Corner]) -> np.ndarray | None:
    """Join paths through the blocks to one through the box; None if their corners never meet."""

    def follow(index: int, entrance: Corner) -> list[np.ndarray] | None:
        block, last = blocks[index], index + 1 == len(blocks)
        inner = tuple(s - c if far else c for s, c, far in zip(sides, cuts, block, strict=True))
        goal = end if last else blocks[index + 1]
        bound = [last or g != far for g, far in zip(goal, block, strict=True)]
        for turn in CORNERS:
            leave = tuple(map(bool.__xor__, entrance, turn))
            # A side of one cell has both its ends in one place.
            near = (o == g or s == 1 for o, g, s in zip(leave, goal, inner, strict=True))
            if not all(n or not b for n, b in zip(near, bound, strict=True)):
                continue
            cells = _curve(inner, turn)
            if cells is None:
                continue
            enter = tuple(not g if b else o for o, g, b in zip(leave, goal, bound, strict=True))
            rest = [] if last else follow(index + 1, enter)
            if rest is not None:
                mirrored = np.where(entrance, np.array(inner) - 1 - cells, cells)
                return [mirrored + np.where(block, cuts, 0), *rest]
        return None

    parts = follow(0, CORNERS[0])
    return None if parts is None else np.concatenate(parts)


FIXED = {"raster": _raster, "snake": _snake, "hilbert": _hilbert}
