"""EMmamba: a 3-D U-Net whose encoder stages are Mamba layers, in the paper's sizes and below."""

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

from torch import Tensor, nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models.blocks import (
    Conv3d,
    GatedSpatialConv,
    LateralMLP,
    Residual,
    Up,
    probability,
)
from tokenunify_scale.models.mamba import MambaLayer
from tokenunify_scale.models.padding import pad_to, round_up
from tokenunify_scale.ops.instance_norm import instance_norm
from tokenunify_scale.registry import MODELS
from tokenunify_scale.volumes.geometry import Triple

STRIDE = 16  # of the bottleneck against the input, along every axis
FIFTHS = 5  # chunks of the release's third scan
SCALES = (2, 4, 8, 16)  # of the stages against the input


@dataclass(frozen=True)
class Habits:
    """The four things that the release does and we do otherwise; none changes a parameter."""

    sections: Literal["mean", "stride"]
    """How a stage halves its sections: the mean of each pair, or every second one unseen."""

    mixing: Literal["residual", "plain"]
    """Whether a Mamba layer is added to its input or takes its place."""

    interleave: Literal["sections", "fifths"]
    """What the third scan interleaves: the sections of a stage, or five chunks everywhere."""

    crops: Literal["padded", "exact"]
    """Whether a crop of other sides is padded or refused."""


PRESETS = {
    "default": Habits("mean", "residual", "sections", "padded"),
    "official": Habits("stride", "plain", "fifths", "exact"),
}


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

    skip_kernel: int = 5
    """Side of the in-plane kernels of skip encoders and decoder, an odd number."""

    preset: Literal["default", "official"] = "default"
    """``official`` is the release to the letter; ``default`` mends what it gets wrong."""

    sections: Literal["mean", "stride"] | None = None
    """How sections are halved: mean of each pair, or every second one unseen; else by preset."""

    mixing: Literal["residual", "plain"] | None = None
    """Whether Mamba layers have a residual around them; else by preset."""

    interleave: Literal["sections", "fifths"] | None = None
    """What the third scan interleaves: sections, or five chunks at every stage; else by preset."""

    crops: Literal["padded", "exact"] | None = None
    """What becomes of crops of other sides: padded, or refused; else by preset."""

    def __post_init__(self) -> None:
        """Refuse empty layers, and kernels without a middle."""
        counts = (*self.features, self.hidden, *self.depths, self.state, self.kernel)
        if min(counts) < 1:
            raise ValueError(f"features, hidden, depths, state and kernel must be >= 1: {counts}")
        if self.skip_kernel < 1 or self.skip_kernel % 2 == 0:
            raise ValueError(f"skip_kernel must be odd and >= 1, got {self.skip_kernel}")

    @property
    def habits(self) -> Habits:
        """What the preset says, where no field of this config says otherwise."""
        said = {f.name: getattr(self, f.name) for f in fields(Habits)}
        return replace(PRESETS[self.preset], **{k: v for k, v in said.items() if v is not None})


class EMmamba(nn.Module):
    """A 3-D U-Net with Mamba layers for electron-microscopy volumes.

    Output in (0, 1) at the input's resolution.

    Source: Fig. 8 and Table 6; layers as measured in the paper's release. Module names follow it.
    """

    margin = (0, 0, 0)

    def __init__(
        self, config: EMmambaConfig, *, in_channels: int = 1, out_channels: int = 3
    ) -> None:
        """Build the layers; allocates nothing under ``torch.device("meta")``."""
        super().__init__()
        self.config, self.habits = config, config.habits
        self.widths = config.features  # of the maps of features
        f0, f1, f2, f3 = widths = config.features
        # Paper: the release strides sections by 2 with a kernel of 1, so odd sections are never
        # seen. Default: stride in the plane only, of the mean of each pair of sections.
        step = 2 if self.habits.sections == "stride" else 1
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
        side = config.skip_kernel
        self.encoder1 = Residual(in_channels, f0, kernel=side)
        self.encoder2 = Residual(f0, f1, kernel=side)
        self.encoder3 = Residual(f1, f2, kernel=side)
        self.encoder4 = Residual(f2, f3, kernel=side)
        self.encoder5 = Residual(f3, config.hidden, kernel=side)
        self.decoder5 = Up(config.hidden, f3, kernel=side)
        self.decoder4 = Up(f3, f2, kernel=side)
        self.decoder3 = Up(f2, f1, kernel=side)
        self.decoder2 = Up(f1, f0, kernel=side)
        self.decoder1 = Residual(f0, f0, kernel=side)
        self.out = Conv3d(f0, out_channels, 1)

    def forward(self, crops: Tensor) -> Tensor:
        """Map crops to maps in (0, 1).

        Args:
            crops: [B, C, D, H, W], float in [0, 1]. Any sides in the default preset (padded by
                reflection to legal ones and cropped back); in the official one legal sides only.

        Returns:
            [B, out_channels, D, H, W].

        Raises:
            ConfigError: crops are to be exact, and these sides are not legal.
        """
        return self.both(crops)[0]

    def both(self, crops: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What ``forward`` and ``features`` return, from one pass; errors as theirs."""
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
        output = probability(self.out(x))[..., : sides[0], : sides[1], : sides[2]]
        return output, tuple(laterals)

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

    def legal(self, sides: Triple) -> Triple:
        """The smallest sides (z, y, x) at least as large that need no padding.

        Multiples of 16, more than one voxel at the bottleneck, which instance norm needs, and a
        multiple of five tokens at every stage where five chunks are interleaved.
        """
        z, y, x = round_up(sides, to=(STRIDE, STRIDE, STRIDE))
        if (z, y, x) == (STRIDE, STRIDE, STRIDE):
            x = 2 * STRIDE
        if self.habits.interleave == "sections" or z * y * x % (FIFTHS * STRIDE**3) == 0:
            return z, y, x
        step = FIFTHS * STRIDE
        wider = round_up((z, y, x), to=(STRIDE, STRIDE, step))
        taller = round_up((z, y, x), to=(STRIDE, step, STRIDE))
        return min(wider, taller, key=math.prod)

    def _encode(self, x: Tensor) -> list[Tensor]:
        laterals = []
        for i, (down, gsc, layers, mlp) in enumerate(
            zip(self.downsample, self.gscs, self.stages, self.mlps, strict=True)
        ):
            x = instance_norm(x) if i else x
            if self.habits.sections == "mean":
                # Before the convolution, which stays in the plane: half of its work.
                x = (x[:, :, ::2] + x[:, :, 1::2]) * 0.5
            x = gsc(down(x))
            # Paper: the release interleaves 5 chunks at every stage, whatever the sections are,
            # and has no residual around the Mamba layers.
            chunks = x.shape[2] if self.habits.interleave == "sections" else FIFTHS
            for layer in layers:
                x = layer(x, chunks=chunks, residual=self.habits.mixing == "residual")
            laterals.append(mlp(x))
        return laterals

    def _pad(self, crops: Tensor) -> Tensor:
        """Pad to legal sides, or refuse others."""
        sides = tuple(crops.shape[2:])
        legal = self.legal(sides)
        if self.habits.crops == "exact" and legal != sides:
            tokens = [math.prod(sides) // scale**3 for scale in SCALES]
            fifths = self.habits.interleave == "fifths"
            also = f", and stages of a multiple of {FIFTHS} tokens, not {tokens}" if fifths else ""
            raise ConfigError(
                f"crop {sides}: {self.config.preset} preset with exact crops needs sides that are "
                f"multiples of {STRIDE}{also}; nearest above: {legal}, or set model.crops=padded"
            )
        return pad_to(crops, legal)


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
