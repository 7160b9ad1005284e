"""Fine-tuning to voxel affinities."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.affinities import NEAREST, affinities_from_labels, widen_borders
from tokenunify_scale.models.padding import middle
from tokenunify_scale.objectives.embedding import embedding_loss
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

    head: Literal["own", "direct", "embedding"] = "own"
    """``direct`` scores three affinity maps, ``embedding`` the cosines of a network's embeddings at
    twelve offsets; ``own`` takes embeddings from a network that has them."""

    def __post_init__(self) -> None:
        """Refuse a negative border."""
        if self.border < 0:
            raise ValueError(f"border must be >= 0, got {self.border}")


class Affinity(nn.Module):
    """Squared error of three affinity channels, edges to the voxel before along z, y and x.

    A network that predicts less than it sees is scored on the middle of the labels. One that gives
    embeddings (pea) is scored on their cosines, see ``objectives.embedding``.

    Source: Sec. 9 of the paper (class-balanced mean squared error).
    """

    OUT_CHANNELS = len(NEAREST)

    def __init__(self, config: AffinityConfig, *, backbone: nn.Module, seed: int = 0) -> None:
        """Own the backbone. Nothing here is random: ``seed`` is every objective's argument.

        Raises:
            ConfigError: the head asks for embeddings, and the network gives none.
        """
        super().__init__()
        self.config, self.backbone = config, backbone
        embeds = hasattr(backbone, "embeddings")
        if config.head == "embedding" and not embeds:
            raise ConfigError(
                f"head 'embedding': {type(backbone).__name__} gives no embeddings, valid: pea"
            )
        self.embeds = embeds and config.head != "direct"

    def forward(self, batch: dict[str, Tensor], *, progress: float) -> LossOutput:
        """Loss of one batch.

        Args:
            batch: crops [B, 1, D, H, W] float in [0, 1], labels int64 [B, D, H, W].
            progress: share of training done; this objective does not change with it.
        """
        labels = widen_borders(batch["labels"], voxels=self.config.border)
        if self.embeds:
            embeddings = self.backbone.embeddings(batch["crops"])
            samples, plain = embedding_loss(embeddings, labels, weigh=self._weigh)
        else:
            prediction = self.backbone(batch["crops"]).float()
            target, valid = (
                middle(x, tuple(prediction.shape[2:])) for x in affinities_from_labels(labels)
            )
            errors = (prediction - target).square()
            samples = weighted_mean(errors, self._weigh(target, valid))
            plain = weighted_mean(errors, valid)
        everyone = torch.ones_like(samples, dtype=torch.bool)
        parts = {"affinity": part(samples, everyone), "mse": part(plain, everyone)}
        return LossOutput(samples.mean(), parts)

    def _weigh(self, target: Tensor, valid: Tensor) -> Tensor:
        """What each voxel's error counts."""
        return balance(target, valid) if self.config.loss == "weighted_mse" else valid


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
