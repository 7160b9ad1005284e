"""UNETR: a transformer over patches and a convolutional decoder, and rungs of it by cost.

Source: Hatamizadeh et al. 2022, "UNETR: Transformers for 3D Medical Image Segmentation", as the
paper's release sets it up: patches of 4x16x16 voxels, in-plane convolutions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenunify_scale.models.blocks import Conv3d, Double, Residual, Up, probability
from tokenunify_scale.models.padding import pad_to, round_up
from tokenunify_scale.models.unetr_config import LADDER, STRIDE, UNETRConfig
from tokenunify_scale.registry import MODELS
from tokenunify_scale.tokens.patches import patch_grid, patchify
from tokenunify_scale.volumes.geometry import Triple

KERNEL = 3  # of the decoder's convolutions, in the plane
DEAD = {
    "attention of width 4096": 67_125_248,
    "classification head, 768 to 1000": 770_536,
    "position embedding of 801 tokens, class token": 615_936,
}
"""Parameters of the release that its forward pass never uses: 129,071,547 with them."""


class Attention(nn.Module):
    """Every token looks at all tokens."""

    def __init__(self, config: UNETRConfig) -> None:
        """Projections without bias in, with bias out."""
        super().__init__()
        self.heads, inner = config.heads, config.heads * config.head
        self.qkv = nn.Linear(config.hidden, 3 * inner, bias=False)
        self.out = nn.Linear(inner, config.hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, K, hidden] to the same shape."""
        split = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*split.unbind(0))
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """Attention and an MLP, each after a layer norm and added to its input."""

    def __init__(self, config: UNETRConfig) -> None:
        """Keep the width of a token."""
        super().__init__()
        # Paper: the release has dropout of 0.1 in here; we have none.
        self.norm1 = nn.LayerNorm(config.hidden)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.hidden)
        self.fc1 = nn.Linear(config.hidden, config.mlp)
        self.fc2 = nn.Linear(config.mlp, config.hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, K, hidden] to the same shape."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.fc2(functional.gelu(self.fc1(self.norm2(tokens))))


