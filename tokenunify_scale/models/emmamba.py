"""EMmamba: a 3-D U-Net whose encoder stages are Mamba layers, in the paper's sizes and below."""

import math

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
from tokenunify_scale.models.emmamba_config import SIZES, SMALL_SIZES, EMmambaConfig, of_width
from tokenunify_scale.models.in_plane import InPlaneUp
from tokenunify_scale.models.mamba import MambaLayer
from tokenunify_scale.models.padding import pad_to, round_up
from tokenunify_scale.ops.instance_norm import instance_norm
from tokenunify_scale.registry import MODELS, Entry
from tokenunify_scale.volumes.geometry import Triple

STRIDE = 16  # of the bottleneck against the input, along every axis whose sides are halved
FIFTHS = 5  # chunks of the release's third scan
SCALES = (2, 4, 8, 16)  # of the stages against the input


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
        sections = self.habits.sections
        step = 2 if sections == "stride" else 1
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
        up = InPlaneUp if sections == "keep" else Up
        self.decoder5 = up(config.hidden, f3, kernel=side)
        self.decoder4 = up(f3, f2, kernel=side)
        self.decoder3 = up(f2, f1, kernel=side)
        self.decoder2 = up(f1, f0, kernel=side)
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
            Four maps [B, features[i], D/2^(i+1), H/2^(i+1), W/2^(i+1)], of D sections each where
            sections are kept.

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

    def blocks(self) -> dict[str, list[nn.Module]]:
        """What may be computed again in the backward pass, by name, finest first of each kind."""
        named = {f"encoder{i}": [getattr(self, f"encoder{i}")] for i in range(1, 6)}
        named |= {f"decoder{i}": [getattr(self, f"decoder{i}")] for i in range(1, 6)}
        stages = zip(self.gscs, self.stages, self.mlps, strict=True)
        for i, (gsc, layers, mlp) in enumerate(stages, start=1):
            named |= {f"gsc{i}": [gsc], f"mamba{i}": [*layers], f"mlp{i}": [mlp]}
        return named

    def legal(self, sides: Triple) -> Triple:
        """The smallest sides (z, y, x) at least as large that need no padding.

        Multiples of 16, along z only where sections are halved; more than one voxel at the
        bottleneck, which instance norm needs; and a multiple of five tokens at every stage where
        five chunks are interleaved.
        """
        depth = self._strides(STRIDE)[0]
        z, y, x = round_up(sides, to=(depth, STRIDE, STRIDE))
        if (z, y, x) == (depth, STRIDE, STRIDE):
            x = 2 * STRIDE
        tokens = z * y * x // (depth * STRIDE**2)  # at the bottleneck
        if self.habits.interleave == "sections" or tokens % FIFTHS == 0:
            return z, y, x
        step = FIFTHS * STRIDE
        wider = round_up((z, y, x), to=(depth, STRIDE, step))
        taller = round_up((z, y, x), to=(depth, step, STRIDE))
        return min(wider, taller, key=math.prod)

    def _strides(self, scale: int) -> Triple:
        """Voxels of the input, zyx, that a cell of the stage of this scale stands for."""
        return (1 if self.habits.sections == "keep" else scale), scale, scale

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
            tokens = [math.prod(sides) // math.prod(self._strides(scale)) for scale in SCALES]
            fifths = self.habits.interleave == "fifths"
            also = f", and stages of a multiple of {FIFTHS} tokens, not {tokens}" if fifths else ""
            plane = " in the plane" if self.habits.sections == "keep" else ""
            raise ConfigError(
                f"crop {sides}: {self.config.preset} preset with exact crops needs sides that are "
                f"multiples of {STRIDE}{plane}{also}; nearest above: {legal}, or set "
                "model.crops=padded"
            )
        return pad_to(crops, legal)


for size, config in SMALL_SIZES.items():
    MODELS.add(f"emmamba_{size}", EMmamba, config, source="not in the paper")
for size, config in SIZES.items():
    MODELS.add(f"emmamba_{size}", EMmamba, config, source="Table 6")
MODELS.add_family(
    "emmamba_wN",
    r"emmamba_w(\d{1,9})",
    lambda m: Entry(m[0], EMmamba, of_width(int(m[1])), "not in the paper"),
)
