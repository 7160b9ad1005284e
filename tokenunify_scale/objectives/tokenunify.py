"""TokenUnify: random token, next token and next-all tokens, weighted by a curriculum."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from torch import Tensor, nn

from tokenunify_scale.config import Named
from tokenunify_scale.objectives.corruption import masked_mean, reconstruct
from tokenunify_scale.objectives.curriculum import Piecewise
from tokenunify_scale.objectives.output import LossOutput, part
from tokenunify_scale.registry import CURRICULA, OBJECTIVES

RANDOM_SHARE = 0.5  # of the samples; the others show a prefix


@dataclass(frozen=True, kw_only=True)
class TokenUnifyConfig:
    """Patches, what is hidden, and how the three terms are weighted."""

    patch: tuple[int, int, int] = (4, 16, 16)
    """Patch size (z, y, x) in voxels. Source: Sec. 9."""

    ratio: float = 0.75
    """Share of the patches hidden in a random sample (rho)."""

    path: Literal["raster", "snake"] = "raster"
    """Order pi in which a prefix grows."""

    curriculum: Annotated[Named, CURRICULA] = field(
        default_factory=lambda: Named("piecewise", Piecewise())
    )
    """Weights of the terms over training."""


class TokenUnify(nn.Module):
    """The weighted sum of three reconstruction errors, from one forward pass.

    Samples at even positions of the stream hide random patches; those at odd positions hide all
    behind a random prefix, and their dense output is held against the next patch (next token) and
    against every hidden patch (next-all). All three terms are mean squared errors a voxel. Each
    sample has one corruption, so a step costs what a masked-autoencoding step costs.

    Source: Eq. 3-5 (terms), Eq. 7 (weighted sum), Eq. 14 (weights).
    """

    OUT_CHANNELS = 1

    def __init__(self, config: TokenUnifyConfig, *, backbone: nn.Module, seed: int) -> None:
        """Own the backbone; ``seed`` steers masks and prefixes."""
        super().__init__()
        self.config, self.backbone, self.seed = config, backbone, seed
        self.weights_at = CURRICULA.get(config.curriculum.name).factory

    def forward(self, batch: dict[str, Tensor], *, progress: float) -> LossOutput:
        """Loss of one batch.

        Args:
            batch: crops [B, 1, D, H, W] float in [0, 1], positions int64 [B].
            progress: share of training done, in [0, 1]; moves the curriculum.

        Raises:
            ValueError: the patch does not divide the crop.
        """
        seen, errors = reconstruct(
            self.backbone,
            batch,
            ["prefix" if position % 2 else "random" for position in batch["positions"].tolist()],
            patch=self.config.patch,
            seed=self.seed,
            ratio=self.config.ratio,
            path=self.config.path,
        )
        is_prefix = seen.following.any(-1)
        weights = self.weights_at(self.config.curriculum.options, progress=progress)
        terms = {
            "random": (seen.hidden, ~is_prefix, weights.random, RANDOM_SHARE),
            "next": (seen.following, is_prefix, weights.next, 1 - RANDOM_SHARE),
            "next_all": (seen.hidden, is_prefix, weights.next_all, 1 - RANDOM_SHARE),
        }
        loss, parts = errors.new_zeros(()), {}
        for name, (mask, selected, weight, share) in terms.items():
            samples = masked_mean(errors, mask) * selected
            # A fixed denominator, not the count at hand: the mean over ranks stays unbiased.
            loss = loss + weight * samples.mean() / share
            parts[name] = part(samples, selected)
        return LossOutput(loss, parts)


OBJECTIVES.add("tokenunify", TokenUnify, TokenUnifyConfig(), source="Eq. 3-7, 14")
