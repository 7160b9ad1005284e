"""Random views of crops: turned, shifted, with other gray values, noise, blur and holes.

A voxel of a microscope has a size, so no view is resized: what is seen twice is seen at one scale.
Whatever is drawn is drawn once for all channels of a crop, but for the noise, of which each voxel
of each channel has its own. Sections are flipped, never exchanged with rows: one section will do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from tokenunify_scale.config import ConfigError

PLANE = (-2, -1)  # y and x of a map
DRAWS = 12  # random numbers of one view, before those of its holes


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How far a view may be from its crop; 0 everywhere leaves the crop alone."""

    turn: float = 0.5
    """Probability of each flip, along z, y and x, and of the exchange of y and x."""

    shift: float = 0.0
    """Largest shift along each axis, as a share of the side; the crop's end is mirrored."""

    gamma: float = 0.25
    """Largest change of gamma, as a power of two."""

    contrast: float = 0.1
    """Largest relative change of contrast, around the crop's mean."""

    brightness: float = 0.05
    """Largest shift of brightness, of the range [0, 1]."""

    blur: float = 0.0
    """Largest standard deviation of a Gaussian blur in the plane, in voxels."""

    noise: float = 0.02
    """Largest standard deviation of Gaussian noise, of the range [0, 1]."""

    holes: int = 0
    """Boxes that are cut out and filled with the view's mean."""

    hole: float = 0.3
    """Largest side of a box, as a share of the crop's; the smallest is half of it."""

    def __post_init__(self) -> None:
        """Refuse negative strengths, and shares above 1."""
        for field in fields(self):
            value = getattr(self, field.name)
            most = 1 if field.name in ("turn", "shift", "contrast", "hole") else math.inf
            if not 0 <= value <= most or value == math.inf:
                bounds = "in [0, 1]" if most == 1 else ">= 0 and finite"
                raise ConfigError(f"{field.name} of a view is {value}, must be {bounds}")


WEAK = Strength()
MEDIUM = Strength(gamma=0.3, contrast=0.2, brightness=0.1, blur=0.5, noise=0.03, holes=2)
STRONG = Strength(gamma=0.6, contrast=0.4, brightness=0.15, blur=1.5, noise=0.1, holes=4)


class Turn(NamedTuple):
    """A flip and a transpose, which lose nothing."""

    flips: tuple[bool, bool, bool]
    """Along z, y and x; they come first."""

    transpose: bool
    """Whether y and x are then exchanged."""


class View(NamedTuple):
    """A batch seen anew."""

    crops: Tensor
    """[B, C, D, H, W] in [0, 1]."""

    turns: tuple[Turn, ...]
    """Of each sample; ``unturn`` brings maps of the view back to where the crop lies."""


def make_view(
    crops: Tensor, positions: Tensor, strength: Strength, *, seed: int, number: int
) -> View:
    """A view of each crop, a pure function of seed, position and number, whatever the batch.

    All but the noise is drawn on the CPU, the noise on the crops' device: kinds of devices differ
    in it alone. Each draw has its place, so one strength does not change what another does.

    Args:
        crops: [B, C, D, H, W], float in [0, 1].
        positions: int64 [B], each sample's position in the stream.
        strength: how far the view may be from the crop.
        seed: of the run.
        number: of the view, >= 0; another number is another view.

    Returns:
        The view, on the device of ``crops``, without gradient.
    """
    seen, turns = [], []
    for crop, position in zip(crops.detach(), positions.tolist(), strict=True):
        generator = view_generator(seed, position, number)
        draws = torch.rand(DRAWS, generator=generator).tolist()
        turn_ = _draw_turn(draws[:4], strength, square=crop.shape[-2] == crop.shape[-1])
        moved = _shift(crop, draws[4:7], share=strength.shift)
        changed = _gray(turn_one(moved, turn_), draws[7:10], strength)
        changed = _blur(changed, sigma=draws[10] * strength.blur)
        changed = _noise(changed, std=draws[11] * strength.noise, generator=generator)
        seen.append(_cut_out(changed, strength, generator=generator))
        turns.append(turn_)
    return View(torch.stack(seen), tuple(turns))


def view_generator(seed: int, position: int, number: int) -> Generator:
    """The source of randomness, on the CPU, of one view of one sample."""
    # A sequence that ends in 0 is the shorter one to numpy: the masks' draws.
    mixed = np.random.SeedSequence([seed, position, number + 1]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))


