"""BYOL: predict, from one view of a crop, what a slowly moving copy of the network sees in another.

Source: Grill et al. 2020, "Bootstrap your own latent".
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tokenunify_scale.objectives.heads import GlobalNorm, Head, pool, sphere_distance, spread
from tokenunify_scale.objectives.output import LossOutput, part
from tokenunify_scale.objectives.teacher import Teacher
from tokenunify_scale.objectives.views import MEDIUM, Strength, make_view
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

    def __post_init__(self) -> None:
        """Refuse empty heads and what is no share."""
        if min(self.hidden, self.projection) < 1:
            raise ValueError(
                f"hidden and projection must be >= 1, got {self.hidden}, {self.projection}"
            )
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], got {self.momentum}")


class BYOL(nn.Module):
    """Squared distance, on the sphere, of a prediction from one view to the target's of another.

    Each map of the backbone's ``features`` is averaged over its voxels; all together are projected.
    What ``features`` does not use, the decoder, is frozen: it would get no gradient, and decay
    (AdamW's) would shrink it. It is saved with its initial weights.

    Paper: the heads of BYOL have batch norms, and without them it collapses here within ten steps:
    averages over voxels differ little from crop to crop. Layer norms in the heads, and norms by
    statistics of the steps before on either side of the projector, keep projections spread, and
    neither world size nor micro-batch changes the loss. Richemond et al. 2020 find that BYOL needs
    the spread and not the batch's statistics.
    """

    OUT_CHANNELS = 1

    def __init__(self, config: BYOLConfig, *, backbone: nn.Module, seed: int) -> None:
        """Own the backbone and copy it; ``seed`` steers the views."""
        super().__init__()
        self.config, self.backbone, self.seed = config, backbone, seed
        for parameter in unused_by_features(backbone):
            parameter.requires_grad_(False)
        features, width = sum(backbone.widths), config.projection
        self.projector = Head(features, config.hidden, width)
        self.predictor = Head(width, config.hidden, width)
        self.target = Teacher(backbone, start=config.momentum)
        self.target_projector = Teacher(self.projector, start=config.momentum)
        # The target's statistics are its own: it lags behind, and so does its mean.
        pairs = {"online": (features, width), "target": (features, width)}
        self.norms = nn.ModuleDict(
            {name: nn.ModuleList(map(GlobalNorm, widths)) for name, widths in pairs.items()}
        )
        self.register_forward_pre_hook(_begin, with_kwargs=True)

    def forward(self, batch: dict[str, Tensor], *, progress: float) -> LossOutput:
        """Loss of one batch.

        Args:
            batch: crops [B, 1, D, H, W] float in [0, 1], positions int64 [B].
            progress: share of training done, in [0, 1]; moves the target where it changes.

        Returns:
            The loss, in [0, 8]; its part ``byol``, and ``feature_std``: 0 where all crops have one
            projection (a collapse), near 1 where they spread over the sphere. It is taken within a
            micro-batch, and absent for one of a single crop.
        """
        crops, settings = batch["crops"], {"seed": self.seed}
        views = torch.cat(
            [
                make_view(crops, batch["positions"], self.config.view, number=i, **settings).crops
                for i in (0, 1)
            ]
        )
        before, after = self.norms["online"]
        projections = after(self.projector(before(pool(self.backbone.features(views)))))
        predictions = self.predictor(projections)
        with torch.no_grad():
            before, after = self.norms["target"]
            features = pool(self.target.network.features(views))
            targets = after(self.target_projector(before(features)))
        first, second = targets.chunk(2)
        distances = sphere_distance(predictions, torch.cat([second, first]))
        samples = distances.reshape(2, -1).sum(0)
        everyone = torch.ones_like(samples, dtype=torch.bool)
        spreads = spread(projections.detach().reshape(2, len(crops), -1)).mean().expand(len(crops))
        parts = {
            "byol": part(samples, everyone),
            "feature_std": part(spreads, everyone & (len(crops) > 1)),
        }
        return LossOutput(samples.mean(), parts)


def unused_by_features(backbone: nn.Module) -> list[nn.Parameter]:
    """The parameters of a network on which none of its feature maps depends.

    Found from the graph of one pass on the meta device, which computes and allocates nothing.
    """
    tensors = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    shadows = {f"network.{k}": torch.empty_like(v, device="meta") for k, v in tensors.items()}
    names = [name for name, _ in backbone.named_parameters()]
    leaves = [shadows[f"network.{name}"].requires_grad_() for name in names]
    crops = torch.empty(2, 1, *backbone.legal((1, 1, 1)), device="meta")
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
    """Before a forward pass in training: target and statistics follow, once a step."""
    if objective.training:
        progress = options["progress"]
        objective.target.follow(objective.backbone, progress=progress)
        objective.target_projector.follow(objective.projector, progress=progress)
        for norms in objective.norms.values():
            for norm in norms:
                norm.begin(progress=progress)


OBJECTIVES.add("byol", BYOL, BYOLConfig(), source="Grill et al. 2020; Table 1")
