"""Superhuman: the residual symmetric U-Net of Lee et al. (2017), and its trunk, which PEA shares.

It halves and doubles sections only in their plane, so that it takes any number of sections.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from tokenunify_scale.models.blocks import Conv3d, probability
from tokenunify_scale.models.padding import pad_to, round_up
from tokenunify_scale.registry import MODELS
from tokenunify_scale.volumes.geometry import Triple

Widths = tuple[int, int, int, int, int]

IN_PLANE = 16  # voxels of the input, along y and x, that one voxel of the centre stands for


@dataclass(frozen=True, kw_only=True)
class SuperhumanConfig:
    """Widths of a network."""

    widths: Widths = (28, 36, 48, 64, 80)
    """Channels of the five levels, fine to coarse; the embeddings have those of the first."""

    def __post_init__(self) -> None:
        """Refuse another number of levels, or an empty one."""
        check_widths(self.widths)


def check_widths(widths: Widths) -> None:
    """Raise ValueError unless there are five widths of at least one channel."""
    if len(widths) != 5 or min(widths) < 1:
        raise ValueError(f"widths must be five numbers >= 1, got {widths}")


class ResidualBlock(nn.Module):
    """An in-plane convolution to the block's width, and two 3x3x3 ones around which it is added."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Change the channel count; keep all sides."""
        super().__init__()
        self.conv1 = Conv3d(inputs, outputs, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.norm1 = batch_norm(outputs)
        self.conv2 = Conv3d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = batch_norm(outputs)
        self.conv3 = Conv3d(outputs, outputs, 3, padding=1, bias=False)
        self.norm3 = batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, D, H, W] to [B, outputs, D, H, W]."""
        x = _normed(self.norm1, self.conv1(x))
        y = _normed(self.norm2, self.conv2(x))
        return _normed(self.norm3, self.conv3(y) + x)


class UpBlock(nn.Module):
    """Double the sides in the plane, add the skip feature, and refine."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """``inputs`` channels from below, ``outputs`` from the skip and out."""
        super().__init__()
        self.conv = Conv3d(inputs, outputs, 1)
        self.norm = batch_norm(outputs)
        self.block = ResidualBlock(outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, inputs, D, H, W] and the skip [B, outputs, D, 2H, 2W] to the skip's shape."""
        # Paper: interpolated first, then convolved. A pointwise convolution and an interpolation
        # commute, and this way round either has a quarter of the work or fewer channels.
        # Paper: the public PyTorch version aligns corners, so that a voxel's value would depend
        # on how far away the crop's end is, and tiles would not agree.
        x = functional.interpolate(self.conv(x), scale_factor=(1, 2, 2), mode="trilinear")
        # Autocast interpolates in 32 bits: without this, all that follows would be of that type.
        return self.block(_normed(self.norm, x.to(skip.dtype) + skip))


