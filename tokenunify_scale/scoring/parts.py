"""Walk through a volume in blocks that fit into memory, or thin it until it does."""

import math
from collections.abc import Callable, Iterable

import numpy as np

from tokenunify_scale.volumes.geometry import Box, Triple

CHUNK = (16, 128, 128)  # of our HDF5 files
DEEP = 64  # sections of the deepest common chunks


def parts_of(box: Box, *, origin: Triple, voxels: int, chunk: Triple = CHUNK) -> list[Box]:
    """Cut a box into parts that cover it once, in raster order.

    Parts are whole sections where enough of them fit, since images are read by sections, and
    begin where chunks do; else bands, else tiles, one chunk deep.

    Args:
        box: what to cover, in source voxels.
        origin: source voxel where the arrays, and so their chunks, begin.
        voxels: most voxels of a part; a tile of one chunk is the least.
        chunk: (z, y, x) voxels that are stored together, where that is known.
    """
    depth, height, width = box.shape
    z, y, x = chunk
    if min(z, depth) * height * width <= voxels:
        deep = DEEP if DEEP % z == 0 and voxels >= DEEP * height * width else z
        z = max(voxels // (height * width) // deep, 1) * deep
        y, x = height, width
    elif z * y * width <= voxels:
        y, x = voxels // (z * width) // y * y, width
    else:
        x = max(voxels // (z * y) // x, 1) * x
    sides, found = (z, y, x), []
    spans = [
        [*range(start - (start - first) % side if side < stop - start else start, stop, side)]
        for start, stop, first, side in zip(box.start, box.stop, origin, sides, strict=True)
    ]
    for start in ((a, b, c) for a in spans[0] for b in spans[1] for c in spans[2]):
        found.append(Box.of(sides).shift(start).intersect(box))
    return found


def thin(
    read: Callable[[Box], np.ndarray],
    box: Box,
    *,
    steps: Triple,
    parts: Iterable[Box],
) -> np.ndarray:
    """Every so many voxels of a box, which itself need not fit into memory.

    Args:
        read: gives the voxels [..., D, H, W] of a box.
        box: in source voxels; its first voxel is kept.
        steps: (z, y, x), of which one voxel is kept.
        parts: boxes that cover it once and are read one at a time.

    Returns:
        [..., ceil(D / z), ceil(H / y), ceil(W / x)].
    """
    out = None
    for part in parts:
        values = read(part)
        if out is None:
            shape = [-(-side // step) for side, step in zip(box.shape, steps, strict=True)]
            out = np.empty((*values.shape[:-3], *shape), values.dtype)
        here, there = [], []
        for a, b, first, step in zip(part.start, part.stop, box.start, steps, strict=True):
            skip = (first - a) % step
            place = -(-(a - first) // step)
            here.append(slice(skip, None, step))
            there.append(slice(place, place + len(range(a + skip, b, step))))
        out[(..., *there)] = values[(..., *here)]
    return out


def steps_for(
    shape: Triple, *, voxel_size: tuple[float, float, float] | None, voxels: int
) -> Triple:
    """The steps that thin a shape to at most so many voxels, as near to cubes as they get."""
    steps, size = [1, 1, 1], list(voxel_size or (1.0, 1.0, 1.0))
    while math.prod(-(-side // step) for side, step in zip(shape, steps, strict=True)) > voxels:
        axis = min(range(3), key=lambda i: (size[i] * steps[i], -i))
        steps[axis] += 1
    z, y, x = steps
    return z, y, x
