"""Boxes that reach beyond what there is: what is missing is mirrored."""

from collections.abc import Callable

import numpy as np

from tokenunify_scale.volumes.geometry import Box, Triple


def grow(box: Box, by: Triple, *, end: Triple = (0, 0, 0)) -> Box:
    """A box with ``by`` voxels (z, y, x) more on either side, and ``end`` more at the end."""
    start = box.shift(tuple(-amount for amount in by)).start
    stop = box.shift(tuple(a + b for a, b in zip(by, end, strict=True))).stop
    return Box(start, stop)


def read_reflected(read: Callable[[Box], np.ndarray], box: Box, *, within: Box) -> np.ndarray:
    """Read a box; voxels outside ``within`` are those mirrored at its faces.

    Args:
        read: gives the array [D, H, W] of a box inside ``within``.
        box: what is wanted; some of it lies inside ``within``.
        within: where there is anything to read.

    Returns:
        An array of the box's shape.

    Raises:
        ValueError: no voxel of the box lies inside ``within``.
    """
    there = box.intersect(within)
    if 0 in there.shape:
        raise ValueError(f"{box} has no voxel in {within}")
    amounts = [
        (inner - outer, stop - last)
        for inner, outer, stop, last in zip(
            there.start, box.start, box.stop, there.stop, strict=True
        )
    ]
    array = read(there)
    return np.pad(array, amounts, mode="reflect") if np.any(amounts) else array
