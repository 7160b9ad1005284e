"""Corrupted inputs for reconstruction: patches hidden at random, or behind a prefix of a path."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.objectives.errors import Targets, patch_errors
from tokenunify_scale.objectives.errors import masked_mean as masked_mean
from tokenunify_scale.tokens.masks import (
    hide,
    prefix_lengths,
    prefix_masks,
    random_mask,
    sample_generator,
    visible_mean,
)
from tokenunify_scale.tokens.order import Path, visiting_order
from tokenunify_scale.tokens.patches import patch_grid
from tokenunify_scale.tokens.relevance import relevance

Size3 = tuple[int, int, int]
Kind = Literal["random", "prefix"]
Fill = Literal["noise", "zero", "mean", "learned"]
NOISE_MEAN, NOISE_STD = 0.5, 0.2  # near the grey levels of EM in [0, 1]
ORDER_STREAM = 1


@dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """What every objective of hidden patches chooses."""

    patch: tuple[int, int, int] = (4, 16, 16)
    """Patch size (z, y, x) in voxels. Source: Sec. 9."""

    fill: Fill = "noise"
    """What takes the place of hidden voxels: Gaussian noise, zero, the mean of the visible ones of
    the crop, or a learned patch."""

    targets: Targets = "voxels"
    """``normalised`` holds a patch against its voxels less their mean, over their deviation."""

    def __post_init__(self) -> None:
        """Refuse empty patches."""
        if min(self.patch) < 1:
            raise ValueError(f"patch sides must be >= 1, got {self.patch}")


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(CorruptionConfig):
    """What an objective that shows prefixes chooses besides."""

    path: Path = "raster"
    """Order pi in which a prefix grows."""

    prefixes_per_crop: int = 1
    """Prefixes drawn of each crop that shows one, spread evenly; each costs a forward pass."""

    def __post_init__(self) -> None:
        """Refuse empty patches, and no prefix at all."""
        super().__post_init__()
        if self.prefixes_per_crop < 1:
            raise ValueError(f"prefixes_per_crop must be >= 1, got {self.prefixes_per_crop}")


class Corrupted(NamedTuple):
    """A batch with hidden patches, one row for each prefix; the masks are bool [B', K], raster."""

    crops: Tensor
    """[B', C, D, H, W], hidden patches filled."""

    hidden: Tensor
    """What the network cannot see."""

    following: Tensor
    """The first hidden patch behind a prefix; nothing in a random sample."""

    order: Tensor
    """int64 [B', K], raster indices in the path's visiting order."""

    visible: Tensor
    """int64 [B'], how many patches are shown: the length of a prefix."""

    rows: Tensor
    """int64 [B'], the sample of each row, rising; 0..B-1 where each has one prefix."""


def corrupt(
    crops: Tensor,
    positions: Tensor,
    kinds: Sequence[Kind],
    *,
    patch: Size3,
    ratio: float,
    path: Path,
    seed: int,
    fill: Fill = "noise",
    learned: Tensor | None = None,
    prefixes: int = 1,
) -> Corrupted:
    """Hide patches of each sample: masks are a function of the seed and the sample's position.

    Only under ``relevance`` do they depend on the crop as well: its order is that of the clean
    crop's scores. A prefix then tells that no hidden patch scores above the last visible one, and
    a network that learns this knows something of what is hidden, though of no voxel.

    Args:
        crops: [B, C, D, H, W], float in [0, 1].
        positions: int64 [B], each sample's position in the stream.
        kinds: per sample, ``random`` hides a share, ``prefix`` all behind a drawn prefix.
        patch: patch size (z, y, x) in voxels; divides (D, H, W).
        ratio: share hidden in a ``random`` sample.
        path: visiting order of a ``prefix`` sample.
        seed: of the run.
        fill: what hidden voxels become: ``mean`` is that of the visible ones, by crop and channel.
        learned: [C, z, y, x], the patch that ``learned`` repeats; gradients reach it.
        prefixes: rows of each ``prefix`` sample, each with another prefix; a ``random`` one has 1.

    Returns:
        The corrupted batch, on the device of ``crops``.

    Raises:
        ValueError: the patch does not divide the crop, the ratio is outside (0, 1), more prefixes
            than the path has, or ``learned`` is not a patch.

    Source: Eq. 3 (random) and Eq. 4-5 (prefix).
    """
    grid = patch_grid(tuple(crops.shape[2:]), patch=patch)
    scores = relevance(crops, patch=patch).cpu() if path == "relevance" else [None] * len(crops)
    masks, noise = [], []
    for row, (position, kind) in enumerate(zip(positions.tolist(), kinds, strict=True)):
        # A source of its own: the masks of a position are then the same for all fixed paths.
        source = sample_generator(seed, position, stream=ORDER_STREAM)
        order = visiting_order(grid, path=path, generator=source, scores=scores[row])
        generator = sample_generator(seed, position)
        for hidden, following in _masks(
            order, kind, ratio=ratio, prefixes=prefixes, generator=generator
        ):
            masks.append((hidden, following, order, (~hidden).sum(), torch.tensor(row)))
            if fill == "noise":
                noise.append(noise_fill(crops.shape[1:], generator=generator))
    columns = zip(*masks, strict=True)
    hidden, *others, rows = (torch.stack(column).to(crops.device) for column in columns)
    repeated = crops[rows]
    if fill == "noise":
        content = torch.stack(noise).to(crops)
    elif fill == "mean":
        content = visible_mean(repeated, hidden, patch=patch).to(crops)
    else:
        content = crops.new_zeros(()) if fill == "zero" else _tiled(learned, crops, patch=patch)
    return Corrupted(hide(repeated, hidden, content, patch=patch), hidden, *others, rows)


def _masks(
    order: Tensor, kind: Kind, *, ratio: float, prefixes: int, generator: Generator
) -> list[tuple[Tensor, Tensor]]:
    """What is hidden in each row of a sample, and which patch follows."""
    if kind == "random":
        mask = random_mask(len(order), ratio=ratio, generator=generator)
        return [(mask, torch.zeros_like(mask))]
    lengths = prefix_lengths(len(order), prefixes=prefixes, generator=generator)
    return [prefix_masks(order, visible=visible) for visible in lengths]


def _tiled(learned: Tensor | None, crops: Tensor, *, patch: Size3) -> Tensor:
    """The learned patch all over a crop, [C, D, H, W]."""
    shape = (crops.shape[1], *patch)
    if learned is None or tuple(learned.shape) != shape:
        found = "none" if learned is None else tuple(learned.shape)
        raise ConfigError(f"fill 'learned' needs a patch {shape} (channels, z, y, x), got {found}")
    grid = patch_grid(tuple(crops.shape[2:]), patch=patch)
    return learned.to(crops).repeat(1, *grid)


def noise_fill(shape: Sequence[int], *, generator: Generator) -> Tensor:
    """Gaussian noise that stands for hidden voxels; each channel has its own.

    Args:
        shape: (C, D, H, W) of one crop.
        generator: source of randomness, on the CPU; one number a voxel and channel is drawn.

    Returns:
        float32 [C, D, H, W] on the CPU, not cut to [0, 1].
    """
    return torch.randn(shape, generator=generator) * NOISE_STD + NOISE_MEAN


def learned_fill(fill: Fill, *, channels: int, patch: Size3) -> nn.Parameter | None:
    """The patch that stands for hidden ones, [channels, z, y, x]; None unless it is learned.

    It begins as flat grey. An objective keeps it as ``fill_bias``: biases have no weight decay.

    Source: He et al. 2022 (mask token), in voxels instead of an embedding.
    """
    if fill != "learned":
        return None
    return nn.Parameter(torch.full((channels, *patch), NOISE_MEAN))


def reconstruct(
    backbone: nn.Module,
    batch: dict[str, Tensor],
    kinds: Sequence[Kind],
    *,
    patch: Size3,
    seed: int,
    ratio: float = 0.5,
    path: Path = "raster",
    fill: Fill = "noise",
    learned: Tensor | None = None,
    prefixes: int = 1,
    targets: Targets = "voxels",
) -> tuple[Corrupted, Tensor]:
    """Corrupt a batch, let a network fill it in, and hold its patches against the truth.

    Args:
        backbone: [B, C, D, H, W] to the same shape.
        batch: crops [B, C, D, H, W] float in [0, 1], positions int64 [B].
        kinds: as in ``corrupt``, and so are the others.
        targets: as in ``patch_errors``.

    Returns:
        What the network saw, and the error of each patch, [B', K].

    Raises:
        ValueError: as ``corrupt``.
    """
    seen = corrupt(
        batch["crops"],
        batch["positions"],
        kinds,
        patch=patch,
        ratio=ratio,
        path=path,
        seed=seed,
        fill=fill,
        learned=learned,
        prefixes=prefixes,
    )
    truth = batch["crops"][seen.rows]
    return seen, patch_errors(backbone(seen.crops), truth, patch=patch, targets=targets)
