"""Corrupted inputs for reconstruction: patches hidden at random, or behind a prefix of a path."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from tokenunify_scale.tokens.masks import (
    hide,
    prefix_length,
    prefix_masks,
    random_mask,
    sample_generator,
)
from tokenunify_scale.tokens.order import visiting_order
from tokenunify_scale.tokens.patches import patch_grid, patchify

Size3 = tuple[int, int, int]
Kind = Literal["random", "prefix"]
NOISE_MEAN, NOISE_STD = 0.5, 0.2  # near the grey levels of EM in [0, 1]


class Corrupted(NamedTuple):
    """A batch with hidden patches; the masks are bool [B, K] in raster order."""

    crops: Tensor
    """[B, C, D, H, W], hidden patches replaced by noise."""

    hidden: Tensor
    """What the network cannot see."""

    following: Tensor
    """The first hidden patch behind a prefix; nothing in a random sample."""


def corrupt(
    crops: Tensor,
    positions: Tensor,
    kinds: Sequence[Kind],
    *,
    patch: Size3,
    ratio: float,
    path: str,
    seed: int,
) -> Corrupted:
    """Hide patches of each sample, as a pure function of the seed and the sample's position.

    Args:
        crops: [B, C, D, H, W], float in [0, 1].
        positions: int64 [B], each sample's position in the stream.
        kinds: per sample, ``random`` hides a share, ``prefix`` all behind a drawn prefix.
        patch: patch size (z, y, x) in voxels; divides (D, H, W).
        ratio: share hidden in a ``random`` sample.
        path: visiting order of a ``prefix`` sample.
        seed: of the run.

    Returns:
        The corrupted batch, on the device of ``crops``.

    Raises:
        ValueError: the patch does not divide the crop, or the ratio is outside (0, 1).

    Source: Eq. 3 (random) and Eq. 4-5 (prefix).
    """
    order = visiting_order(patch_grid(tuple(crops.shape[2:]), patch=patch), path=path)
    noise, hidden, following = [], [], []
    for position, kind in zip(positions.tolist(), kinds, strict=True):
        generator = sample_generator(seed, position)
        if kind == "random":
            mask = random_mask(len(order), ratio=ratio, generator=generator)
            after = torch.zeros_like(mask)
        else:
            visible = prefix_length(len(order), generator=generator)
            mask, after = prefix_masks(order, visible=visible)
        hidden.append(mask)
        following.append(after)
        noise.append(torch.randn(crops.shape[1:], generator=generator))
    masks = torch.stack(hidden).to(crops.device)
    fill = (torch.stack(noise) * NOISE_STD + NOISE_MEAN).to(crops)
    return Corrupted(
        hide(crops, masks, fill, patch=patch), masks, torch.stack(following).to(crops.device)
    )


def reconstruct(
    backbone: nn.Module,
    batch: dict[str, Tensor],
    kinds: Sequence[Kind],
    *,
    patch: Size3,
    seed: int,
    ratio: float = 0.5,
    path: str = "raster",
) -> tuple[Corrupted, Tensor]:
    """Corrupt a batch, let a network fill it in, and hold its patches against the truth.

    Args:
        backbone: [B, C, D, H, W] to the same shape.
        batch: crops [B, C, D, H, W] float in [0, 1], positions int64 [B].
        kinds: as in ``corrupt``, and so are the others.

    Returns:
        What the network saw, and the error of each patch, [B, K].

    Raises:
        ValueError: as ``corrupt``.
    """
    crops = batch["crops"]
    seen = corrupt(crops, batch["positions"], kinds, patch=patch, ratio=ratio, path=path, seed=seed)
    return seen, patch_errors(backbone(seen.crops), crops, patch=patch)


def patch_errors(prediction: Tensor, crops: Tensor, *, patch: Size3) -> Tensor:
    """Mean squared error of each patch.

    Paper: its -log p over continuous patches is, for a Gaussian of fixed variance, this error up
    to a constant factor and summand.

    Args:
        prediction: [B, C, D, H, W].
        crops: like ``prediction``.
        patch: patch size (z, y, x) in voxels.

    Returns:
        [B, K], raster order, float32.

    Raises:
        ValueError: the patch does not divide the crop.
    """
    return patchify((prediction.float() - crops.float()).square(), patch=patch).mean(-1)


def masked_mean(errors: Tensor, mask: Tensor) -> Tensor:
    """Mean over the selected patches of each sample, 0 where none is selected.

    Args:
        errors: [B, K].
        mask: bool [B, K].

    Returns:
        [B].
    """
    chosen = mask.to(errors.dtype)
    return (errors * chosen).sum(-1) / chosen.sum(-1).clamp(min=1)
