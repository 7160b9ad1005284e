"""Decision-based masked image modelling: which patches are hidden is decided by their content."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from tokenunify_scale.objectives.corruption import noise_fill
from tokenunify_scale.objectives.edges import Axes, edge_scores, log_weights, mixed_mask
from tokenunify_scale.objectives.errors import masked_mean, patch_errors
from tokenunify_scale.objectives.mae import MAE, MAEConfig
from tokenunify_scale.objectives.output import LossOutput, part
from tokenunify_scale.objectives.policy import MaskPolicy, learn, pick
from tokenunify_scale.registry import OBJECTIVES
from tokenunify_scale.tokens.masks import hide, random_mask, sample_generator
from tokenunify_scale.tokens.patches import patch_grid

Size3 = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class DBMIMConfig:
    """How many patches are hidden, and who decides which."""

    patch: Size3 = (4, 16, 16)
    """Patch size (z, y, x) in voxels."""

    # Paper: the policy searches the ratio too and ends near 0.83; the authors' later runs fix 0.75.
    ratio: float = 0.75
    """Share of the patches that are hidden."""

    masking: Literal["mix", "random", "edges", "policy"] = "mix"
    """``mix`` draws ``edge_share`` of the hidden patches by their edges and the others uniformly,
    ``random`` draws all uniformly, ``edges`` all by their edges; ``policy`` learns whom to hide."""

    edge_share: float = 0.5
    """Share of the hidden patches that ``mix`` draws by their edges."""

    edge_power: float = 1.25
    """Power of the edge score by which a patch is drawn."""

    gradient: Axes = "plane"
    """Differences that make an edge: within sections, or along z as well (isotropic voxels)."""

    policy_weight: float = 0.05
    """Weight of the policy's own loss."""

    value_weight: float = 0.5
    """Weight of the critic within it."""

    entropy_weight: float = 0.01
    """Weight of the entropy within it; more keeps masks closer to uniform."""

    def __post_init__(self) -> None:
        """Refuse shares outside their ranges and negative weights."""
        if not 0 < self.ratio < 1 or not 0 <= self.edge_share <= 1:
            raise ValueError(
                "ratio must be in (0, 1) and edge_share in [0, 1], "
                f"got {self.ratio}, {self.edge_share}"
            )
        for name in ("edge_power", "policy_weight", "value_weight", "entropy_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")


class Draws(NamedTuple):
    """The randomness of a batch, on the device of its crops."""

    uniform: Tensor
    """bool [B, K], a mask of the ratio's size, drawn as ``mae`` draws it."""

    noise: Tensor
    """Like the crops: what hidden voxels are replaced by, the same for all maskings."""

    gumbel: Tensor
    """[B, K], standard Gumbel noise."""

    rest: Tensor
    """[B, K], uniform in [0, 1)."""

    total: int
    """How many patches of each crop are to be hidden."""


def draw(crops: Tensor, positions: Tensor, *, patch: Size3, ratio: float, seed: int) -> Draws:
    """What a batch's masks and fills are made of, a function of the seed and each position.

    Args:
        crops: [B, C, D, H, W], whose shape, type and device count.
        positions: int64 [B], each sample's position in the stream.
        patch: patch size (z, y, x) in voxels.
        ratio: share of the patches to hide.
        seed: of the run.

    Raises:
        ValueError: the patch does not divide the crop, or there are fewer than two patches.
    """
    d, h, w = patch_grid(tuple(crops.shape[2:]), patch=patch)
    rows = []
    for position in positions.tolist():
        generator = sample_generator(seed, position)
        uniform = random_mask(d * h * w, ratio=ratio, generator=generator)
        noise = noise_fill(crops.shape[1:], generator=generator)
        gumbel = -torch.empty(d * h * w).exponential_(generator=generator).log()
        rows.append((uniform, noise, gumbel, torch.rand(d * h * w, generator=generator)))
    uniform, noise, gumbel, rest = (torch.stack(column) for column in zip(*rows, strict=True))
    total, device = int(uniform[0].sum()), crops.device
    return Draws(
        uniform.to(device),
        noise.to(crops),
        gumbel.to(device),
        rest.to(device),
        total,
    )


