"""Test-time augmentation: a network sees flipped and transposed tiles, and estimates are averaged.

An affinity belongs to an edge, not to a voxel: channel c at voxel p is the edge (p, p - o), o being
the channel's offset. In a view, o points elsewhere. Where it becomes the offset of a channel, that
channel's map is the estimate; where it becomes the opposite of one, the same edge is seen from its
other end, and the map belongs o further along; else the view has no estimate.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tokenunify_scale.volumes.geometry import Triple, edges

Tta = Literal["none", "flips", "all"]


@dataclass(frozen=True)
class View:
    """A tile as it looks with y and x swapped, and after that with axes flipped."""

    flipped: tuple[int, ...] = ()
    """Axes, 0 to 2 for z, y, x."""

    transposed: bool = False

    def of(self, crops: Tensor) -> Tensor:
        """The view of [..., D, H, W]."""
        swapped = crops.transpose(-1, -2) if self.transposed else crops
        return swapped.flip([axis - 3 for axis in self.flipped]).contiguous()

    def back(self, maps: Tensor) -> Tensor:
        """What was predicted in the view, [..., D, H, W], where it lies in the tile."""
        straight = maps.flip([axis - 3 for axis in self.flipped])
        return straight.transpose(-1, -2) if self.transposed else straight

    def offset(self, offset: Triple) -> Triple:
        """Where an offset of the tile points in the view."""
        z, y, x = (offset[0], offset[2], offset[1]) if self.transposed else offset
        return tuple(-o if axis in self.flipped else o for axis, o in enumerate((z, y, x)))


def views(tta: Tta) -> list[View]:
    """The views of a kind of augmentation: 1, 8 or 16; the first is the tile itself."""
    if tta == "none":
        return [View()]
    flips = [flipped for count in range(4) for flipped in itertools.combinations(range(3), count)]
    swaps = (False, True) if tta == "all" else (False,)
    return [View(flipped, transposed) for transposed in swaps for flipped in flips]


def source(view: View, offsets: Sequence[Triple], channel: int) -> tuple[int, bool] | None:
    """Which channel of a view estimates a channel of the tile.

    Args:
        view: the view.
        offsets: one a channel.
        channel: of the tile.

    Returns:
        The view's channel, and whether its map belongs an offset further along; None where no
        channel of the view is an estimate.
    """
    turned = view.offset(tuple(offsets[channel]))
    known = [tuple(offset) for offset in offsets]
    if turned in known:
        return known.index(turned), False
    opposite = tuple(-o for o in turned)
    return (known.index(opposite), True) if opposite in known else None


def averaged(
    model: Callable[[Tensor], Tensor],
    *,
    tta: Tta,
    offsets: Sequence[Triple],
) -> Callable[[Tensor], Tensor]:
    """A network that looks at its crops in several views and averages what it says of each edge.

    Args:
        model: [B, C, D, H, W] to a map for each offset, of the same sides or less on either side.
        tta: which views.
        offsets: of the affinities, one a channel; zyx voxels.

    Returns:
        A function as ``model``. Voxels near a face have fewer estimates than others.
    """
    seen = views(tta)
    if len(seen) == 1:
        return model

    def look(crops: Tensor) -> Tensor:
        sums, counts = None, None
        for view in seen:
            maps = view.back(model(view.of(crops)).float())
            if sums is None:
                sums = torch.zeros_like(maps, memory_format=torch.contiguous_format)
                counts = torch.zeros(maps.shape[1:], device=maps.device)
            for channel, offset in enumerate(offsets):
                found = source(view, offsets, channel)
                if found is None:
                    continue
                there, shifted = found
                here, partner = edges(offset if shifted else (0, 0, 0), sides=maps.shape[2:])
                sums[(slice(None), channel, *here)] += maps[(slice(None), there, *partner)]
                counts[(channel, *here)] += 1
        return sums.div_(counts)

    return look
