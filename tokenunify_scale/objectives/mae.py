"""Masked autoencoding: hide random patches, reconstruct them."""

from dataclasses import dataclass

from torch import Tensor, nn

from tokenunify_scale.objectives.corruption import Kind, masked_mean, reconstruct
from tokenunify_scale.objectives.output import LossOutput, part
from tokenunify_scale.registry import OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """What is hidden."""

    patch: tuple[int, int, int] = (4, 16, 16)
    """Patch size (z, y, x) in voxels."""

    # Paper: its MAE hides 40 % of the patches; He et al. 2022 found 75 % best.
    ratio: float = 0.75
    """Share of the patches that are hidden."""


class MAE(nn.Module):
    """Mean squared error on randomly hidden patches.

    Source: He et al. 2022, on the backbone's dense output.
    """

    OUT_CHANNELS = 1

    def __init__(self, config: MAEConfig, *, backbone: nn.Module, seed: int) -> None:
        """Own the backbone; ``seed`` steers the masks."""
        super().__init__()
        self.config, self.backbone, self.seed = config, backbone, seed

    def forward(self, batch: dict[str, Tensor], *, progress: float) -> LossOutput:
        """Loss of one batch.

        Args:
            batch: crops [B, 1, D, H, W] float in [0, 1], positions int64 [B].
            progress: share of training done; this objective does not change with it.

        Raises:
            ValueError: the patch does not divide the crop.
        """
        kinds: list[Kind] = ["random"] * len(batch["crops"])
        settings = {"patch": self.config.patch, "ratio": self.config.ratio}
        seen, errors = reconstruct(self.backbone, batch, kinds, seed=self.seed, **settings)
        samples = masked_mean(errors, seen.hidden)
        return LossOutput(samples.mean(), {"random": part(samples, seen.hidden.any(-1))})


OBJECTIVES.add("mae", MAE, MAEConfig(), source="He et al. 2022; Table 1")
