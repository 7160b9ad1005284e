"""Errors of reconstructed patches, and what they say of the paper's three sums."""

from typing import Literal

import torch
from torch import Tensor

from tokenunify_scale.tokens.patches import patchify

Size3 = tuple[int, int, int]
Targets = Literal["voxels", "normalised"]
DEVIATIONS = 4  # that an output in (0, 1) reaches to either side of a normalised patch's mean
FLAT = 1e-6  # added to the variance of a patch. Source: He et al. 2022


def patch_errors(
    prediction: Tensor, crops: Tensor, *, patch: Size3, targets: Targets = "voxels"
) -> Tensor:
    """Mean squared error of each patch of a picture.

    Args:
        prediction: [B, C, D, H, W].
        crops: like ``prediction``.
        patch: patch size (z, y, x) in voxels.
        targets: as in ``token_errors``.

    Returns:
        [B, K], raster order, float32.

    Raises:
        ValueError: the patch does not divide the crop.
    """
    predicted, tokens = (patchify(x, patch=patch) for x in (prediction, crops))
    return token_errors(predicted, tokens, targets=targets)


def token_errors(predicted: Tensor, tokens: Tensor, *, targets: Targets = "voxels") -> Tensor:
    """Mean squared error of each patch, given as a vector.

    Paper: its -log p over continuous patches is, for a Gaussian of fixed variance, this error up
    to a constant factor and summand.

    Args:
        predicted: [B, K, C*P], in (0, 1).
        tokens: like ``predicted``, the true patches.
        targets: ``voxels`` are compared as they are; ``normalised`` takes from each true patch its
            mean and divides by its standard deviation, and reads a prediction of 0..1 as -4..4 of
            these, so that the mean of a patch costs 1 whatever its contrast.

    Returns:
        [B, K], float32.

    Source: He et al. 2022 (normalised targets).
    """
    predicted, tokens = predicted.float(), tokens.float()
    if targets == "normalised":
        variance, mean = torch.var_mean(tokens, dim=-1, correction=0, keepdim=True)
        tokens = (tokens - mean) / (variance + FLAT).sqrt()
        predicted = (predicted - 0.5) * (2 * DEVIATIONS)
    return (predicted - tokens).square().mean(-1)


def masked_mean(errors: Tensor, mask: Tensor) -> Tensor:
    """Mean over the selected patches of each row, 0 where none is selected.

    Args:
        errors: [B', K].
        mask: bool [B', K].

    Returns:
        [B'].
    """
    chosen = mask.to(errors.dtype)
    return (errors * chosen).sum(-1) / chosen.sum(-1).clamp(min=1)


def next_all_estimate(errors: Tensor, hidden: Tensor) -> Tensor:
    """What one uniformly drawn prefix says of the mean error over all pairs (prefix, later patch).

    2/K times the sum over what is hidden. Averaged over the prefixes 1..K-1 that is the mean of
    e(i, j) over all i < j; the mean over what is hidden is not, for it gives the few pairs of a
    long prefix the weight of the many of a short one.

    Args:
        errors: [B', K].
        hidden: bool [B', K], all behind a prefix.

    Returns:
        [B'].

    Source: Eq. 5, in units of one predicted patch.
    """
    return 2 / hidden.shape[-1] * (errors * hidden.to(errors.dtype)).sum(-1)


def sample_means(values: Tensor, rows: Tensor, *, count: int) -> Tensor:
    """Mean over the rows of each sample: the estimate from all its prefixes.

    Args:
        values: [B'].
        rows: int64 [B'], as in ``Corrupted``; each sample has a row.
        count: number of samples B.

    Returns:
        [B].
    """
    member = (torch.arange(count, device=rows.device)[:, None] == rows).to(values.dtype)
    return (values * member).sum(-1) / member.sum(-1)
