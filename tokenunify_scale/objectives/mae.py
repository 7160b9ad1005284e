"""Masked autoencoding: hide random patches, reconstruct them."""

from dataclasses import dataclass

from torch import Tensor, nn

from tokenunify_scale.objectives.corruption import (
    NOISE_MEAN,
    CorruptionConfig,
    Kind,
    learned_fill,
    reconstruct,
)
from tokenunify_scale.objectives.errors import masked_mean
from tokenunify_scale.objectives.output import LossOutput, part
from tokenunify_scale.registry import OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class MAEConfig(CorruptionConfig):
    """What is hidden, how, and what it is held against."""

    # Paper: its MAE hides 40 % of the patches; He et al. 2022 found 75 % best.
    ratio: float = 0.75
    """Share of the patches that are hidden."""

    def __post_init__(self) -> None:
        """Refuse empty patches, and to hide nothing or all."""
        super().__post_init__()
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio must be in (0, 1), got {self.ratio}")


class MAE(nn.Module):
    """Mean squared error on randomly hidden patches.

    Source: He et al. 2022, on the backbone's dense output.
    """

    OUT_CHANNELS = None  # as many as the crops have

    def __init__(
        self, config: MAEConfig, *, backbone: nn.Module, seed: int, channels: int = 1
    ) -> None:
        """Own the backbone, of C = ``channels`` in and out; ``seed`` steers the masks."""
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
            ValueError: the patch does not divide the crop.
        """
        config = self.config
        kinds: list[Kind] = ["random"] * len(batch["crops"])
        seen, errors = reconstruct(
            self.backbone,
            batch,
            kinds,
            seed=self.seed,
            patch=config.patch,
            ratio=config.ratio,
            fill=config.fill,
            learned=self.fill_bias,
            targets=config.targets,
        )
        samples = masked_mean(errors, seen.hidden)
        return LossOutput(samples.mean(), {"random": part(samples, seen.hidden.any(-1))})


OBJECTIVES.add("mae", MAE, MAEConfig(), source="He et al. 2022; Table 1")
