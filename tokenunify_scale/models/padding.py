"""Sides of crops and maps: padded to what a network takes, cut to what it gives."""

from torch import Tensor, nn

from tokenunify_scale.volumes.geometry import Triple


def pad_to(crops: Tensor, sides: Triple) -> Tensor:
    """Grow crops at the end of each axis, by reflection where that is long enough.

    Args:
        crops: [B, C, D, H, W].
        sides: wanted (z, y, x) in voxels, at least those of the crops.

    Returns:
        [B, C, *sides]; where a side is too short to be reflected, edges are repeated instead.
    """
    found = tuple(crops.shape[2:])
    if found == tuple(sides):
        return crops
    extra = [target - side for target, side in zip(sides, found, strict=True)]
    short = any(add >= side for add, side in zip(extra, found, strict=True))
    amounts = [amount for add in reversed(extra) for amount in (0, add)]
    return nn.functional.pad(crops, amounts, mode="replicate" if short else "reflect")


def round_up(sides: Triple, *, to: Triple) -> Triple:
    """The smallest multiples of ``to`` that are at least ``sides``, (z, y, x)."""
    z, y, x = (-(-side // step) * step for side, step in zip(sides, to, strict=True))
    return z, y, x


def middle(x: Tensor, sides: Triple) -> Tensor:
    """The middle of a map, a view.

    Args:
        x: [B, C, D, H, W].
        sides: wanted (z, y, x) in voxels, each smaller by an even number, or equal.

    Raises:
        ValueError: a side is larger than x's, or the difference is odd.
    """
    extra = [found - side for found, side in zip(x.shape[2:], sides, strict=True)]
    if min(extra) < 0 or any(more % 2 for more in extra):
        raise ValueError(f"{tuple(sides)} has no middle in a map of {tuple(x.shape[2:])} voxels")
    for axis, (more, side) in enumerate(zip(extra, sides, strict=True), start=2):
        x = x.narrow(axis, more // 2, side)
    return x
