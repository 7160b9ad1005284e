"""MALA: a U-Net of valid convolutions, whose output is smaller than its input.

Source: Funke et al. 2018, "Large scale image segmentation with structured loss based deep learning
for connectome reconstruction"; sizes as in the published code.

Which crops it takes. Along z nothing is pooled, and 14 valid convolutions take 28 sections, so
D >= 29. In the plane, let the last map have n voxels a side. Upwards a side triples and loses 4,
three times over: 3n - 4, 9n - 16, 27n - 52, the output. Downwards, from the bottom to the top, the
last pair of convolutions is given n + 4 voxels, so the maps that are pooled have 3n + 12, 9n + 48
and 27n + 156, and the crop has 27n + 160: 212 more than the output. n >= 2, as from n = 1 the
first pair on the way up would get 3 voxels of the 5 it needs. So 214 is the smallest side, and
what happens to it is 214, 210, pooled 70, 66, pooled 22, 18, pooled 6, 2; then 6, 2, 6, 2, 6, 2.

Skips are cut by 12, 60 and 204 voxels in the plane, and by 4, 12 and 20 sections: even numbers, so
by as much on either side. In the plane that is 6, 30 and 102, multiples of 3: what was a voxel
below joins the 3x3 it was pooled from.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models.blocks import Conv3d, probability
from tokenunify_scale.models.padding import middle
from tokenunify_scale.registry import MODELS
from tokenunify_scale.volumes.geometry import Triple

SLOPE = 0.005
"""Of LeakyReLU where it is negative."""
POOL: Triple = (1, 3, 3)
"""Kernel and stride of the pooling between levels, and of the way back."""
SMALLEST: Triple = (29, 214, 214)
"""The smallest crop (z, y, x) in voxels."""
STEP: Triple = (1, 27, 27)
"""Between one legal side and the next: the product of the poolings."""


@dataclass(frozen=True, kw_only=True)
class MALAConfig:
    """Widths of a network."""

    widths: tuple[int, int, int, int] = (12, 60, 300, 1500)
    """Channels of the four levels, fine to coarse."""

    def __post_init__(self) -> None:
        """Refuse empty levels."""
        if min(self.widths) < 1:
            raise ValueError(f"widths must be >= 1, got {self.widths}")


class Conv(Conv3d):
    """A convolution without padding, whose weights keep the variance through LeakyReLU."""

    def reset_parameters(self) -> None:
        """Draw weights as published, and the bias as torch does."""
        super().reset_parameters()
        nn.init.kaiming_normal_(self.weight, a=SLOPE)


class Pair(nn.Module):
    """Two 3x3x3 convolutions without padding, LeakyReLU after each."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """All sides shrink by 4."""
        super().__init__()
        self.conv1 = Conv(inputs, outputs, 3)
        self.conv2 = Conv(outputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, D, H, W] to [B, outputs, D-4, H-4, W-4]."""
        x = functional.leaky_relu(self.conv1(x), SLOPE)
        return functional.leaky_relu(self.conv2(x), SLOPE)


