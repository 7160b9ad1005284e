"""How a network looks at a volume larger than what it takes at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.volumes.geometry import Triple

WINDOW_SIGMA = 0.25  # of the blending window, as a share of the tile's side
WINDOW_FLOOR = 1e-3  # so that a voxel only corners see still has a weight


@dataclass(frozen=True)
class Windows:
    """How a network looks at a volume."""

    tile: Triple
    """What it predicts at once (z, y, x), in voxels."""

    overlap: Triple
    """What neighbouring tiles share at least."""

    margin: Triple
    """What it sees beyond a tile on either side."""

    extra: Triple
    """What it sees beyond that at the end, for sides that it can take."""

    context: Triple = (0, 0, 0)
    """What is dropped of a prediction at the faces of its tile that lie inside the volume."""


def windows(
    model: nn.Module,
    *,
    tile: Triple,
    overlap: Triple | None,
    shape: Triple,
    context: Triple = (0, 0, 0),
) -> Windows:
    """Fit tiles to a network and a volume.

    Args:
        model: its ``margin`` and ``legal`` are asked.
        tile: sides (z, y, x) of what it is to see.
        overlap: voxels shared by neighbouring predictions; None: a quarter of the
            sections and a fifth of the other sides, or 0 where there is a margin; at least twice
            the context.
        shape: of the whole volume; predictions are not larger.
        context: voxels (z, y, x) dropped at the faces of a tile inside the volume.

    Raises:
        ConfigError: a tile of which nothing is predicted, or an overlap that leaves no step or is
            less than twice the context.
    """
    margin = model.margin
    inner = tuple(side - 2 * m for side, m in zip(tile, margin, strict=True))
    if min(inner) < 1:
        raise ConfigError(
            f"tile {tile}: the network predicts {margin} voxels less on either side, nothing is "
            f"left; the smallest tile is {model.legal(tuple(2 * m + 1 for m in margin))}"
        )
    if overlap is None:
        overlap = (0, 0, 0) if any(margin) else (inner[0] // 4, inner[1] // 5, inner[2] // 5)
        overlap = tuple(max(o, 2 * c) for o, c in zip(overlap, context, strict=True))
    check_overlap(overlap, inner, context=context)
    inner = tuple(map(min, inner, shape))
    seen = tuple(side + 2 * m for side, m in zip(inner, margin, strict=True))
    extra = tuple(a - b for a, b in zip(model.legal(seen), seen, strict=True))
    shared = tuple(map(min, overlap, (s - 1 for s in inner)))
    return Windows(inner, shared, margin, extra, context)


def check_overlap(overlap: Triple, tile: Triple, *, context: Triple = (0, 0, 0)) -> None:
    """Refuse an overlap that leaves no step, or voxels that every tile drops.

    Raises:
        ConfigError: it is negative, as long as the tile, or less than twice the context.
    """
    if any(o < 0 or o >= t for t, o in zip(tile, overlap, strict=True)):
        raise ConfigError(f"overlap {overlap} must be >= 0 and below tile {tile}")
    if min(context) < 0:
        raise ConfigError(f"context {context} must be >= 0 voxels")
    if any(o < 2 * c for o, c in zip(overlap, context, strict=True)):
        raise ConfigError(
            f"overlap {overlap} must be at least twice the context {context}: what one tile drops "
            "its neighbour has to predict"
        )


def blending_window(shape: Sequence[int]) -> np.ndarray:
    """A Gaussian over a tile, highest in its middle, nowhere 0.

    Args:
        shape: (z, y, x) in voxels.

    Returns:
        float32 of that shape, values in (0, 1].
    """
    window = np.ones((), np.float32)
    for side in shape:
        place = (np.arange(side) + 0.5) / side - 0.5
        window = window[..., None] * np.exp(-0.5 * (place / WINDOW_SIGMA) ** 2)
    return np.maximum(window, WINDOW_FLOOR).astype(np.float32)
