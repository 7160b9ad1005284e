"""Affinities from labels: which neighbouring voxels belong to the same object."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenunify_scale.volumes.geometry import edges

Offset = tuple[int, int, int]

NEAREST: tuple[Offset, ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


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
