"""The next-token head: latents that sum up what is visible, and a query for every patch.

Hidden cells never enter, and each patch is decoded from the latents alone: with R latents, K
patches cost O(K R), whatever is visible.

Source: Alg. 3, the Perceiver Resampler (Alayrac et al. 2022, "Flamingo"), and Sec. 4.2.4.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models.blocks import probability
from tokenunify_scale.models.features import paired_widths
from tokenunify_scale.models.places import between, centres, overlaps, waves
from tokenunify_scale.volumes.geometry import Triple

SECTIONS = 16  # rows of the table of learned positions, spread over the depth of a crop
WIDENING = 4  # of the feed-forward parts


@dataclass(frozen=True, kw_only=True)
class PerceiverConfig:
    """Sizes of the head, and the features that it reads."""

    width: int = 128
    """Width of latents and queries."""

    latents: int = 64
    """Latents R."""

    layers: int = 2
    """Layers that gather the features into the latents."""

    heads: int = 4
    """Attention heads."""

    stage: int = -2
    """Which map of the backbone's features is read, counted as they come: fine to coarse."""

    def __post_init__(self) -> None:
        """Refuse empty layers and heads of unequal width."""
        sizes = (self.latents, self.layers, self.heads)
        if min(sizes) < 1:
            raise ValueError(f"latents, layers and heads must be >= 1: {sizes}")
        if self.width < 6 or self.width % self.heads:
            raise ValueError(
                f"width is {self.width}, must be >= 6 and a multiple of heads {self.heads}"
            )


