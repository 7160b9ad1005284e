"""How predicted affinities are held against true ones: squared error, cross entropy, Dice."""

from typing import Literal

import torch
from torch import Tensor

Loss = Literal["weighted_mse", "mse", "weighted_bce", "bce", "dice_bce"]

AXES = (2, 3, 4)
LEAST = 1e-7
"""A probability below this counts as this: about the least that float32 can tell 1 - p from 1 by,
so that all that a sigmoid can still learn from has its gradient, and no logarithm is infinite."""


def affinity_loss(prediction: Tensor, target: Tensor, valid: Tensor, *, loss: Loss) -> Tensor:
    """Loss of each sample.

    ``weighted_`` gives both classes of each crop and channel equal weight. ``dice_bce`` is the
    Dice loss plus the weighted cross entropy.

    Args:
        prediction: [B, C, D, H, W], probabilities; computed with in float32.
        target: like ``prediction``, 0 or 1.
        valid: like ``prediction``, 1 where an edge exists; elsewhere nothing is asked.
        loss: which.

    Returns:
        [B] float32.
    """
    prediction = prediction.float()
    if loss in ("weighted_mse", "mse"):
        errors = (prediction - target).square()
    else:
        errors = cross_entropy(prediction, target)
    weights = valid if loss in ("mse", "bce") else balance(target, valid)
    samples = weighted_mean(errors, weights)
    return samples + dice(prediction, target, valid) if loss == "dice_bce" else samples


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Negative log probability of the target, voxel by voxel; NaN stays NaN.

    Not torch's own, which ends the process on NaN and refuses to run under autocast.
    """
    right = torch.where(target > 0.5, prediction, 1 - prediction)
    return -torch.log(right.clamp(min=LEAST))


def dice(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - Dice coefficient of the cut edges, the rarer class: [B], a mean over channels with edges.

    Source: Milletari et al. 2016 (V-Net), squares in the denominator; on boundaries as in Wolny et
    al. 2020 (PlantSeg). One voxel is added on both sides of the fraction, so that a channel
    without a cut edge asks for none.
    """
    predicted, true = (1 - prediction) * valid, (1 - target) * valid
    both = (predicted * true).sum(AXES)
    either = predicted.square().sum(AXES) + true.square().sum(AXES)
    asked = (valid.sum(AXES) > 0).float()
    losses = 1 - (2 * both + 1) / (either + 1)
    return (losses * asked).sum(1) / asked.sum(1).clamp(min=1)


def balance(target: Tensor, valid: Tensor) -> Tensor:
    """Weights that give both classes of each crop and channel half of the sum of ``valid``.

    Args:
        target: [B, C, D, H, W], 0 or 1.
        valid: like ``target``, 1 where an edge exists.

    Returns:
        Like ``target``; a class that is absent leaves the other with weight 1.
    """
    total = valid.sum(AXES, keepdim=True)
    ones = (target * valid).sum(AXES, keepdim=True)
    both = (ones > 0) & (ones < total)
    zeros = total - ones
    weights = torch.where(target > 0.5, 0.5 * total / ones, 0.5 * total / zeros)
    return valid * torch.where(both, weights, torch.ones_like(weights))


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of each sample, 0 where all weights are.

    Args:
        values: [B, C, D, H, W].
        weights: like ``values``.

    Returns:
        [B].
    """
    axes = (1, *AXES)
    return (values * weights).sum(axes) / weights.sum(axes).clamp(min=1)
