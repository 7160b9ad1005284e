"""MS-Con-EM: a weak and a strong view agree at every scale, and both give back the clean crop.

Source: Chen et al. 2024, "Learning multiscale consistency for self-supervised electron microscopy
instance segmentation", and its release.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokenunify_scale.models.features import paired_widths
from tokenunify_scale.models.padding import pad_to
from tokenunify_scale.objectives.heads import Head, cells, sphere_distance, spread
from tokenunify_scale.objectives.output import LossOutput, part
from tokenunify_scale.objectives.views import STRONG, WEAK, Strength, Turn, make_view, unturn
from tokenunify_scale.registry import OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class MSConEMConfig:
    """Views, and how the terms are weighted."""

    weak: Strength = WEAK
    """How far the view that is aimed at may be from the crop; shifts are not allowed."""

    strong: Strength = STRONG
    """How far the other view may be from it."""

    consistency: float = 0.1
    """Weight of the features' distance, the mean over scales, beside the voxels' error."""

    cells: int = 16
    """Cells along a side to which larger maps are averaged before they are compared."""

    def __post_init__(self) -> None:
        """Refuse a negative weight, empty maps, and views that cannot be laid on each other."""
        if self.consistency < 0 or self.cells < 1:
            raise ValueError(
                f"consistency must be >= 0 and cells >= 1, got {self.consistency}, {self.cells}"
            )
        if self.weak.shift or self.strong.shift:
            shifts = self.weak.shift, self.strong.shift
            raise ValueError(f"views are compared voxel by voxel: shift must be 0, got {shifts}")


class MSConEM(nn.Module):
    """Consistency of voxels and of every feature map, between a weak and a strong view of a crop.

    One pass shows the network both views. Turns are undone, on the output and on the maps, so that
    cells which saw the same voxels are compared. Voxels: the error of either view's output against
    the clean crop, which also trains the decoder. Features, at each scale: the distance on the
    sphere of each cell of the weak view, without gradient, to its prediction from the same cell of
    the strong one; a predictor and the stopped gradient are what keeps it from collapse (Chen and
    He 2021), and so does the reconstruction, which a constant feature cannot serve.

    Paper: it matches the channels of two augmented views of one strength, which it does not turn
    back, softly by cross-attention; here cells correspond exactly, and there is nothing to match.
    Paper: its release takes a logarithm of softmax over all matching pairs, without any other pair
    to tell them from, which asks that all be equally similar; here each is asked to be similar.
    Paper: it takes decoder maps of networks whose skip connections are cut; here backbones stay
    whole, as every other objective has them, and the maps are those of ``features``.
    Paper: the release weighs 1, 0.1 (features) and 0.5 (attention); the first two are kept.
    """

    OUT_CHANNELS = None  # as many as the crops have

    def __init__(
        self, config: MSConEMConfig, *, backbone: nn.Module, seed: int, channels: int = 1
    ) -> None:
        """Own the backbone; ``seed`` steers the views.

        Nothing here depends on how many ``channels`` the crops have: they are every objective's
        argument.

        Raises:
            ConfigError: the network gives no features beside its output.
        """
        super().__init__()
        self.config, self.backbone, self.seed = config, backbone, seed
        widths = paired_widths(backbone)
        self.predictors = nn.ModuleList(Head(width, 2 * width, width) for width in widths)

    def forward(self, batch: dict[str, Tensor], *, progress: float) -> LossOutput:
        """Loss of one batch.

        Args:
            batch: crops [B, C, D, H, W] float in [0, 1], positions int64 [B].
            progress: share of training done; this objective does not change with it.

        Returns:
            The loss; parts ``voxel_weak`` and ``voxel_strong`` (squared errors), ``scale_1`` to the
            coarsest scale (distances in [0, 4]), and ``feature_std``, how far the strong view's
            cells of a crop spread, 0 to 1: its mean over scales shows a collapse.
        """
        crops, positions = batch["crops"], batch["positions"]
        # Padded before it is turned: a map of a turned and then padded crop has no inverse.
        whole = pad_to(crops, self.backbone.legal(tuple(crops.shape[2:])))
        weak = make_view(whole, positions, self.config.weak, seed=self.seed, number=0)
        strong = make_view(whole, positions, self.config.strong, seed=self.seed, number=1)
        turns = (*weak.turns, *strong.turns)
        output, maps = self.backbone.both(torch.cat([weak.crops, strong.crops]))
        terms = dict(
            zip(("voxel_weak", "voxel_strong"), voxel_errors(output, crops, turns), strict=True)
        )
        voxels = sum(terms.values()) / 2
        spreads = []
        for number, (predictor, each) in enumerate(zip(self.predictors, maps, strict=True), 1):
            sides = [min(side, self.config.cells) for side in each.shape[2:]]
            aims, given = cells(each, turns, sides=sides).chunk(2)
            distances = sphere_distance(predictor(given), aims.detach())
            terms[f"scale_{number}"] = distances.mean(1)
            spreads.append(spread(given.detach()))
        distance = sum(terms[f"scale_{n}"] for n in range(1, len(maps) + 1)) / len(maps)
        everyone = torch.ones_like(distance, dtype=torch.bool)
        parts = {name: part(samples, everyone) for name, samples in terms.items()}
        parts["feature_std"] = part(torch.stack(spreads).mean(0), everyone)
        return LossOutput((voxels + self.config.consistency * distance).mean(), parts)


def voxel_errors(output: Tensor, crops: Tensor, turns: Sequence[Turn]) -> tuple[Tensor, Tensor]:
    """Mean squared error of both views' outputs, turned back, against the clean crops.

    Args:
        output: [2B, C, D', H', W'] of the padded crops, the weak views first.
        crops: [B, C, D, H, W], none of their sides larger.
        turns: of the 2B views.

    Returns:
        Of the weak and of the strong views, float32 [B] each; padding does not count.
    """
    d, h, w = crops.shape[2:]
    seen = unturn(output, turns)[..., :d, :h, :w].float()
    weak, strong = (seen - torch.cat([crops, crops])).square().mean((1, 2, 3, 4)).chunk(2)
    return weak, strong


OBJECTIVES.add("ms_con_em", MSConEM, MSConEMConfig(), source="Chen et al. 2024")