class CrossLayer(nn.Module):
    """Attention to a context and a feed-forward part, each after a layer norm and added."""

    def __init__(self, width: int, *, heads: int) -> None:
        """``width`` of what looks and of what is looked at."""
        super().__init__()
        self.heads = heads
        self.norm, self.norm_context = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm_forward = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, WIDENING * width)
        self.fc2 = nn.Linear(WIDENING * width, width)

    def forward(self, x: Tensor, context: Tensor, *, seen: Tensor | None = None) -> Tensor:
        """Gather from a context.

        Args:
            x: [B, L, width], what looks.
            context: [B, S, width], what is looked at.
            seen: bool [B, S], where the context may be looked at, somewhere in each sample; None
                is everywhere.

        Returns:
            [B, L, width].
        """
        query = self.query(self.norm(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        pairs = self.key_value(self.norm_context(context)).unflatten(2, (2, self.heads, -1))
        key, value = pairs.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if seen is None else seen[:, None, None]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.fc2(functional.gelu(self.fc1(self.norm_forward(x))))


class PerceiverHead(nn.Module):
    """Voxels of every patch of a crop, from the features of its visible cells.

    Source: Alg. 3. Paper: it has no norms, and does not say how a latent becomes a patch: we
    normalise before each part, as Flamingo does, and let each patch's place ask the latents.
    """

    def __init__(
        self, config: PerceiverConfig, *, feature_width: int, patch: Triple, channels: int
    ) -> None:
        """Build the layers; allocates nothing under ``torch.device("meta")``.

        Args:
            config: sizes.
            feature_width: channels of the features, see the function of that name.
            patch: size (z, y, x) in voxels.
            channels: C of a crop.
        """
        super().__init__()
        self.config, self.patch = config, patch
        width = config.width
        self.norm_features = nn.LayerNorm(feature_width)
        self.embed = nn.Linear(feature_width, width)
        self.sections = nn.Parameter(torch.empty(SECTIONS, width))
        self.latents = nn.Parameter(torch.empty(config.latents, width))
        self.layers = nn.ModuleList(
            CrossLayer(width, heads=config.heads) for _ in range(config.layers)
        )
        self.place1 = nn.Linear(width, width)
        self.place2 = nn.Linear(width, width)
        self.decoder = CrossLayer(width, heads=config.heads)
        self.norm = nn.LayerNorm(width)
        self.voxels = nn.Linear(width, channels * math.prod(patch))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all linear maps and positions anew: a fresh head answers nearly 0.5 everywhere."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.voxels.weight, std=0.02)
        # As wide as the embedded features. Narrow latents would be drowned by what the first
        # layer adds, nearly the same to each, and be one latent from then on.
        nn.init.normal_(self.sections)
        nn.init.normal_(self.latents)

    def forward(
        self, features: Tensor, visible: Tensor, *, grid: Triple, padded: Triple | None = None
    ) -> Tensor:
        """Decode every patch from the visible cells.

        Args:
            features: [B, c, D', H', W'], of the crop as the backbone pads it.
            visible: float [B, D', H', W'], see ``visibility``; cells at 0 do not enter.
            grid: patches of the crop (z, y, x), whose product is K.
            padded: size (z, y, x) in voxels of the padded crop; None if nothing is padded.

        Returns:
            [B, K, C*P] in (0, 1), raster order, float32 or wider.

        Raises:
            ConfigError: a visibility for each cell is what is wanted.
        """
        size: Triple = tuple(features.shape[2:])
        if visible.shape != (len(features), *size):
            raise ConfigError(
                f"visible is {[*visible.shape]}, must be {[len(features), *size]} as the features"
            )
        crop = tuple(side * p for side, p in zip(grid, self.patch, strict=True))
        # In units of patches, whatever the cells: as far apart in a large crop as in a small one.
        extent = tuple(whole / p for whole, p in zip(padded or crop, self.patch, strict=True))
        places = centres(size, extent=extent, device=features.device)
        depth = places[:, 0] / grid[0]
        plane = waves(places[:, 1:], width=self.config.width).to(features.dtype)
        seen = visible.flatten(1) > 0
        # Masked keys weigh 0, but 0 times an infinite value is not: nothing hidden goes further.
        cells = torch.where(seen[..., None], features.flatten(2).transpose(1, 2), 0)
        cells = self.embed(self.norm_features(cells)) + plane + between(self.sections, depth)
        x = self.latents.expand(len(features), -1, -1)
        keys = functional.pad(seen, (0, self.config.latents), value=True)
        for layer in self.layers:
            x = layer(x, torch.cat([cells, x.to(cells.dtype)], 1), seen=keys)
        return probability(self.voxels(self.norm(self.decoder(self._queries(grid, like=x), x))))

    def _queries(self, grid: Triple, *, like: Tensor) -> Tensor:
        """[B, K, width], what each patch asks with: its place."""
        places = centres(grid, extent=grid, device=like.device)
        hidden = self.place1(waves(places, width=self.config.width).to(like.dtype))
        return self.place2(functional.gelu(hidden)).expand(len(like), -1, -1)


def feature_width(backbone: nn.Module, *, stage: int) -> int:
    """Channels of one of the maps that a network gives beside its output.

    Args:
        backbone: a network with ``widths`` and ``both``, which all without margin have.
        stage: index of the map, fine to coarse; negative from the coarse end.

    Raises:
        ConfigError: the network lacks one of these, or has fewer maps.
    """
    name, widths = type(backbone).__name__, paired_widths(backbone)
    if not -len(widths) <= stage < len(widths):
        raise ConfigError(
            f"stage is {stage}, must be in {-len(widths)}..{len(widths) - 1}: {name} has "
            f"{len(widths)} feature maps"
        )
    return widths[stage]


def visibility(
    hidden: Tensor,
    *,
    grid: Triple,
    size: Triple,
    patch: Triple = (1, 1, 1),
    padded: Triple | None = None,
) -> Tensor:
    """The share of each feature cell that is visible: exactly 0 where only hidden patches are.

    Args:
        hidden: bool [B, K], raster order.
        grid: patches of the crop (z, y, x), whose product is K.
        size: cells of the feature map (z, y, x), which cover the padded crop.
        patch: size (z, y, x) in voxels; matters with ``padded`` alone.
        padded: size (z, y, x) in voxels of the padded crop; None if nothing is padded. What lies
            beyond the crop repeats it and counts as hidden.

    Returns:
        float32 [B, *size] in [0, 1].

    Raises:
        ConfigError: K is another.
    """
    if hidden.shape[1] != math.prod(grid):
        raise ConfigError(f"{hidden.shape[1]} patches do not fill a grid of {tuple(grid)}")
    seen = (~hidden).float().unflatten(1, grid)
    crop = [side * p for side, p in zip(grid, patch, strict=True)]
    for axis, (cells, patches, whole, part) in enumerate(
        zip(size, grid, padded or crop, crop, strict=True), start=1
    ):
        shares = overlaps((cells, whole), (patches, part), device=hidden.device)
        # Not a matrix product, which autocast would narrow.
        seen = (seen.movedim(axis, -1).unsqueeze(-2) * shares).sum(-1).movedim(-1, axis)
    return seen
