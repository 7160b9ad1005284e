"""What an objective returns."""

from typing import NamedTuple

import torch
from torch import Tensor


class LossOutput(NamedTuple):
    """The scalar to minimise, and its named terms for the log."""

    loss: Tensor
    """Scalar; its mean over ranks and micro-batches is the loss of the global batch."""

    parts: dict[str, Tensor]
    """Each term as [sum, count] over samples, so that means over ranks are exact."""


def part(values: Tensor, selected: Tensor) -> Tensor:
    """Sum and count of the selected samples' values, detached.

    Args:
        values: [B], one value a sample.
        selected: bool [B].

    Returns:
        float32 [2].
    """
    chosen = selected.to(values.dtype)
    return torch.stack([(values.detach() * chosen).sum(), chosen.sum()]).float()
