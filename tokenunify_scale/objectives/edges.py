"""Where a crop has edges, and masks that prefer patches with many of them."""

from typing import Literal

import torch
from torch import Tensor

from tokenunify_scale.tokens.patches import patchify

Size3 = tuple[int, int, int]
Axes = Literal["plane", "volume"]
FIRST_AXIS = {"plane": 3, "volume": 2}  # of [B, C, D, H, W]
CLIP = 5.0  # times the crop's mean gradient; one bright speck does not make a patch an edge
FLOOR = 1e-3  # of the crop's mean gradient; a flat patch can still be drawn


def grey(crops: Tensor) -> Tensor:
    """Mean over the channels, [B, C, D, H, W] to float32 [B, 1, D, H, W]."""
    return crops.float().mean(1, keepdim=True)


def gradient_magnitude(crops: Tensor, *, axes: Axes) -> Tensor:
    """Length of the grey-level gradient at each voxel.

    Args:
        crops: [B, C, D, H, W], float; the mean over channels counts.
        axes: ``plane`` takes differences along y and x, ``volume`` along z too. Both are a voxel,
            whatever its size: ``plane`` is for sections much thicker than a voxel is wide.

    Returns:
        [B, 1, D, H, W], float32; central differences, one-sided at the faces.
    """
    sides = [axis for axis in range(FIRST_AXIS[axes], 5) if crops.shape[axis] > 1]
    level = grey(crops)
    length = torch.zeros_like(level)
    for slope in torch.gradient(level, dim=sides) if sides else ():
        length = length + slope.square()
    return length.sqrt()


def edge_scores(crops: Tensor, *, patch: Size3, axes: Axes) -> Tensor:
    """How much edge each patch has: its mean gradient over that of the crop.

    Args:
        crops: [B, C, D, H, W], float.
        patch: patch size (z, y, x) in voxels; divides (D, H, W).
        axes: as ``gradient_magnitude``.

    Returns:
        [B, K], raster order, float32, 0 or more, without gradient; near 1 on average, and 0
        everywhere in a crop of one grey.

    Raises:
        ValueError: the patch does not divide the crop.

    Source: github.com/ydchen0806/dbMiM, its membrane map.
    """
    with torch.no_grad():
        length = gradient_magnitude(crops, axes=axes)
        mean = length.mean((1, 2, 3, 4), keepdim=True)
        relative = (length / mean.clamp(min=1e-6)).clamp(max=CLIP)
        return patchify(relative, patch=patch).mean(-1)


def log_weights(scores: Tensor, *, power: float) -> Tensor:
    """Logarithms of the weights by which patches are drawn: the scores to a power.

    Args:
        scores: [B, K], 0 or more.
        power: 0 makes all alike, above 1 sharpens.
    """
    return power * scores.clamp(min=FLOOR).log()


def mixed_mask(
    weights: Tensor, gumbel: Tensor, uniform: Tensor, *, edges: int, total: int
) -> Tensor:
    """Draw some patches in proportion to their weights, then others uniformly, none twice.

    The patches with the largest sums of logarithmic weight and Gumbel noise are a draw without
    replacement, each next patch in proportion to its weight among those left.

    Args:
        weights: [B, K], logarithms of the weights.
        gumbel: [B, K], standard Gumbel noise.
        uniform: [B, K], any independent, equally distributed, finite noise.
        edges: how many are drawn by weight, 0..total.
        total: how many are drawn in all, 0..K.

    Returns:
        bool [B, K] with ``total`` True in each row.

    Source: Efraimidis and Spirakis 2006; Kool et al. 2019 (the Gumbel-top-k trick).
    """
    mask = torch.zeros_like(weights, dtype=torch.bool)
    mask = mask.scatter(1, (weights + gumbel).topk(edges, dim=1).indices, True)
    keys = uniform.masked_fill(mask, torch.inf)
    return mask.scatter(1, keys.topk(total, dim=1).indices, True)
