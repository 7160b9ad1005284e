"""Predict the patches of a crop one after another from the network's own output, or all at once.

Training shows a network the true prefix (teacher forcing). Where it writes on its own, an error
becomes part of the prefix of all that follows; predicted from one true prefix, patches know nothing
of each other's errors. Both are done here on the same crops with the same weights.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenunify_scale.objectives.errors import patch_errors
from tokenunify_scale.tokens.masks import hide, visible_mean
from tokenunify_scale.tokens.patches import patch_grid
from tokenunify_scale.train.runlog import track

Size3 = tuple[int, int, int]
Network = Callable[[Tensor], Tensor]


class Rollout(NamedTuple):
    """What was predicted of n patches behind a prefix; errors are mean squares a voxel."""

    errors_sequential: Tensor
    """float32 [B, n], in visiting order: each patch follows the network's own output."""

    errors_at_once: Tensor
    """float32 [B, n]: all patches follow the true prefix."""

    errors_flat: Tensor
    """float32 [B, n]: each patch is the mean gray value of the true prefix; no network."""

    positions: Tensor
    """int64 [B, n], raster indices of the patches."""

    sequential: Tensor
    """[B, C, D, H, W], the crop with its n patches as predicted one after another; what lies behind
    them is filled."""

    at_once: Tensor
    """The same, predicted at once."""


@torch.no_grad()
def rollout(
    backbone: Network,
    crops: Tensor,
    *,
    patch: Size3,
    order: Tensor,
    visible: int,
    fill: Tensor | Literal["mean"],
    every: int = 1,
    steps: int | None = None,
) -> Rollout:
    """Continue each crop behind a prefix of its path.

    A step hides all that lies behind the prefix, predicts, writes the prediction of the next
    ``every`` patches into the input, and goes on with a prefix so much longer. What is hidden is
    never read: the first step's whole output is the prediction at once.

    Args:
        backbone: [B, C, D, H, W] to the same shape, in evaluation mode.
        crops: [B, C, D, H, W], float in [0, 1].
        patch: patch size (z, y, x) in voxels; divides (D, H, W).
        order: int64 [K], or [B, K] where paths differ: raster indices in visiting order.
        visible: patches of the true prefix, 1..K-1.
        fill: what stands for hidden voxels, broadcast to ``crops``; ``mean``: the mean of what is
            visible at each step.
        every: patches written a step; K predicts all at once.
        steps: forward passes; None goes on to the end of the path.

    Returns:
        n = K - visible patches, or ``every * steps`` if that is less.

    Raises:
        ValueError: the patch does not divide the crop, the order is of another length, or a number
            is outside its range.

    Source: Eq. 4 (next token) and Eq. 5 (next-all tokens), read as Theorem 2 reads them.
    """
    orders = _orders(order, crops, patch=patch)
    stop = _stop(orders.shape[1], visible=visible, every=every, steps=steps)

    def look(known: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Input and output where all behind ``first`` patches is hidden."""
        seen = _hide(known, _select(orders, first, None), fill, patch=patch)
        return seen, backbone(seen).to(crops.dtype)

    known, errors = crops, []
    for start in track(range(visible, stop, every), description="rollout"):
        seen, output = look(known, start)
        if start == visible:
            prefix, at_once = seen, output
        end = min(start + every, stop)
        errors.append(patch_errors(output, crops, patch=patch).gather(1, orders[:, start:end]))
        known = hide(known, _select(orders, start, end), output, patch=patch)
    chosen = orders[:, visible:stop]
    flat = visible_mean(crops, _select(orders, visible, None), patch=patch).expand_as(crops)
    return Rollout(
        torch.cat(errors, dim=1),
        patch_errors(at_once, crops, patch=patch).gather(1, chosen),
        patch_errors(flat, crops, patch=patch).gather(1, chosen),
        chosen,
        _hide(known, _select(orders, stop, None), fill, patch=patch),
        hide(prefix, _select(orders, visible, stop), at_once, patch=patch),
    )


def psnr(errors: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of mean squared errors of gray values in [0, 1].

    Args:
        errors: any shape; 0 becomes infinity.
    """
    with np.errstate(divide="ignore"):
        return -10 * np.log10(errors)


def _orders(order: Tensor, crops: Tensor, *, patch: Size3) -> Tensor:
    """A path for each crop, int64 [B, K] on the crops' device."""
    z, y, x = patch_grid(tuple(crops.shape[2:]), patch=patch)
    if order.shape[-1] != z * y * x:
        raise ValueError(f"a path of {order.shape[-1]} patches through a crop of {z * y * x}")
    return order.to(crops.device).expand(len(crops), -1)


def _stop(count: int, *, visible: int, every: int, steps: int | None) -> int:
    """Where on the path the prediction ends."""
    if not 1 <= visible < count:
        raise ValueError(f"a prefix of {visible} patches is outside 1..{count - 1}")
    if every < 1 or (steps is not None and steps < 1):
        raise ValueError(f"patches a step and steps must be >= 1, got {every} and {steps}")
    return count if steps is None else min(visible + every * steps, count)


def _select(orders: Tensor, start: int, end: int | None) -> Tensor:
    """bool [B, K] in raster order: the patches from ``start`` to ``end`` of each path."""
    mask = torch.zeros_like(orders, dtype=torch.bool)
    return mask.scatter(1, orders[:, start:end], True)


def _hide(crops: Tensor, hidden: Tensor, fill: Tensor | Literal["mean"], *, patch: Size3) -> Tensor:
    if isinstance(fill, str):
        fill = visible_mean(crops, hidden, patch=patch)
    return hide(crops, hidden, fill.to(crops), patch=patch)
