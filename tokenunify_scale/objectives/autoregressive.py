"""Autoregression: show a prefix of the patches, predict the next one."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokenunify_scale.objectives.corruption import (
    NOISE_MEAN,
    Kind,
    PrefixConfig,
    learned_fill,
    reconstruct,
)
from tokenunify_scale.objectives.errors import masked_mean, sample_means
from tokenunify_scale.objectives.output import LossOutput, part
from tokenunify_scale.registry import OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig(PrefixConfig):
    """The sequence that is predicted."""


class Autoregressive(nn.Module):
    """Mean squared error on the patch that follows a random prefix; nothing later is visible.

    A sample's order is drawn, or ranked, once a forward pass, and all its prefixes share it. What
    an order by relevance reveals is said in ``corrupt``.

    Source: Eq. 4 by a few prefixes a crop: over all prefixes the mean of its sum.
    """

    OUT_CHANNELS = None  # as many as the crops have

    def __init__(
        self, config: AutoregressiveConfig, *, backbone: nn.Module, seed: int, channels: int = 1
    ) -> None:
        """Own the backbone, of C = ``channels`` in and out; ``seed`` steers the prefixes."""
        super().__init__()
        self.config, self.backbone, self.seed = config, backbone, seed
        self.fill_bias = learned_fill(config.fill, channels=channels, patch=config.patch)

    def reset_rest(self) -> None:
        """Make the learned patch flat grey, as it begins."""
        if self.fill_bias is not None:
            nn.init.constant_(self.fill_bias, NOISE_MEAN)

    def forward(self, batch: dict[str, Tensor], *, progress: float) -> LossOutput:
        """Loss of one batch.

        Args:
            batch: crops [B, C, D, H, W] float in [0, 1], positions int64 [B].
            progress: share of training done; this objective does not change with it.

        Raises:
            ValueError: the patch does not divide the crop, or the crop has fewer prefixes than
                are to be drawn.
        """
        config, count = self.config, len(batch["crops"])
        kinds: list[Kind] = ["prefix"] * count
        seen, errors = reconstruct(
            self.backbone,
            batch,
            kinds,
            seed=self.seed,
            patch=config.patch,
            path=config.path,
            fill=config.fill,
            learned=self.fill_bias,
            prefixes=config.prefixes_per_crop,
            targets=config.targets,
        )
        samples = sample_means(masked_mean(errors, seen.following), seen.rows, count=count)
        everyone = torch.ones_like(samples, dtype=torch.bool)
        return LossOutput(samples.mean(), {"next": part(samples, everyone)})


OBJECTIVES.add("autoregressive", Autoregressive, AutoregressiveConfig(), source="Table 3, row 2")
