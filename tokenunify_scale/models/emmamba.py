"""EMmamba: a 3-D U-Net whose encoder stages are Mamba layers, in the paper's sizes and below."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models.blocks import Conv3d, GatedSpatialConv, LateralMLP, Residual, Up
from tokenunify_scale.models.mamba import MambaLayer
from tokenunify_scale.ops.instance_norm import instance_norm
from tokenunify_scale.registry import MODELS

STRIDE = 16  # of the bottleneck against the input, along every axis
SECTION_CHUNKS = 5  # the release's nslices


@dataclass(frozen=True, kw_only=True)
class EMmambaConfig:
    """Widths and depths of a network, and which of the release's habits it keeps."""

    features: tuple[int, int, int, int]
    """Channels of the four encoder stages."""

    hidden: int
    """Channels of the bottleneck."""

    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    """Mamba layers of each stage."""

    state: int = 16
    """State size N of the selective scan."""

    kernel: int = 4
    """Taps of the causal convolution."""

    preset: Literal["default", "official"] = "default"
    """``official`` is the release to the letter; ``default`` mends what it gets wrong."""

    def __post_init__(self) -> None:
        """Refuse empty layers."""
        counts = (*self.features, self.hidden, *self.depths, self.state, self.kernel)
        if min(counts) < 1:
            raise ValueError(f"features, hidden, depths, state and kernel must be >= 1: {counts}")