class UNETR(nn.Module):
    """Transformer encoder and convolutional decoder; output in (0, 1) at the input's resolution.

    Source: Hatamizadeh et al. 2022 and the paper's release, without what it never uses (``DEAD``).
    """

    margin: Triple = (0, 0, 0)

    def __init__(self, config: UNETRConfig, *, in_channels: int = 1, out_channels: int = 3) -> None:
        """Build the layers; allocates nothing under ``torch.device("meta")``."""
        super().__init__()
        self.config = config
        z, y, x = config.patch
        hidden, f1, f2, f4, f8 = config.hidden, *(config.features * 2**i for i in range(4))
        self.widths = (f1, f2, f4, f8, hidden)  # of the maps of features
        self.embed = nn.Linear(in_channels * z * y * x, hidden)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.layers))
        self.encoder1 = Residual(in_channels, f1, kernel=KERNEL)
        self.encoder2 = _ascent(hidden, f2, steps=2)
        self.encoder3 = _ascent(hidden, f4, steps=1)
        self.encoder4 = Double(hidden, f8)
        self.decoder5 = Up(hidden, f8, kernel=KERNEL)
        self.decoder4 = Up(f8, f4, kernel=KERNEL)
        self.decoder3 = Up(f4, f2, kernel=KERNEL)
        # Patches are flatter than wide, but all sides are doubled: too many sections by now.
        self.sections = Conv3d(f2, f2, 3, stride=(STRIDE // z, 1, 1), padding=1, bias=False)
        self.decoder2 = Up(f2, f1, kernel=KERNEL)
        self.out = Conv3d(f1, out_channels, 1)

    def forward(self, crops: Tensor) -> Tensor:
        """Map crops to maps in (0, 1).

        Args:
            crops: [B, C, D, H, W], float in [0, 1]; padded to ``legal`` sides and cropped back.

        Returns:
            [B, out_channels, D, H, W].
        """
        return self.both(crops)[0]

    def both(self, crops: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What ``forward`` and ``features`` return, from one pass; errors as theirs."""
        depth, height, width = crops.shape[2:]
        features = skip1, skip2, skip3, skip4, x = self.features(crops)
        x = self.decoder4(self.decoder5(x, skip4), skip3)
        x = self.sections(self.decoder3(x, skip2))
        x = self.decoder2(x, skip1)
        return probability(self.out(x))[..., :depth, :height, :width], features

    def features(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Maps of the (padded) crops that join the decoder, fine to coarse.

        Args:
            crops: as in ``forward``.

        Returns:
            Five maps. With f features and a grid of G patches (zyx): f channels at the crop's
            sides, 2f at 8G (more sections than the crop's), 4f at 4G, 8f at 2G, and ``hidden``
            at G, the last layer's tokens.
        """
        crops = pad_to(crops, self.legal(tuple(crops.shape[2:])))
        first, second, third, last = self._encode(crops)
        skips = self.encoder1(crops), self.encoder2(first), self.encoder3(second)
        return *skips, self.encoder4(third), last

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by part: encoder (the transformer) and decoder (all convolutions)."""
        parts: dict[str, list[nn.Parameter]] = {"mamba": [], "encoder": [], "decoder": []}
        for name, module in self.named_children():
            part = "encoder" if name in ("embed", "layers") else "decoder"
            parts[part] += module.parameters()
        return parts

    def blocks(self) -> dict[str, list[nn.Module]]:
        """What may be computed again in the backward pass, by name."""
        names = ("encoder1", "encoder2", "encoder3", "decoder2", "decoder3", "decoder4", "decoder5")
        layers = {f"layer{i}": [layer] for i, layer in enumerate(self.layers, start=1)}
        return {name: [getattr(self, name)] for name in names} | layers

    def legal(self, sides: Triple) -> Triple:
        """The smallest multiples of the patch's sides that are at least ``sides``."""
        return round_up(sides, to=self.config.patch)

    def _encode(self, crops: Tensor) -> list[Tensor]:
        """Tokens after the tapped layers and the last one, as maps [B, hidden, *grid]."""
        config, maps = self.config, []
        grid = patch_grid(tuple(crops.shape[2:]), patch=config.patch)
        tokens = self.embed(patchify(crops, patch=config.patch))
        if config.positions == "sincos":
            tokens = tokens + sincos(grid, width=config.hidden, device=tokens.device).to(tokens)
        for number, layer in enumerate(self.layers, start=1):
            tokens = layer(tokens)
            copies = [*config.taps, config.layers].count(number)
            maps += copies * [tokens.unflatten(1, grid).movedim(-1, 1)]
        return maps


def sincos(grid: Triple, *, width: int, device: torch.device) -> Tensor:
    """Fixed sines and cosines of every patch's place along z, y and x.

    Args:
        grid: patches (z, y, x).
        width: of a token.
        device: where the result lies.

    Returns:
        [K, width] in fp32, raster order: a sixth each of sines along z, y, x, then of cosines, of
        wavelengths from 2 pi to nearly 20,000 pi patches, then zeros up to the width.

    Source: Vaswani et al. 2017, along three axes.
    """
    count = width // 6
    steps = torch.arange(count, device=device, dtype=torch.float32)
    rates = 10_000.0 ** -(steps / count)
    axes = [torch.arange(side, device=device, dtype=torch.float32) for side in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    angles = (places[:, :, None] * rates).flatten(1)
    return functional.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width - 6 * count))


def _ascent(inputs: int, outputs: int, *, steps: int) -> nn.Sequential:
    """Double all sides, then ``steps`` times again with a block after it."""
    modules: list[nn.Module] = [Double(inputs, outputs)]
    for _ in range(steps):
        modules += [Double(outputs, outputs), Residual(outputs, outputs, kernel=KERNEL)]
    return nn.Sequential(*modules)


MODELS.add("unetr", UNETR, UNETRConfig(), source="Table 1")
for size, config in LADDER.items():
    MODELS.add(f"unetr_{size}", UNETR, config, source="Figure 6 (our design)")