class Trunk(nn.Module):
    """All of the network but its last, pointwise convolution.

    PEA has the same one under the same name, so that weights of either start the other.
    """

    def __init__(self, widths: Widths, *, in_channels: int) -> None:
        """``encoder`` ends with the centre; ``decoder`` begins above it."""
        super().__init__()
        first = widths[0]
        self.embed_in = Conv3d(in_channels, first, (1, 5, 5), padding=(0, 2, 2))
        steps = zip((first, *widths), widths, strict=False)
        self.encoder = nn.ModuleList(ResidualBlock(below, above) for below, above in steps)
        steps = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.decoder = nn.ModuleList(UpBlock(below, above) for below, above in steps)
        self.embed_out = Conv3d(first, first, (1, 5, 5), padding=(0, 2, 2))

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Decoder features of crops of a legal size.

        Args:
            crops: [B, C, D, H, W].

        Returns:
            Five maps [B, widths[i], D, H/2^i, W/2^i]: the output embedding, the decoder's levels
            three to one (all but its last), and the centre.
        """
        return self.decode(self.encode(crops))

    def encode(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Encoder features of crops of a legal size, as many and as large as ``forward``'s."""
        x = functional.elu(self.embed_in(crops))
        levels = []
        for i, block in enumerate(self.encoder):
            x = block(functional.max_pool3d(x, (1, 2, 2)) if i else x)
            levels.append(x)
        return tuple(levels)

    def decode(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Decoder features from those of ``encode``, as ``forward`` gives them."""
        *skips, x = features
        levels = [x]
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            x = up(x, skip)
            levels.append(x)
        levels[-1] = functional.elu(self.embed_out(x))
        return tuple(reversed(levels))

    def groups(self, *heads: nn.Module) -> dict[str, list[nn.Parameter]]:
        """Parameters by part, those of a network's heads with the decoder. Source: Table 4."""
        parts = {
            "mamba": [],
            "encoder": [self.embed_in, self.encoder],
            "decoder": [self.decoder, self.embed_out, *heads],
        }
        return {
            name: [parameter for module in modules for parameter in module.parameters()]
            for name, modules in parts.items()
        }


class Superhuman(nn.Module):
    """Affinities from a residual U-Net with batch norm; output in (0, 1) at the input's resolution.

    Source: Lee et al. 2017, "Superhuman accuracy on the SNEMI3D connectomics challenge";
    1,477,659 parameters, 1.478 M in Table 1.
    """

    margin: Triple = (0, 0, 0)

    def __init__(
        self, config: SuperhumanConfig, *, in_channels: int = 1, out_channels: int = 3
    ) -> None:
        """Build the layers; allocates nothing under ``torch.device("meta")``."""
        super().__init__()
        self.config = config
        self.widths = config.widths  # of the maps of features
        self.trunk = Trunk(config.widths, in_channels=in_channels)
        self.out = Conv3d(config.widths[0], out_channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all convolutions anew; norms reset themselves."""
        initialise(self)

    def forward(self, crops: Tensor) -> Tensor:
        """Map crops to maps in (0, 1).

        Args:
            crops: [B, C, D, H, W], float in [0, 1]; any sides (padded by reflection to a legal
                size and cropped back).

        Returns:
            [B, out_channels, D, H, W].
        """
        return self.both(crops)[0]

    def both(self, crops: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What ``forward`` and ``features`` return, from one pass; errors as theirs."""
        d, h, w = crops.shape[2:]
        features = self.features(crops)
        finest = self.trunk.decode(features)[0][..., :d, :h, :w]
        return probability(self.out(finest)), features

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
        return self.trunk.groups(self.out)

    def legal(self, sides: Triple) -> Triple:
        """The smallest size (z, y, x) in voxels, at least ``sides``, that is not padded."""
        return legal_size(sides)

    def _pad(self, crops: Tensor) -> Tensor:
        return pad_to(crops, self.legal(tuple(crops.shape[2:])))


def legal_size(sides: Triple) -> Triple:
    """The smallest legal size (z, y, x) in voxels that is at least ``sides``.

    Multiples of 16 in the plane, and more than one voxel at the centre, which batch norm needs
    in training.
    """
    z, y, x = round_up(sides, to=(1, IN_PLANE, IN_PLANE))
    return (z, y, 2 * IN_PLANE) if (z, y, x) == (1, IN_PLANE, IN_PLANE) else (z, y, x)


def batch_norm(channels: int) -> nn.BatchNorm3d:
    """A batch norm of weight 1 and bias 0."""
    # Paper: the published code moves its running statistics by 0.001 a step; after some hundred
    # steps they are still at their start, and evaluation is far from training. torch's 0.1 is not.
    return nn.BatchNorm3d(channels)


def initialise(network: nn.Module) -> None:
    """Fresh Kaiming-normal weights and zero biases for all convolutions of a network."""
    for module in network.modules():
        if isinstance(module, Conv3d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _normed(norm: nn.BatchNorm3d, x: Tensor) -> Tensor:
    """Norm and ELU, which may overwrite: neither's backward pass reads the norm's output."""
    return functional.elu(norm(x), inplace=True)


MODELS.add("superhuman", Superhuman, SuperhumanConfig(), source="Table 1; Lee et al. 2017")
