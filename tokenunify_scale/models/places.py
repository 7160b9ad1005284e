"""Where patches and feature cells lie in a crop, and how much of each other they cover."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from tokenunify_scale.volumes.geometry import Triple

WAVES = (2.0, 512.0)
"""Shortest and longest wavelength of sines and cosines, in patches."""


def centres(
    size: Triple, *, extent: tuple[float, float, float], device: torch.device | None = None
) -> Tensor:
    """Centres of the cells of a grid that covers ``extent`` from 0 on, float32 [cells, 3], zyx."""
    axes = [
        (torch.arange(count, device=device, dtype=torch.float32) + 0.5) * (length / count)
        for count, length in zip(size, extent, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


def waves(places: Tensor, *, width: int) -> Tensor:
    """Sines and cosines of continuous places.

    Args:
        places: [L, axes], in patches.
        width: of the result.

    Returns:
        [L, width]: an equal share of sines along each axis, then of cosines, of wavelengths from
        2 to 512 patches, then zeros up to the width.

    Source: Vaswani et al. 2017, along several axes.
    """
    count = width // (2 * places.shape[1])
    shortest, longest = (math.log(2 * math.pi / length) for length in WAVES)
    rates = torch.linspace(shortest, longest, count, device=places.device).exp()
    angles = (places[:, :, None] * rates).flatten(1)
    joined = torch.cat([angles.sin(), angles.cos()], 1)
    return functional.pad(joined, (0, width - joined.shape[1]))


def between(table: Tensor, places: Tensor) -> Tensor:
    """Rows of a table, and between them by linear interpolation.

    Args:
        table: [rows, width], spread over [0, 1]: each row is at the middle of its share.
        places: [L]; before the first row's and behind the last row's middle, that row holds.

    Returns:
        [L, width].
    """
    rows = len(table)
    at = (places * rows - 0.5).clamp(0, rows - 1)
    steps = torch.arange(rows, device=places.device)
    return (1 - (at[:, None] - steps).abs()).clamp(min=0).to(table.dtype) @ table


def overlaps(
    cells: tuple[int, int], patches: tuple[int, int], *, device: torch.device | None = None
) -> Tensor:
    """How much of each cell lies in each patch, along one axis on which both begin at 0.

    Args:
        cells: how many there are, and the voxels they cover together.
        patches: the same.
        device: where the result lies.

    Returns:
        float32 [cells, patches], shares of a cell: exactly 0 where it only touches a patch.
    """
    # Lengths in units that make them whole numbers: rounding must not let a patch's edge in.
    cell, patch = cells[1] * patches[0], patches[1] * cells[0]
    starts = torch.arange(cells[0], device=device)[:, None] * cell
    others = torch.arange(patches[0], device=device) * patch
    shared = torch.minimum(starts + cell, others + patch) - torch.maximum(starts, others)
    return shared.clamp(min=0).float() / cell
