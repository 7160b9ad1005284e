"""Fine-tuning to voxel affinities."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tokenunify_scale.data.affinities import NEAREST, affinities_from_labels, widen_borders
from tokenunify_scale.objectives.output import LossOutput, part
from tokenunify_scale.registry import OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class AffinityConfig:
    """How predictions are held against the labels' affinities."""

    loss: Literal["weighted_mse", "mse"] = "weighted_mse"
    """``weighted_mse`` gives the two classes equal weight within each crop and channel."""

    # Paper: its labels have gaps between neurons; gapless ones get them here, others keep theirs.
    border: int = 1
    """Voxels in the plane by which the background between objects is widened on either side."""

    def __post_init__(self) -> None:
        """Refuse a negative border."""
        if self.border < 0:
            raise ValueError(f"border must be >= 0, got {self.border}")


class Affinity(nn.Module):
    """Squared error of three affinity channels, edges to the voxel before along z, y and x.

    Source: Sec. 9 of the paper (class-balanced mean squared error).
    """

    OUT_CHANNELS = len(NEAREST)

    def __init__(self, config: AffinityConfig, *, backbone: nn.Module, seed: int = 0) -> None:
        """Own the backbone. Nothing here is random: ``seed`` is every objective's argument."""
        super().__init__()
        self.config, self.backbone = config, backbone

    def forward(self, batch: dict[str, Tensor], *, progress: float) -> LossOutput:
        """Loss of one batch.

        Args:
            batch: crops [B, 1, D, H, W] float in [0, 1], labels int64 [B, D, H, W].
            progress: share of training done; this objective does not change with it.
        """
        target, valid = affinities_from_labels(
            widen_borders(batch["labels"], voxels=self.config.border)
        )
        errors = (self.backbone(batch["crops"]).float() - target).square()
        weights = balance(target, valid) if self.config.loss == "weighted_mse" else valid
        samples = weighted_mean(errors, weights)
        plain = weighted_mean(errors, valid)
        everyone = torch.ones_like(samples, dtype=torch.bool)
        parts = {"affinity": part(samples, everyone), "mse": part(plain, everyone)}
        return LossOutput(samples.mean(), parts)


def balance(target: Tensor, valid: Tensor) -> Tensor:
    """Weights that give both classes of each crop and channel half of the sum of ``valid``.

    Args:
        target: [B, C, D, H, W], 0 or 1.
        valid: like ``target``, 1 where an edge exists.

    Returns:
        Like ``target``; a class that is absent leaves the other with weight 1.
    """
    axes = (2, 3, 4)
    total = valid.sum(axes, keepdim=True)
    ones = (target * valid).sum(axes, keepdim=True)
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
    axes = (1, 2, 3, 4)
    return (values * weights).sum(axes) / weights.sum(axes).clamp(min=1)


OBJECTIVES.add("affinity", Affinity, AffinityConfig(), source="Sec. 9")
