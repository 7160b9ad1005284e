"""BYOL: predict, from one view of a crop, what a slowly moving copy of the network sees in another.

Source: Grill et al. 2020, "Bootstrap your own latent".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tokenunify_scale.models.features import feature_widths
from tokenunify_scale.models.padding import pad_to
from tokenunify_scale.objectives.heads import Head, cells, sphere_distance, spread, standardised
from tokenunify_scale.objectives.output import LossOutput, part
from tokenunify_scale.objectives.teacher import Teacher
from tokenunify_scale.objectives.views import MEDIUM, Strength, Turn, make_view
from tokenunify_scale.registry import OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class BYOLConfig:
    """Views, heads, and how slowly the target moves."""

    view: Strength = MEDIUM
    """How far both views may be from the crop."""

    # Paper: 4096 and 256, on the 2048 features of a ResNet-50; ours are narrower.
    hidden: int = 1024
    """Width inside projector and predictor."""

    projection: int = 256
    """Length of a projection."""

    momentum: float = 0.99
    """What the target keeps of itself in the first step; rises to 1 along a cosine."""

    cells: int = 16
    """Cells along a side to which larger maps are averaged before they are compared."""

    def __post_init__(self) -> None:
        """Refuse empty heads and maps, what is no share, and views that do not fit each other."""
        if min(self.hidden, self.projection, self.cells) < 1:
            raise ValueError(
                "hidden, projection and cells must be >= 1, "
                f"got {self.hidden}, {self.projection}, {self.cells}"
            )
        if self.view.shift:
            raise ValueError(f"views are compared cell by cell: shift must be 0: {self.view.shift}")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], got {self.momentum}")


class BYOL(nn.Module):
    """Squared distance, on the sphere, of a prediction from one view to the target's of another.

    Both views are turned back and compared cell by cell, at the scale of the second coarsest map of
    ``features``; the others are averaged or repeated to it, and all are projected together. What
    ``features`` does not use, the decoder, is frozen: it would get no gradient, and decay (AdamW's)
    would shrink it. It is saved with its initial weights.

    Paper: BYOL compares averages over an image, which a batch norm spreads. Averages over a crop of
    tissue differ little from crop to crop: without norms they collapsed within ten steps, and with
    norms by the batches before they drifted until only noise was left (FIB-25, 300 steps). Cells
    differ, and are standardised over their crop, on either side of the projector: so one crop's
    loss does not depend on the others, nor on world size or micro-batch. Richemond et al. 2020 find
    that BYOL needs the spread and not the batch's statistics.
    """

    OUT_CHANNELS = None  # as many as the crops have

    def __init__(
        self, config: BYOLConfig, *, backbone: nn.Module, seed: int, channels: int = 1
    ) -> None:
        """Own the backbone, of C = ``channels`` in, and copy it; ``seed`` steers the views.

        Raises:
            ConfigError: the network does not say how wide its features are.
        """
        super().__init__()
        self.config, self.backbone, self.seed = config, backbone, seed
        features, width = sum(feature_widths(backbone)), config.projection
        for parameter in unused_by_features(backbone, channels=channels):
            parameter.requires_grad_(False)
        self.projector = Head(features, config.hidden, width)
        self.predictor = Head(width, config.hidden, width)
        self.target = Teacher(backbone, start=config.momentum)
        self.target_projector = Teacher(self.projector, start=config.momentum)
        self.register_forward_pre_hook(_begin, with_kwargs=True)

    def reset_rest(self) -> None:
        """Start the targets as what they follow."""
        self.target.copy_from(self.backbone)
        self.target_projector.copy_from(self.projector)

    def forward(self, batch: dict[str, Tensor], *, progress: float) -> LossOutput:
        """Loss of one batch.

        Args:
            batch: crops [B, C, D, H, W] float in [0, 1], positions int64 [B].
            progress: share of training done, in [0, 1]; moves the target where it changes.

        Returns:
            The loss, in [0, 8]; its part ``byol``, and ``feature_std``: 0 where each cell has the
            same projection in all crops (a collapse), near 1 where they spread over the sphere. It
            is taken within a micro-batch, and absent for one of a single crop.

        Raises:
            ValueError: the crop has one cell.
        """
        crops, settings = batch["crops"], {"seed": self.seed}
        # Padded before it is turned: a map of a turned and then padded crop has no inverse.
        whole = pad_to(crops, self.backbone.legal(tuple(crops.shape[2:])))
        pair = [
            make_view(whole, batch["positions"], self.config.view, number=number, **settings)
            for number in (0, 1)
        ]
        views, turns = torch.cat([view.crops for view in pair]), (*pair[0].turns, *pair[1].turns)
        seen = self._cells(self.backbone.features(views), turns)
        projections = standardised(self.projector(standardised(seen)))
        predictions = self.predictor(projections)
        with torch.no_grad():
            aims = self._cells(self.target.network.features(views), turns)
            targets = standardised(self.target_projector(standardised(aims)))
        first, second = targets.chunk(2)
        distances = sphere_distance(predictions, torch.cat([second, first])).mean(1)
        samples = distances.reshape(2, -1).sum(0)
        everyone = torch.ones_like(samples, dtype=torch.bool)
        by_cell = projections.detach().unflatten(0, (2, len(crops))).transpose(1, 2)
        spreads = spread(by_cell).mean().expand(len(crops))
        parts = {
            "byol": part(samples, everyone),
            "feature_std": part(spreads, everyone & (len(crops) > 1)),
        }
        return LossOutput(samples.mean(), parts)

    def _cells(self, maps: Sequence[Tensor], turns: Sequence[Turn]) -> Tensor:
        """All maps side by side, [B, cells, sum of their channels]."""
        sides = [min(side, self.config.cells) for side in maps[-2].shape[2:]]
        if math.prod(sides) < 2:
            raise ValueError(f"byol compares cells of a crop, and a map of {sides} has only one")
        return torch.cat([cells(each, turns, sides=sides) for each in maps], -1)


def unused_by_features(backbone: nn.Module, *, channels: int = 1) -> list[nn.Parameter]:
    """The parameters of a network of ``channels`` in on which none of its feature maps depends.

    Found from the graph of one pass on the meta device, which computes and allocates nothing.
    """
    tensors = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    shadows = {f"network.{k}": torch.empty_like(v, device="meta") for k, v in tensors.items()}
    names = [name for name, _ in backbone.named_parameters()]
    leaves = [shadows[f"network.{name}"].requires_grad_() for name in names]
    crops = torch.empty(2, channels, *backbone.legal((1, 1, 1)), device="meta")
    with torch.enable_grad():
        maps = functional_call(_Features(backbone), shadows, (crops,))
        total = torch.stack([each.sum() for each in maps]).sum()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return [tensors[name] for name, got in zip(names, gradients, strict=True) if got is None]


class _Features(nn.Module):
    """A network whose forward pass is ``features``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        return self.network.features(crops)


def _begin(objective: BYOL, inputs: Any, options: dict[str, Any]) -> None:
    """Before a forward pass in training: the target follows, once a step."""
    if objective.training:
        progress = options["progress"]
        objective.target.follow(objective.backbone, progress=progress)
        objective.target_projector.follow(objective.projector, progress=progress)


OBJECTIVES.add("byol", BYOL, BYOLConfig(), source="Grill et al. 2020; Table 1")