class EMmamba(nn.Module):
    """Mamba encoder and convolutional decoder; output in (0, 1) at the input's resolution.

    Source: Fig. 8 and Table 6; layers as measured in the paper's release. Module names follow it.
    """

    def __init__(
        self, config: EMmambaConfig, *, in_channels: int = 1, out_channels: int = 3
    ) -> None:
        """Build the layers; allocates nothing under ``torch.device("meta")``."""
        super().__init__()
        self.config = config
        f0, f1, f2, f3 = widths = config.features
        # Paper: the release strides sections by 2 with a kernel of 1, so odd sections are never
        # seen. Default: stride in the plane only, of the mean of each pair of sections.
        step = 2 if config.preset == "official" else 1
        stem = Conv3d(in_channels, f0, (1, 7, 7), stride=(step, 2, 2), padding=(0, 3, 3))
        self.downsample = nn.ModuleList([stem])
        for before, after in zip(widths, widths[1:], strict=False):
            self.downsample.append(Conv3d(before, after, (1, 2, 2), stride=(step, 2, 2)))
        self.gscs = nn.ModuleList(GatedSpatialConv(width) for width in widths)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                MambaLayer(width, state=config.state, kernel=config.kernel) for _ in range(depth)
            )
            for width, depth in zip(widths, config.depths, strict=True)
        )
        self.mlps = nn.ModuleList(LateralMLP(width) for width in widths)
        self.encoder1 = Residual(in_channels, f0)
        self.encoder2 = Residual(f0, f1)
        self.encoder3 = Residual(f1, f2)
        self.encoder4 = Residual(f2, f3)
        self.encoder5 = Residual(f3, config.hidden)
        self.decoder5 = Up(config.hidden, f3)
        self.decoder4 = Up(f3, f2)
        self.decoder3 = Up(f2, f1)
        self.decoder2 = Up(f1, f0)
        self.decoder1 = Residual(f0, f0)
        self.out = Conv3d(f0, out_channels, 1)

    def forward(self, crops: Tensor) -> Tensor:
        """Map crops to maps in (0, 1).

        Args:
            crops: [B, C, D, H, W], float in [0, 1]. Any sides in the default preset (padded by
                reflection to a legal size and cropped back); multiples of 16 in the official one.

        Returns:
            [B, out_channels, D, H, W].

        Raises:
            ConfigError: the official preset cannot take these sides.
        """
        sides = crops.shape[2:]
        padded = self._pad(crops)
        skip1 = self.encoder1(padded)
        laterals = self._encode(padded)
        skip2 = self.encoder2(laterals[0])
        skip3 = self.encoder3(laterals[1])
        skip4 = self.encoder4(laterals[2])
        x = self.decoder5(self.encoder5(laterals[3]), skip4)
        x = self.decoder4(x, skip3)
        x = self.decoder3(x, skip2)
        x = self.decoder1(self.decoder2(x, skip1))
        return torch.sigmoid(self.out(x))[..., : sides[0], : sides[1], : sides[2]]

    def features(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Encoder features of the (padded) crops, fine to coarse.

        Args:
            crops: as in ``forward``.

        Returns:
            Four maps [B, features[i], D/2^(i+1), H/2^(i+1), W/2^(i+1)].

        Raises:
            ConfigError: as in ``forward``.
        """
        return tuple(self._encode(self._pad(crops)))

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by part: mamba, encoder (its convolutions), decoder. Source: Table 4."""
        encoder = [self.downsample, self.gscs, self.mlps]
        decoder = [getattr(self, f"encoder{i}") for i in range(1, 6)]
        decoder += [getattr(self, f"decoder{i}") for i in range(1, 6)] + [self.out]
        parts = {"mamba": [self.stages], "encoder": encoder, "decoder": decoder}
        return {
            name: [parameter for module in modules for parameter in module.parameters()]
            for name, modules in parts.items()
        }

    def _encode(self, x: Tensor) -> list[Tensor]:
        official = self.config.preset == "official"
        laterals = []
        for i, (down, gsc, layers, mlp) in enumerate(
            zip(self.downsample, self.gscs, self.stages, self.mlps, strict=True)
        ):
            x = instance_norm(x) if i else x
            if not official:
                # Before the convolution, which stays in the plane: half of its work.
                x = (x[:, :, ::2] + x[:, :, 1::2]) * 0.5
            x = gsc(down(x))
            # Paper: the release interleaves 5 chunks at every stage, whatever the sections are,
            # and has no residual around the Mamba layers.
            chunks = SECTION_CHUNKS if official else x.shape[2]
            for layer in layers:
                x = layer(x, chunks=chunks, residual=not official)
            laterals.append(mlp(x))
        return laterals

    def _pad(self, crops: Tensor) -> Tensor:
        """Reflect (or repeat, where a side is too short to reflect) up to a legal size."""
        sides = tuple(crops.shape[2:])
        if self.config.preset == "official":
            tokens = [sides[0] * sides[1] * sides[2] // 8**i for i in range(1, 5)]
            if any(s % STRIDE for s in sides) or any(t % SECTION_CHUNKS for t in tokens):
                raise ConfigError(
                    f"crop {sides}: the official preset needs sides that are multiples of {STRIDE} "
                    f"and stages of a multiple of {SECTION_CHUNKS} tokens, found {tokens}; "
                    "use the default preset or a crop such as (16, 160, 160)"
                )
            return crops
        legal = legal_size(sides)
        if legal == sides:
            return crops
        extra = [target - side for target, side in zip(legal, sides, strict=True)]
        short = any(add >= side for add, side in zip(extra, sides, strict=True))
        amounts = [amount for add in reversed(extra) for amount in (0, add)]
        return nn.functional.pad(crops, amounts, mode="replicate" if short else "reflect")


def legal_size(sides: tuple[int, int, int]) -> tuple[int, int, int]:
    """The smallest legal size (z, y, x) in voxels that is at least ``sides``.

    Multiples of 16, and more than one voxel at the bottleneck, which instance norm needs.
    """
    legal = [-(-side // STRIDE) * STRIDE for side in sides]
    if all(side == STRIDE for side in legal):
        legal[2] = 2 * STRIDE
    return tuple(legal)


SIZES = {
    "tiny": EMmambaConfig(features=(32, 64, 128, 256), hidden=512),
    "small": EMmambaConfig(features=(64, 128, 256, 512), hidden=1024),
    "middle": EMmambaConfig(features=(96, 192, 384, 768), hidden=1024),
    "large": EMmambaConfig(features=(144, 288, 576, 1104), hidden=2048),
    "huge": EMmambaConfig(features=(192, 384, 768, 1536), hidden=3072),
}
SMALL_SIZES = {
    "atto": EMmambaConfig(features=(4, 8, 16, 32), hidden=64),
    "femto": EMmambaConfig(features=(8, 16, 32, 64), hidden=128),
    "pico": EMmambaConfig(features=(12, 24, 48, 96), hidden=192),
    "nano": EMmambaConfig(features=(16, 32, 64, 128), hidden=256),
}
for size, config in SMALL_SIZES.items():
    MODELS.add(f"emmamba_{size}", EMmamba, config, source="not in the paper")
for size, config in SIZES.items():
    MODELS.add(f"emmamba_{size}", EMmamba, config, source="Table 6")
