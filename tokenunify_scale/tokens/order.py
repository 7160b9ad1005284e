"""Paths through the patch grid: the order pi in which a sequence objective visits the patches."""

from typing import Literal

import torch
from torch import Tensor

Path = Literal["raster", "snake"]


def visiting_order(grid: tuple[int, int, int], *, path: Path = "raster") -> Tensor:
    """Raster indices of the patches in visiting order.

    Args:
        grid: number of patches along (z, y, x).
        path: ``raster`` visits rows of x, then y, then z; ``snake`` turns round at the end of each
            row and section, so that successive patches always touch.

    Returns:
        int64 [K], a permutation of 0..K-1.

    Raises:
        ValueError: an unknown path.

    Source: Eq. 4, the path pi.
    """
    indices = torch.arange(grid[0] * grid[1] * grid[2]).reshape(grid)
    if path == "snake":
        indices = indices.clone()
        indices[1::2] = indices[1::2].flip(1)
        rows = indices.reshape(-1, grid[2])
        rows[1::2] = rows[1::2].flip(1)
        indices = rows
    elif path != "raster":
        raise ValueError(f"path {path!r} is not one of raster, snake")
    return indices.reshape(-1)
