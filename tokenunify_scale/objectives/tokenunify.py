"""TokenUnify: random token, next token and next-all tokens, weighted by a curriculum."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from tokenunify_scale.config import ConfigError, Named
from tokenunify_scale.models.perceiver import (
    PerceiverConfig,
    PerceiverHead,
    feature_width,
    visibility,
)
from tokenunify_scale.objectives.corruption import (
    NOISE_MEAN,
    Corrupted,
    Kind,
    PrefixConfig,
    corrupt,
    learned_fill,
)
from tokenunify_scale.objectives.curriculum import Mode, Piecewise, Weights
from tokenunify_scale.objectives.errors import (
    masked_mean,
    next_all_estimate,
    sample_means,
    token_errors,
)
from tokenunify_scale.objectives.output import LossOutput, part
from tokenunify_scale.registry import CURRICULA, OBJECTIVES
from tokenunify_scale.tokens.patches import patch_grid, patchify

KINDS: tuple[Kind, Kind] = ("random", "prefix")  # at even and odd positions of the stream
PROBES = 1000  # points of training at which a curriculum is asked whether its terms are trained


@dataclass(frozen=True, kw_only=True)
class TokenUnifyConfig(PrefixConfig):
    """Patches, what is hidden, what decodes, and how the three terms are weighted."""

    ratio: float = 0.75
    """Share of the patches hidden in a random sample (rho)."""

    head: Literal["perceiver", "dense"] = "perceiver"
    """What predicts next and next-all: a Perceiver Resampler and the network's own dense output
    alike, or the dense output alone."""

    perceiver: PerceiverConfig = field(default_factory=PerceiverConfig)
    """Sizes of the Perceiver Resampler; without effect where the head is dense."""

    terms: tuple[Mode, ...] = ("random", "next", "next_all")
    """What is learned: all three, or fewer for the ablations of Table 3."""

    curriculum: Annotated[Named, CURRICULA] = field(
        default_factory=lambda: Named("piecewise", Piecewise())
    )
    """Weights of the terms over training."""

    def __post_init__(self) -> None:
        """Refuse a share outside (0, 1), and terms that are none, unknown or twice there."""
        super().__post_init__()
        if not 0 < self.ratio < 1:
            raise ConfigError(f"ratio must be in (0, 1), got {self.ratio}")
        valid = Weights._fields
        if not self.terms or {*self.terms} - {*valid} or len({*self.terms}) < len(self.terms):
            raise ConfigError(
                f"terms must be one or more of {', '.join(valid)}, each once: {list(self.terms)}"
            )


class TokenUnify(nn.Module):
    """The weighted sum of three reconstruction errors, from one forward pass.

    Samples at even positions of the stream hide random patches; those at odd positions hide all
    behind a random prefix, and are held against the next patch (next token) and against every
    hidden patch (next-all). Each sample has one corruption, so a step costs what a step of masked
    autoencoding costs, and a little more for the head.

    The head gathers the features of the visible prefix once; each later patch is a query. Half of
    the weight of next and next-all is on the head's patches, half on the dense output's, so that
    encoder, Mamba layers and decoder are all pretrained. The head is no part of the backbone.

    All terms are mean squared errors a voxel of one predicted patch: ``random``, ``next`` and
    ``next_all`` of whichever head there is, ``dense_next`` and ``dense_next_all`` of the dense
    output beside a Perceiver.

    Source: Eq. 3-5 (terms), Eq. 7 (weighted sum), Eq. 14 (weights), Alg. 3 and Sec. 4.2.4 (head).
    """

    OUT_CHANNELS = None  # as many as the crops have

    def __init__(
        self, config: TokenUnifyConfig, *, backbone: nn.Module, seed: int, channels: int = 1
    ) -> None:
        """Own the backbone, the head, and the patch that is put in the place of hidden ones.

        Args:
            config: what is hidden, predicted and weighted.
            backbone: C channels in and out.
            seed: of the run.
            channels: C of the crops.

        Raises:
            ConfigError: the head cannot read this network's features, or the curriculum has steps
                without any of the terms.
        """
        super().__init__()
        self.config, self.backbone, self.seed = config, backbone, seed
        self.weights_at = CURRICULA.get(config.curriculum.name).factory
        self.kinds = tuple(kind for kind in KINDS if _terms_of(kind, config.terms))
        self.fill_bias = learned_fill(config.fill, channels=channels, patch=config.patch)
        self.head = None
        if config.head == "perceiver" and "prefix" in self.kinds:
            self.head = PerceiverHead(
                config.perceiver,
                feature_width=feature_width(backbone, stage=config.perceiver.stage),
                patch=config.patch,
                channels=channels,
            )
        for probe in range(PROBES):  # now, not in the middle of a run
            self._weights(probe / PROBES)

    def reset_rest(self) -> None:
        """Make the learned patch flat grey, as it begins."""
        if self.fill_bias is not None:
            nn.init.constant_(self.fill_bias, NOISE_MEAN)

    def forward(self, batch: dict[str, Tensor], *, progress: float) -> LossOutput:
        """Loss of one batch.

        Args:
            batch: crops [B, C, D, H, W] float in [0, 1], positions int64 [B].
            progress: share of training done, in [0, 1]; moves the curriculum.

        Raises:
            ValueError: the patch does not divide the crop, or there are too few patches.
        """
        crops, config = batch["crops"], self.config
        kinds = [self.kinds[p % len(self.kinds)] for p in batch["positions"].tolist()]
        seen = corrupt(
            crops,
            batch["positions"],
            kinds,
            patch=config.patch,
            ratio=config.ratio,
            path=config.path,
            seed=self.seed,
            fill=config.fill,
            learned=self.fill_bias,
            prefixes=config.prefixes_per_crop,
        )
        decoded = self.decode(seen)
        tokens = patchify(crops, patch=config.patch)[seen.rows]
        errors = {d: token_errors(x, tokens, targets=config.targets) for d, x in decoded.items()}
        weights = self._weights(progress)
        loss, parts = crops.new_zeros((), dtype=torch.float32), {}
        for kind in self.kinds:
            selected = torch.tensor([k == kind for k in kinds], device=crops.device)
            heads = [*decoded] if kind == "prefix" else ["dense"]
            for term in _terms_of(kind, config.terms):
                for head in heads:
                    rows = _estimate(term, errors[head], seen)
                    samples = sample_means(rows, seen.rows, count=len(crops)) * selected
                    # A fixed denominator, not the count at hand, which ranks do not share: the
                    # mean over ranks stays that of the whole batch.
                    share = len(heads) / len(self.kinds)
                    loss = loss + getattr(weights, term) / share * samples.mean()
                    beside = "dense_" if head == "dense" and len(heads) > 1 else ""
                    parts[beside + term] = part(samples, selected)
        return LossOutput(loss, parts)

    def decode(self, seen: Corrupted) -> dict[str, Tensor]:
        """What the network and the head make of what they see, from one pass of each.

        The head runs on samples without a prefix too: all ranks then take the same branch.

        Args:
            seen: a corrupted batch.

        Returns:
            By decoder (``perceiver`` if there is one, ``dense``), every patch [B', K, C*P].
        """
        patch, sides = self.config.patch, tuple(seen.crops.shape[2:])
        if self.head is None:
            return {"dense": patchify(self.backbone(seen.crops), patch=patch)}
        output, maps = self.backbone.both(seen.crops)
        features = maps[self.config.perceiver.stage]
        place = {"grid": patch_grid(sides, patch=patch), "padded": self.backbone.legal(sides)}
        visible = visibility(seen.hidden, size=tuple(features.shape[2:]), patch=patch, **place)
        return {
            "perceiver": self.head(features, visible, **place),
            "dense": patchify(output, patch=patch),
        }

    def weights(self, progress: float) -> dict[str, float]:
        """Weight of each term at ``progress``, for the log."""
        weights = self._weights(progress)
        return {term: getattr(weights, term) for term in self.config.terms}

    def _weights(self, progress: float) -> Weights:
        options = self.config.curriculum.options
        weights = self.weights_at(options, progress=progress, seed=self.seed)
        return restricted(weights, self.config.terms)


def restricted(weights: Weights, terms: Sequence[Mode]) -> Weights:
    """Weights of some terms alone, in the same ratios and with the same sum.

    Paper: Table 3 leaves terms out and does not say what becomes of their weights. Here the others
    take them over, so that the scale of the loss stays, and one term alone has all of it. Nor does
    it say how many crops a term sees: where no term needs a kind of corruption, none is drawn.

    Args:
        weights: >= 0.
        terms: those that stay.

    Raises:
        ConfigError: none of them has a weight.
    """
    kept = sum(getattr(weights, term) for term in terms)
    if kept <= 0:
        raise ConfigError(
            f"terms are {', '.join(terms)}, and the curriculum has steps with others alone: choose "
            "one that always weighs one of them (constant, or sampled with constant probabilities)"
        )
    scale = sum(weights) / kept if len(terms) < len(weights) else 1.0
    kept_by_name = {term: getattr(weights, term) * scale for term in terms}
    return Weights(*(kept_by_name.get(name, 0.0) for name in Weights._fields))


def _terms_of(kind: Kind, terms: Sequence[Mode]) -> list[Mode]:
    """The terms that a kind of corruption serves, in the order of ``Weights``."""
    served = ("random",) if kind == "random" else ("next", "next_all")
    return [term for term in served if term in terms]


def _estimate(term: Mode, errors: Tensor, seen: Corrupted) -> Tensor:
    """What each row says of a term, [B'], from the error of each patch [B', K]."""
    if term == "next_all":
        return next_all_estimate(errors, seen.hidden)
    return masked_mean(errors, seen.hidden if term == "random" else seen.following)


OBJECTIVES.add("tokenunify", TokenUnify, TokenUnifyConfig(), source="Eq. 3-7, 14; Alg. 3")