def turn(maps: Tensor, turns: Sequence[Turn]) -> Tensor:
    """Turn the maps of each sample.

    Args:
        maps: [B, C, D, H, W]; any sides, but square in the plane where y and x are exchanged.
        turns: one a sample.

    Returns:
        Like ``maps``; gradients flow through.
    """
    return torch.stack([turn_one(each, one) for each, one in zip(maps, turns, strict=True)])


def unturn(maps: Tensor, turns: Sequence[Turn]) -> Tensor:
    """The exact inverse of ``turn``, for voxels and for feature maps of any scale.

    Args:
        maps: [B, C, D, H, W] of the turned crops; feature maps too, where the crop was not padded.
        turns: one a sample.

    Returns:
        Like ``maps``; gradients flow through.
    """
    back = []
    for each, one in zip(maps, turns, strict=True):
        straight = each.transpose(*PLANE) if one.transpose else each
        back.append(straight.flip(_axes(one)))
    return torch.stack(back)


def turn_one(x: Tensor, one: Turn) -> Tensor:
    """Turn one map [..., D, H, W]: flips first, then the exchange of y and x."""
    flipped = x.flip(_axes(one))
    return flipped.transpose(*PLANE) if one.transpose else flipped


def _axes(one: Turn) -> list[int]:
    """The axes that are flipped, from the end."""
    return [axis for axis, flip in zip((-3, -2, -1), one.flips, strict=True) if flip]


def _draw_turn(draws: Sequence[float], strength: Strength, *, square: bool) -> Turn:
    z, y, x, exchange = (draw < strength.turn for draw in draws)
    return Turn((z, y, x), exchange and square)


def _shift(crop: Tensor, draws: Sequence[float], *, share: float) -> Tensor:
    """Move a crop [C, D, H, W] by up to a share of each side, mirrored at its ends."""
    for axis, draw in zip((-3, -2, -1), draws, strict=True):
        side = crop.shape[axis]
        offset = round((2 * draw - 1) * share * side)
        if offset:
            places = (torch.arange(side, device=crop.device) + offset) % (2 * side)
            crop = crop.index_select(axis, torch.minimum(places, 2 * side - 1 - places))
    return crop


def _gray(crop: Tensor, draws: Sequence[float], strength: Strength) -> Tensor:
    """Other gamma, contrast and brightness, within [0, 1]."""
    gamma, contrast, brightness = (2 * draw - 1 for draw in draws)
    gray = crop.clamp(0, 1) ** 2 ** (gamma * strength.gamma)
    mean = gray.mean()
    gray = (gray - mean) * (1 + contrast * strength.contrast) + mean
    return (gray + brightness * strength.brightness).clamp(0, 1)


def _blur(crop: Tensor, *, sigma: float) -> Tensor:
    """Gaussian blur of [C, D, H, W] in the plane, edges repeated; as a sum of shifted copies."""
    if sigma == 0:
        return crop
    reach = math.ceil(3 * sigma)
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-reach, reach + 1)]
    total = sum(weights)
    for axis, around in ((-1, (reach, reach, 0, 0)), (-2, (0, 0, reach, reach))):
        # Edges are repeated, which any side allows; mirrored ones would have to be long enough.
        wide = functional.pad(crop, (*around, 0, 0), mode="replicate")
        shifted = (wide.narrow(axis, i, crop.shape[axis]) for i in range(len(weights)))
        crop = sum(x * (weight / total) for x, weight in zip(shifted, weights, strict=True))
    return crop


def _noise(crop: Tensor, *, std: float, generator: Generator) -> Tensor:
    """Gaussian noise, drawn where the crop lies; within [0, 1]."""
    seed = int(torch.randint(2**62, (), generator=generator))
    local = torch.Generator(crop.device).manual_seed(seed)
    noise = torch.randn(crop.shape, generator=local, device=crop.device, dtype=crop.dtype)
    return (crop + noise * std).clamp(0, 1)


def _cut_out(crop: Tensor, strength: Strength, *, generator: Generator) -> Tensor:
    """Boxes filled with the mean. Source: DeVries and Taylor 2017, in three dimensions."""
    sides, mean = crop.shape[-3:], crop.mean()
    for _ in range(strength.holes):
        sizes, places = torch.rand(2, 3, generator=generator).tolist()
        box: list[slice] = [slice(None)]
        for side, size, place in zip(sides, sizes, places, strict=True):
            length = max(round((0.5 + 0.5 * size) * strength.hole * side), 1)
            start = round(place * (side - length))
            box.append(slice(start, start + length))
        crop[tuple(box)] = mean
    return crop
