"""Crops a network cannot take as they are: padded to sides it can."""

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
