"""Fine-tuning to voxel affinities."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.affinities import (
    NEAREST,
    NEIGHBOURHOODS,
    Offset,
    affinities_from_labels,
    check_offsets,
    widen_borders,
)
from tokenunify_scale.models.padding import middle
from tokenunify_scale.objectives.affinity_losses import Loss, affinity_loss, balance, weighted_mean
from tokenunify_scale.objectives.embedding import embedding_loss
from tokenunify_scale.objectives.output import LossOutput, part
from tokenunify_scale.registry import OBJECTIVES

PREDICTION = "prediction"
SQUARED = ("weighted_mse", "mse")


@dataclass(frozen=True, kw_only=True)
class AffinityConfig:
    """How predictions are held against the labels' affinities."""

    loss: Loss = "weighted_mse"
    """``weighted_mse`` gives the two classes equal weight within each crop and channel, ``mse``
    each voxel; ``weighted_bce`` and ``bce`` are the cross entropies; ``dice_bce`` is Dice plus
    ``weighted_bce``."""

    offsets: Literal["nearest", "long_range", "long_range_isotropic"] | tuple[Offset, ...] = (
        "nearest"
    )
    """Which edges are predicted, one a channel: to the voxel before along z, y and x, or those and
    longer ones, by name or as a list of (z, y, x) that begins with these three."""

    # Paper: its labels have gaps between neurons; gapless ones get them here, others keep theirs.
    border: int = 1
    """Voxels in the plane by which the background between objects is widened on either side."""

    head: Literal["own", "direct", "embedding"] = "own"
    """``direct`` scores affinity maps, ``embedding`` the cosines of a network's embeddings at
    twelve offsets; ``own`` takes embeddings from a network that has them."""

    def __post_init__(self) -> None:
        """Refuse a negative border, and offsets that do not begin with the nearest."""
        if self.border < 0:
            raise ValueError(f"border must be >= 0, got {self.border}")
        if not isinstance(self.offsets, str):
            check_offsets(self.offsets)

    @property
    def edges(self) -> tuple[Offset, ...]:
        """The offsets themselves, one a channel."""
        return NEIGHBOURHOODS[self.offsets] if isinstance(self.offsets, str) else self.offsets


class Affinity(nn.Module):
    """Error of affinity channels: edges to the voxel before along z, y and x, and longer ones.

    A network that predicts less than it sees is scored on the middle of the labels. One that gives
    embeddings (pea) is scored on their cosines, see ``objectives.embedding``.

    Source: Sec. 9 of the paper (class-balanced mean squared error); the rest is ours.
    """

    OUT_CHANNELS = len(NEAREST)

    @staticmethod
    def outputs(config: AffinityConfig) -> int:
        """Channels that a network needs for this config, in the place of ``OUT_CHANNELS``."""
        return len(config.edges)

    def __init__(self, config: AffinityConfig, *, backbone: nn.Module, seed: int = 0) -> None:
        """Own the backbone. Nothing here is random: ``seed`` is every objective's argument.

        Raises:
            ConfigError: the head asks for embeddings, and the network gives none; or it has them,
                and loss or offsets are not those that embeddings are scored by.
        """
        super().__init__()
        self.config, self.backbone = config, backbone
        embeds, network = hasattr(backbone, "embeddings"), type(backbone).__name__
        if config.head == "embedding" and not embeds:
            raise ConfigError(f"head 'embedding': {network} gives no embeddings, valid: pea")
        self.embeds = embeds and config.head != "direct"
        if self.embeds and (config.loss not in SQUARED or config.offsets != "nearest"):
            raise ConfigError(
                f"{network} is scored on its embeddings, by {' or '.join(SQUARED)} and at offsets "
                f"of its own, not by {config.loss} at {config.offsets}: set objective.head=direct"
            )

    def forward(self, batch: dict[str, Tensor], *, progress: float) -> LossOutput:
        """Loss of one batch; of one without labels, the prediction.

        Args:
            batch: crops [B, 1, D, H, W] float in [0, 1], labels int64 [B, D, H, W].
            progress: share of training done; this objective does not change with it.

        Returns:
            The loss with its parts; without labels a loss of 0, and the part ``PREDICTION``: the
            affinities, [B, C, D', H', W'] float32.
        """
        if "labels" not in batch:
            prediction = self.backbone(batch["crops"]).float()
            return LossOutput(prediction.new_zeros(()), {PREDICTION: prediction})
        labels = widen_borders(batch["labels"], voxels=self.config.border)
        if self.embeds:
            embeddings = self.backbone.embeddings(batch["crops"])
            samples, plain = embedding_loss(embeddings, labels, weigh=self._weigh)
        else:
            prediction = self.backbone(batch["crops"])
            samples, plain = compare(prediction, labels, config=self.config)
        everyone = torch.ones_like(samples, dtype=torch.bool)
        parts = {"affinity": part(samples, everyone), "mse": part(plain, everyone)}
        return LossOutput(samples.mean(), parts)

    def _weigh(self, target: Tensor, valid: Tensor) -> Tensor:
        """What each voxel's error counts."""
        return balance(target, valid) if self.config.loss == "weighted_mse" else valid


def compare(prediction: Tensor, labels: Tensor, *, config: AffinityConfig) -> tuple[Tensor, Tensor]:
    """Hold predicted affinities against labels, or the middle of them.

    Args:
        prediction: [B, C, D', H', W'], a channel an offset of the config.
        labels: int64 [B, D, H, W], borders widened.
        config: loss and offsets.

    Returns:
        The loss, [B]; and for the log the plain mean squared error of the three nearest, [B].
    """
    prediction = prediction.float()
    cut = partial(middle, sides=tuple(prediction.shape[2:]))
    target, valid = map(cut, affinities_from_labels(labels, config.edges))
    near = slice(len(NEAREST))
    errors = (prediction.detach()[:, near] - target[:, near]).square()
    plain = weighted_mean(errors, valid[:, near])
    return affinity_loss(prediction, target, valid, loss=config.loss), plain


OBJECTIVES.add("affinity", Affinity, AffinityConfig(), source="Sec. 9")
