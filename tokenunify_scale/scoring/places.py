"""Where mistakes are: for each pair of ids a voxel in the thick of their overlap."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from tokenunify_scale.metrics import kernels
from tokenunify_scale.metrics.tables import as_uint64
from tokenunify_scale.scoring.inputs import Inputs
from tokenunify_scale.volumes.geometry import Box, Triple


def places_of(
    pairs: Sequence[tuple[int, int]], inputs: Inputs, *, parts: Iterable[Box]
) -> list[Triple]:
    """A voxel of each overlap, at the middle of its widest cross-section.

    That is the voxel farthest, in its section, from any that is not of the overlap, so that who
    goes there sees the mistake around it. One pass over the volumes; memory does not grow.

    Args:
        pairs: (segment, object), each of which shares a voxel in ``parts``.
        inputs: the volumes.
        parts: boxes that cover what was scored, at least once.

    Returns:
        Source voxels (z, y, x), one a pair.
    """
    unique = sorted(set(pairs))
    table = _table(unique, (inputs.segmentation.dtype, inputs.labels.dtype))
    depth, found = np.zeros(len(unique)), [(0, 0, 0)] * len(unique)
    spacing = (inputs.voxel_size or (1.0, 1.0, 1.0))[1:]
    for part in parts:
        numbers = _numbers(inputs, part, table)
        for z in np.flatnonzero(numbers.any(axis=(1, 2))):
            for number, box in enumerate(ndimage.find_objects(numbers[z])):
                if box is None:
                    continue
                inside = numbers[z][box] == number + 1
                if _reach(inside, spacing) <= depth[number]:
                    continue
                far = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing)
                far = far[1:-1, 1:-1]
                if far.max() > depth[number]:
                    depth[number] = far.max()
                    y, x = _middle(np.argwhere(far == depth[number]))
                    y, x = part.start[1] + box[0].start + y, part.start[2] + box[1].start + x
                    found[number] = (part.start[0] + int(z), y, x)
    order = {pair: place for pair, place in zip(unique, found, strict=True)}
    return [order[pair] for pair in pairs]


def _table(
    pairs: Sequence[tuple[int, int]], dtypes: tuple[np.dtype, np.dtype]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs in a hash table, numbered from 1."""
    places = 1 << max(4, (4 * len(pairs)).bit_length())
    columns = [
        as_uint64(np.array([pair[side] for pair in pairs], dtype=dtypes[side])) for side in (0, 1)
    ]
    left, right = np.zeros((2, places), dtype=np.uint64)
    numbers = np.zeros(places, dtype=np.int64)
    kernels.insert()(*columns, np.arange(1, len(pairs) + 1), left, right, numbers)
    return left, right, numbers


def _numbers(
    inputs: Inputs, part: Box, table: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """Of each voxel the number of its pair, or 0; int32 [D, H, W]."""
    numbers = np.empty(part.shape, dtype=np.int32)
    ids = inputs.read_segmentation(part), inputs.read_labels(part)
    for z in range(len(numbers)):
        first, second = (as_uint64(volume[z]).reshape(-1) for volume in ids)
        kernels.find()(first, second, *table, numbers[z].reshape(-1))
    return numbers


def _middle(points: np.ndarray) -> tuple[int, int]:
    """Of voxels [N, 2] the one nearest to the middle of all."""
    y, x = points[np.argmin(((points - points.mean(axis=0)) ** 2).sum(axis=1))]
    return int(y), int(x)


def _reach(inside: np.ndarray, spacing: tuple[float, float]) -> float:
    """What no distance within a region can exceed, by its sides and its area."""
    sides = [(side + 1) // 2 * step for side, step in zip(inside.shape, spacing, strict=True)]
    disc = math.sqrt(np.count_nonzero(inside) * math.prod(spacing) / math.pi)
    return min(disc + math.hypot(*spacing), *sides)
