"""Autoregression: show a prefix of the patches, predict the next one."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from tokenunify_scale.objectives.corruption import Kind, masked_mean, reconstruct
from tokenunify_scale.objectives.output import LossOutput, part
from tokenunify_scale.registry import OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig:
    """The sequence that is predicted."""

    patch: tuple[int, int, int] = (4, 16, 16)
    """Patch size (z, y, x) in voxels."""

    path: Literal["raster", "snake"] = "raster"
    """Order in which patches follow each other."""


class Autoregressive(nn.Module):
    """Mean squared error on the patch that follows a random prefix; nothing later is visible.

    Source: Eq. 4, one prefix a crop, an unbiased sample of its sum over prefixes.
    """

    OUT_CHANNELS = 1

    def __init__(self, config: AutoregressiveConfig, *, backbone: nn.Module, seed: int) -> None:
        """Own the backbone; ``seed`` steers the prefixes."""
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
        kinds: list[Kind] = ["prefix"] * len(batch["crops"])
        settings = {"patch": self.config.patch, "path": self.config.path}
        seen, errors = reconstruct(self.backbone, batch, kinds, seed=self.seed, **settings)
        samples = masked_mean(errors, seen.following)
        return LossOutput(samples.mean(), {"next": part(samples, seen.following.any(-1))})


OBJECTIVES.add("autoregressive", Autoregressive, AutoregressiveConfig(), source="Table 3, row 2")
