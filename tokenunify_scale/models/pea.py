"""PEA: pixel embeddings on Superhuman's trunk; affinities are the cosines between neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models.blocks import Conv3d
from tokenunify_scale.models.padding import pad_to
from tokenunify_scale.models.superhuman import (
    Trunk,
    Widths,
    check_widths,
    initialise,
    legal_size,
)
from tokenunify_scale.registry import MODELS
from tokenunify_scale.volumes.geometry import Triple, edges

AFFINITIES = 3
EPS = 1e-8
"""Added to squared lengths: near the zero vector, gradients of a direction stay below 1e4."""


@dataclass(frozen=True, kw_only=True)
class PEAConfig:
    """Widths of a network and of its embeddings."""

    embedding: int = 16
    """Components of a voxel's embedding."""

    widths: Widths = (28, 36, 48, 64, 80)
    """Channels of the trunk's five levels, as Superhuman's."""

    def __post_init__(self) -> None:
        """Refuse empty embeddings and another number of levels."""
        check_widths(self.widths)
        if self.embedding < 1:
            raise ValueError(f"embedding must be >= 1, got {self.embedding}")


class PEA(nn.Module):
    """Embeddings of voxels at five resolutions, of which the finest gives the affinities.

    The heads of the four coarser ones are there for training: ``forward`` does not run them, so
    they get gradients from a loss on ``embeddings`` alone.

    Source: Huang et al., AAAI 2022, "Learning to model pixel-embedded affinity for homogeneous
    instance segmentation".
    """

    margin: Triple = (0, 0, 0)

    def __init__(self, config: PEAConfig, *, in_channels: int = 1, out_channels: int = 3) -> None:
        """Build the layers; allocates nothing under ``torch.device("meta")``.

        Raises:
            ConfigError: ``out_channels`` is not 3.
        """
        super().__init__()
        if out_channels != AFFINITIES:
            raise ConfigError(
                f"model pea: out_channels must be {AFFINITIES}, got {out_channels}: pea predicts "
                "three affinities from embeddings and has no image output; pretrain superhuman "
                "and start from its weights"
            )
        self.config = config
        self.widths = config.widths  # of the maps of features
        self.trunk = Trunk(config.widths, in_channels=in_channels)
        first, *coarser = config.widths
        self.out = Conv3d(first, config.embedding, 1)
        # Paper: prints 1.480 M parameters; the published layers, these heads with them, are
        # 1,481,748.
        self.deep = nn.ModuleList(Conv3d(width, config.embedding, 1) for width in coarser)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all convolutions anew; norms reset themselves."""
        initialise(self)

    def forward(self, crops: Tensor) -> Tensor:
        """Affinities of every voxel with the one before it along z, y and x.

        Args:
            crops: [B, C, D, H, W], float in [0, 1]; any sides (padded by reflection to a legal
                size and cropped back).

        Returns:
            [B, 3, D, H, W], float32 in [0, 1]: cosines, negative ones as 0. The first voxel of an
            axis has none before it and repeats the affinity of the second; along a side of one
            voxel all are 1, up to rounding.
        """
        return self.both(crops)[0]

    def both(self, crops: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What ``forward`` and ``features`` return, from one pass; errors as theirs."""
        features = self.features(crops)
        finest = self._crop(self.trunk.decode(features)[0], like=crops)
        return nearest_affinities(self.out(finest)), features

    def embeddings(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Embeddings of the crops, fine to coarse, of any length: not normalised.

        Args:
            crops: as in ``forward``.

        Returns:
            Five maps of ``embedding`` channels: the finest [B, E, D, H, W] at the crops' own
            resolution and size; then the decoder's levels three, two and one, and the centre, at
            [B, E, D, H'/2^i, W'/2^i] for i = 1..4, where H' and W' are H and W rounded up to the
            legal size. Voxel (z, y, x) of map i covers the crop from (z, 2^i y, 2^i x) on.
        """
        finest, *coarser = self.trunk(self._pad(crops))
        deep = (head(level) for head, level in zip(self.deep, coarser, strict=True))
        return self.out(self._crop(finest, like=crops)), *deep

    def features(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Encoder features of the (padded) crops, fine to coarse.

        Args:
            crops: as in ``forward``.

        Returns:
            Five maps [B, widths[i], D, H/2^i, W/2^i].
        """
        return self.trunk.encode(self._pad(crops))

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by part: mamba (none), encoder with the centre, decoder."""
        return self.trunk.groups(self.out, self.deep)

    def legal(self, sides: Triple) -> Triple:
        """The smallest size (z, y, x) in voxels, at least ``sides``, that is not padded."""
        return legal_size(sides)

    def _pad(self, crops: Tensor) -> Tensor:
        return pad_to(crops, self.legal(tuple(crops.shape[2:])))

    def _crop(self, level: Tensor, *, like: Tensor) -> Tensor:
        d, h, w = like.shape[2:]
        return level[..., :d, :h, :w]


def nearest_affinities(embedding: Tensor) -> Tensor:
    """Affinities of every voxel with the one before it, as ``PEA.forward`` gives them.

    Args:
        embedding: [B, E, D, H, W], of any length and floating type.

    Returns:
        [B, 3, D, H, W], float32 in [0, 1].
    """
    steps = [min(side - 1, 1) for side in embedding.shape[2:]]  # one voxel meets itself
    offsets = [(steps[0], 0, 0), (0, steps[1], 0), (0, 0, steps[2])]
    channels = cosines(normalise(embedding), offsets).unbind(1)
    whole = []
    for axis, (step, channel) in enumerate(zip(steps, channels, strict=True), start=1):
        first = channel.narrow(axis, step, step)
        rest = channel.narrow(axis, step, channel.shape[axis] - step)
        whole.append(torch.cat([first, rest], dim=axis))
    return torch.stack(whole, dim=1).clamp(0, 1)  # a cosine exceeds 1 by rounding


def normalise(embedding: Tensor) -> Tensor:
    """Vectors of length 1, in float32; a zero vector stays zero, with a finite gradient.

    Args:
        embedding: [B, E, D, H, W], any floating type.

    Returns:
        Like ``embedding``.
    """
    wide = embedding.float()
    return wide * torch.rsqrt(wide.square().sum(1, keepdim=True) + EPS)


def cosines(units: Tensor, offsets: Sequence[Triple]) -> Tensor:
    """Cosines of the embeddings at p and p - offset.

    Args:
        units: [B, E, D, H, W], vectors of length 1.
        offsets: zyx, in voxels, one a channel; may be negative or long.

    Returns:
        [B, C, D, H, W]; 0 where p - offset lies outside. Differentiable once.
    """
    return _Cosines.apply(units, tuple(offsets))


class _Cosines(torch.autograd.Function):
    """All channels at once: one gradient as large as the embedding, not several a channel."""

    @staticmethod
    def forward(ctx: Any, units: Tensor, offsets: tuple[Triple, ...]) -> Tensor:
        ctx.save_for_backward(units)
        ctx.offsets = offsets
        batch, _, *sides = units.shape
        result = units.new_zeros(batch, len(offsets), *sides)
        for channel, offset in enumerate(offsets):
            here, there = edges(offset, sides=sides)
            result[:, channel][(..., *here)] = (units[(..., *here)] * units[(..., *there)]).sum(1)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (units,) = ctx.saved_tensors
        result = torch.zeros_like(units)
        for channel, offset in enumerate(ctx.offsets):
            here, there = (
                (..., *ends) for ends in edges(offset, sides=units.shape[2:])
            )
            outer = grad[:, channel : channel + 1][here]
            result[here].addcmul_(outer, units[there])
            result[there].addcmul_(outer, units[here])
        return result, None


MODELS.add("pea", PEA, PEAConfig(), source="Table 1; Huang et al. 2022")