class Spread(nn.Module):
    """Transposed convolution of every channel by itself, kernel and stride (1, 3, 3), no bias.

    Kernels lie side by side, so it is the product of each voxel with its channel's 9 taps.
    """

    def __init__(self, channels: int) -> None:
        """``channels`` in and out."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, *POOL))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the taps anew."""
        # As published: std 0.47. At the 1 of a fan-in of one voxel, which keeps the variance, three
        # levels make logits so wide that wrong sure answers are hardly unlearned.
        nn.init.kaiming_normal_(self.weight, a=SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] to [B, C, D, 3H, 3W], channels last in memory if x is."""
        taps = self.weight.to(x.dtype)[:, 0, 0].permute(1, 2, 0)
        y = x.movedim(1, -1)[:, :, :, None, :, None] * taps[:, None]
        return y.flatten(4, 5).flatten(2, 3).movedim(-1, 1)


class Rise(nn.Module):
    """Triple the sides in the plane, narrow, join the skip's middle, and refine."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """``inputs`` channels from below, ``outputs`` from the skip and out."""
        super().__init__()
        self.spread = Spread(inputs)
        self.narrow = Conv(inputs, outputs, 1)
        self.pair = Pair(2 * outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, inputs, D, H, W] and a skip no smaller to [B, outputs, D-4, 3H-4, 3W-4]."""
        x = self.narrow(self.spread(x))
        return self.pair(torch.cat([x, middle(skip, tuple(x.shape[2:]))], dim=1))


class MALA(nn.Module):
    """Affinities of the middle of a crop, each from all the voxels it depends on.

    Nothing is padded, so tiles of a volume meet without a seam where they are a multiple of 27
    voxels apart in the plane: the grids of the pooling then agree.

    Source: Funke et al. 2018; 84,020,475 parameters as published.
    """

    margin: Triple = (14, 106, 106)

    def __init__(self, config: MALAConfig, *, in_channels: int = 1, out_channels: int = 3) -> None:
        """Build the layers; allocates nothing under ``torch.device("meta")``."""
        super().__init__()
        self.config = config
        self.widths = widths = config.widths  # of the maps of features
        inputs = (in_channels, *widths)
        self.down = nn.ModuleList(Pair(i, o) for i, o in zip(inputs, widths, strict=False))
        coarse = widths[::-1]
        self.up = nn.ModuleList(Rise(i, o) for i, o in zip(coarse, coarse[1:], strict=False))
        self.out = Conv(widths[0], out_channels, 1)

    def forward(self, crops: Tensor) -> Tensor:
        """Map crops to maps of their middle in (0, 1).

        Args:
            crops: [B, C, D, H, W], float in [0, 1], D >= 29, H and W of 214 + 27 k.

        Returns:
            [B, out_channels, D-28, H-212, W-212].

        Raises:
            ConfigError: sides the network cannot take.
        """
        *skips, x = self.features(crops)
        for rise, skip in zip(self.up, reversed(skips), strict=True):
            x = rise(x, skip)
        return probability(self.out(x))

    def features(self, crops: Tensor) -> tuple[Tensor, ...]:
        """The last map of every level on the way down, fine to coarse.

        Args:
            crops: as in ``forward``.

        Returns:
            Four maps [B, widths[i], ...]; of a crop of 53x268x268 they have sides 49x264x264,
            45x84x84, 41x24x24 and 37x4x4.

        Raises:
            ConfigError: as in ``forward``.
        """
        self._check(tuple(crops.shape[2:]))
        maps = [self.down[0](crops)]
        for pair in self.down[1:]:
            maps.append(pair(functional.max_pool3d(maps[-1], POOL)))
        return tuple(maps)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by part: encoder (the way down with the bottom) and decoder."""
        return {
            "mamba": [],
            "encoder": list(self.down.parameters()),
            "decoder": [*self.up.parameters(), *self.out.parameters()],
        }

    def legal(self, sides: Triple) -> Triple:
        """The smallest crop (z, y, x) in voxels, at least ``sides``, that the network takes."""
        z, y, x = (
            least + step * max(0, -(-(side - least) // step))
            for side, least, step in zip(sides, SMALLEST, STEP, strict=True)
        )
        return z, y, x

    def _check(self, sides: Triple) -> None:
        above = self.legal(sides)
        if above == sides:
            return
        below = tuple(
            more - step if more > side else more
            for more, side, step in zip(above, sides, STEP, strict=True)
        )
        smaller = all(side >= least for side, least in zip(below, SMALLEST, strict=True))
        nearest = [self._named(below)] if smaller else []
        raise ConfigError(
            f"crop {sides}: MALA pads nothing and takes z >= {SMALLEST[0]} and sides of "
            f"{SMALLEST[1]} + {STEP[1]} k in the plane (zyx voxels); nearest: "
            f"{', '.join([*nearest, self._named(above)])}"
        )

    def _named(self, sides: Triple) -> str:
        inner = tuple(side - 2 * cut for side, cut in zip(sides, self.margin, strict=True))
        return f"{sides} with an output of {inner}"


MODELS.add("mala", MALA, MALAConfig(), source="Table 1")