class DBMIM(nn.Module):
    """Mean squared error on hidden patches; what is hidden depends on the crop.

    With the seed and the crop given, a mask is a function of a sample's position, however the
    batch is split. ``masking=random`` is ``mae``. Maskings are not comparable by their own loss,
    which each of them moves: ``uniform_error`` is the number they share.

    Source: Chen et al. 2023; the mix and its defaults from github.com/ydchen0806/dbMiM. Its README
    recommends the mix on its larger data set, found it worse than uniform masking on the smaller,
    and lists the learned policies of its later runs as negative results.
    Paper: it reconstructs gradient histograms too, and the authors' later runs weigh errors by
    edges; here maskings differ in the mask alone. They hide the patches of the highest edge
    scores; here patches are drawn in proportion, so that a crop seen twice has two masks.
    """

    OUT_CHANNELS = None  # as many as the crops have

    def __init__(
        self, config: DBMIMConfig, *, backbone: nn.Module, seed: int, channels: int = 1
    ) -> None:
        """Own the backbone and, for ``masking=policy``, the policy; ``seed`` steers the draws.

        Edges and policy look at the mean over channels, so nothing here depends on how many the
        crops have: ``channels`` is every objective's argument.
        """
        super().__init__()
        self.config, self.backbone, self.seed = config, backbone, seed
        self.policy = MaskPolicy() if config.masking == "policy" else None

    def forward(self, batch: dict[str, Tensor], *, progress: float) -> LossOutput:
        """Loss of one batch.

        Args:
            batch: crops [B, C, D, H, W] float in [0, 1], positions int64 [B].
            progress: share of training done; this objective does not change with it.

        Returns:
            Parts: ``masked``, the error of the hidden patches; with a policy also ``policy``, its
            loss, ``reward`` and ``entropy``, see ``policy.Lesson``.

        Raises:
            ValueError: the patch does not divide the crop.
        """
        crops, config = batch["crops"], self.config
        draws = draw(
            crops, batch["positions"], patch=config.patch, ratio=config.ratio, seed=self.seed
        )
        if self.policy is None:
            hidden = self._fixed_mask(crops, draws)
        else:
            decision = self.policy(crops, patch=config.patch)
            picks = pick(decision.logits, draws.gumbel, count=draws.total)
            hidden = picks.hidden()
        seen = hide(crops, hidden, draws.noise, patch=config.patch)
        errors = patch_errors(self.backbone(seen), crops, patch=config.patch)
        samples = masked_mean(errors, hidden)
        everyone = torch.ones_like(samples, dtype=torch.bool)
        loss, parts = samples.mean(), {"masked": part(samples, everyone)}
        if self.policy is not None:
            lesson = learn(
                decision,
                picks,
                errors,
                value=config.value_weight,
                entropy=config.entropy_weight,
            )
            loss = loss + config.policy_weight * lesson.loss.mean()
            terms = {"policy": lesson.loss, "reward": lesson.reward, "entropy": lesson.entropy}
            parts |= {name: part(values, everyone) for name, values in terms.items()}
        return LossOutput(loss, parts)

    def _fixed_mask(self, crops: Tensor, draws: Draws) -> Tensor:
        """The mask [B, K] of a masking that does not learn."""
        config = self.config
        if config.masking == "random":
            return draws.uniform
        share = 1.0 if config.masking == "edges" else config.edge_share
        scores = edge_scores(crops, patch=config.patch, axes=config.gradient)
        return mixed_mask(
            log_weights(scores, power=config.edge_power),
            draws.gumbel,
            draws.rest,
            edges=round(share * draws.total),
            total=draws.total,
        )


@torch.no_grad()
def uniform_error(
    backbone: nn.Module, batch: dict[str, Tensor], *, patch: Size3, ratio: float, seed: int
) -> Tensor:
    """Error of uniformly hidden patches: the scale on which maskings are compared.

    The same seed and positions give every backbone the same masks and fills. It is the loss of an
    ``mae`` objective of this patch, ratio and seed around the backbone, so a held-out run of
    ``mae`` from a run's weights measures the same.

    Args:
        backbone: [B, C, D, H, W] to the same shape; in evaluation mode if it has one.
        batch: crops [B, C, D, H, W] float in [0, 1], positions int64 [B]; held out.
        patch: patch size (z, y, x) in voxels.
        ratio: share hidden.
        seed: of the masks; the same for all that are compared.

    Returns:
        Scalar, the mean over samples; average batches by their sizes.

    Raises:
        ValueError: the patch does not divide the crop.
    """
    objective = MAE(MAEConfig(patch=patch, ratio=ratio), backbone=backbone, seed=seed)
    return objective(batch, progress=1.0).loss


OBJECTIVES.add(
    "dbmim", DBMIM, DBMIMConfig(), source="Chen et al. 2023; github.com/ydchen0806/dbMiM"
)
