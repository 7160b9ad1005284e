"""Affinities from labels: which neighbouring voxels belong to the same object."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from tokenunify_scale.volumes.geometry import edges

Offset = tuple[int, int, int]

NEAREST: tuple[Offset, ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def _along_axes(*shifts: Offset) -> tuple[Offset, ...]:
    """Three offsets a shift, one along each axis."""
    return tuple(edge for z, y, x in shifts for edge in ((z, 0, 0), (0, y, 0), (0, 0, x)))


NEIGHBOURHOODS: Mapping[str, tuple[Offset, ...]] = MappingProxyType(
    {
        "nearest": NEAREST,
        "long_range": _along_axes((1, 1, 1), (2, 3, 3), (3, 9, 9), (4, 27, 27)),
        "long_range_isotropic": _along_axes((1, 1, 1), (3, 3, 3), (9, 9, 9), (27, 27, 27)),
    }
)
"""Offsets by name; each set begins with ``NEAREST``. ``long_range`` is for sections thicker than
voxels are wide (source: Lee et al. 2017, "Superhuman accuracy on the SNEMI3D connectomics
challenge": z 2, 3, 4 and y, x 3, 9, 27 beside the nearest); ``long_range_isotropic`` reaches as
far along z as in the plane, our choice for voxels as high as wide."""


def check_offsets(offsets: Sequence[Offset]) -> None:
    """Refuse offsets that no part of this project would understand.

    Raises:
        ValueError: they do not begin with ``NEAREST``, or one is 0 or stands twice.
    """
    if tuple(offsets[: len(NEAREST)]) != NEAREST:
        raise ValueError(
            f"offsets begin with {', '.join(map(str, offsets[:3])) or 'nothing'}: the first three "
            f"must be {', '.join(map(str, NEAREST))} (z, y, x), others follow"
        )
    seen: set[Offset] = {(0, 0, 0)}
    for offset in offsets:
        if offset in seen or tuple(-step for step in offset) in seen:
            why = "is no edge" if not any(offset) else "is the same edges as one before it"
            raise ValueError(f"offset {offset} {why}")
        seen.add(offset)


def affinities_from_labels(
    labels: Tensor, offsets: Sequence[Offset] = NEAREST
) -> tuple[Tensor, Tensor]:
    """Affinity of each edge (p, p - offset), and the mask of the edges that exist.

    Channel ``c`` at voxel ``p`` is 1 where ``labels[p]`` and ``labels[p - offsets[c]]`` are equal
    and not 0 (0 is background). Where ``p - offsets[c]`` lies outside, affinity and mask are 0.

    Args:
        labels: [D, H, W] or [B, D, H, W], any integer type.
        offsets: zyx voxel offsets, one a channel; may be negative or long.

    Returns:
        Two float32 tensors, [C, D, H, W] or [B, C, D, H, W]: affinities, and mask in {0, 1}.

    Raises:
        ValueError: ``labels`` is neither 3-D nor 4-D, or not of an integer type.
    """
    if labels.ndim not in (3, 4) or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"labels must be integers [D, H, W] or [B, D, H, W], "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    *batch, d, h, w = labels.shape
    shape = (*batch, len(offsets), d, h, w)
    affinities = torch.zeros(shape, dtype=torch.float32, device=labels.device)
    mask = torch.zeros_like(affinities)
    for channel, offset in enumerate(offsets):
        here, there = edges(offset, sides=(d, h, w))
        voxel, partner = labels[(..., *here)], labels[(..., *there)]
        affinities[(..., channel, *here)] = ((voxel == partner) & (voxel != 0)).float()
        mask[(..., channel, *here)] = 1
    return affinities, mask


def widen_borders(labels: Tensor, *, voxels: int) -> Tensor:
    """Labels with background between objects that touch within a section.

    The affinity of a gapless boundary is a sheet one voxel thin, which a network blurs away;
    widened, it is as thick as a membrane looks.

    Args:
        labels: [..., H, W], any integer type; 0 is background.
        voxels: how far in the plane the background reaches into each of two objects.

    Returns:
        A copy, 0 where another object lies within ``voxels`` steps along y or x. Gaps that are
        there already do not grow.
    """
    widened = labels.clone()
    for axis in (-2, -1):
        side = labels.shape[axis]
        for step in range(1, min(voxels, side - 1) + 1):
            first = labels.narrow(axis, 0, side - step)
            second = labels.narrow(axis, step, side - step)
            touch = (first != second) & (first != 0) & (second != 0)
            widened.narrow(axis, 0, side - step)[touch] = 0
            widened.narrow(axis, step, side - step)[touch] = 0
    return widened
