"""How well a network gives back hidden patches: at random places, and behind prefixes of a path.

Whatever a network was trained on, it is asked the same questions about the same crop.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from tokenunify_scale.objectives.errors import DEVIATIONS, FLAT, Targets, patch_errors
from tokenunify_scale.tokens.masks import hide, prefix_masks, random_mask, visible_mean
from tokenunify_scale.tokens.patches import patchify, unpatchify

Size3 = tuple[int, int, int]
Network = Callable[[Tensor], Tensor]
TASKS = ("random", "next", "next_all")
AT_ONCE = 8  # rows in one forward pass


class Masks(NamedTuple):
    """What is hidden of one crop: row 0 at random, each other row all behind a prefix."""

    hidden: Tensor
    """bool [1 + n, K], raster order."""

    following: Tensor
    """bool [n, K], the first patch behind each prefix."""


def draw_masks(order: Tensor, *, ratio: float, prefixes: int, generator: Generator) -> Masks:
    """One random mask, and prefixes spread evenly over a path.

    Args:
        order: int64 [K], raster indices in visiting order.
        ratio: share hidden at random, in (0, 1).
        prefixes: how many, >= 1; a path that has fewer gives all it has.
        generator: what the random mask is drawn from, on the CPU.
    """
    count = len(order)
    at_random = random_mask(count, ratio=ratio, generator=generator)
    pairs = [prefix_masks(order, visible=n) for n in even_lengths(count, prefixes=prefixes)]
    hidden, following = zip(*pairs, strict=True)
    return Masks(torch.stack([at_random, *hidden]), torch.stack(following))


def even_lengths(count: int, *, prefixes: int) -> list[int]:
    """Lengths of prefixes, the middles of equal parts of 1..K-1; all of them if there are fewer."""
    lengths, parts = count - 1, min(prefixes, count - 1)
    return [1 + (2 * i + 1) * lengths // (2 * parts) for i in range(parts)]


@torch.no_grad()
def predict(
    network: Network,
    crop: Tensor,
    hidden: Tensor,
    *,
    patch: Size3,
    fill: Tensor | Literal["mean"],
    targets: Targets = "voxels",
) -> Tensor:
    """What a network makes of a crop of which patches are hidden.

    Args:
        network: [B, C, D, H, W] to the same shape, in evaluation mode.
        crop: [C, D, H, W], float in [0, 1].
        hidden: bool [R, K], raster order; each row leaves a patch visible.
        patch: patch size (z, y, x) in voxels; divides (D, H, W).
        fill: what stands for hidden voxels, broadcast to [R, C, D, H, W]; ``mean``: that of what
            is visible.
        targets: of the training. ``normalised`` predictions have no mean and no contrast of their
            own: each patch gets those of the true one.

    Returns:
        [R, C, D, H, W] in [0, 1], float32.

    Raises:
        ValueError: the patch does not divide the crop.
    """
    parts = []
    for rows in hidden.to(crop.device).split(AT_ONCE):
        crops = crop.expand(len(rows), -1, -1, -1, -1)
        content = visible_mean(crops, rows, patch=patch) if isinstance(fill, str) else fill
        output = network(hide(crops, rows, content.to(crops), patch=patch)).float()
        if targets == "normalised":
            output = with_true_contrast(output, crops, patch=patch)
        parts.append(output)
    return torch.cat(parts)


def with_true_contrast(output: Tensor, crops: Tensor, *, patch: Size3) -> Tensor:
    """Normalised predictions as gray values, with mean and deviation of each true patch.

    The inverse of what ``errors.token_errors`` does to a patch. Values are cut off at 0 and 1,
    which no other network's can leave.

    Args:
        output: [B, C, D, H, W] in (0, 1), 0.5 for the mean.
        crops: like ``output``, the truth.
        patch: patch size (z, y, x) in voxels.

    Source: He et al. 2022, whose pictures of normalised predictions are made so.
    """
    predicted, tokens = (patchify(x.float(), patch=patch) for x in (output, crops))
    variance, mean = torch.var_mean(tokens, dim=-1, correction=0, keepdim=True)
    gray = (predicted - 0.5) * (2 * DEVIATIONS) * (variance + FLAT).sqrt() + mean
    return unpatchify(gray.clamp(0, 1), crop=tuple(crops.shape[2:]), patch=patch)


def flat(crop: Tensor, hidden: Tensor, *, patch: Size3) -> Tensor:
    """The floor: no network, the mean of what is visible of each channel, [R, C, D, H, W]."""
    crops = crop.expand(len(hidden), -1, -1, -1, -1)
    return visible_mean(crops, hidden.to(crop.device), patch=patch).expand_as(crops)


def task_errors(predicted: Tensor, crop: Tensor, masks: Masks, *, patch: Size3) -> dict[str, float]:
    """Mean squared error a voxel of each of ``TASKS``.

    ``random`` is the mean over all hidden patches of row 0, ``next`` that over the patches right
    behind the prefixes. ``next_all`` is the mean over all pairs of a prefix and a patch hidden
    behind it, as in Eq. 5: a patch counts as often as it is predicted.

    Args:
        predicted: [1 + n, C, D, H, W].
        crop: [C, D, H, W], the truth.
        masks: what was hidden.
        patch: patch size (z, y, x) in voxels.

    Source: Eq. 3-5, in units of one predicted patch.
    """
    errors = patch_errors(predicted, crop.expand_as(predicted), patch=patch).double()
    hidden, following = (mask.to(crop.device) for mask in masks)
    chosen = (errors[0][hidden[0]], errors[1:][following], errors[1:][hidden[1:]])
    return {task: float(x.mean()) for task, x in zip(TASKS, chosen, strict=True)}
