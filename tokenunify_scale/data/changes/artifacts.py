"""What goes wrong in sectioning and imaging: sections lost, blurred or smeared, bad regions."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from tokenunify_scale.data.changes.change import Change, pick_sections, to_gray
from tokenunify_scale.data.changes.intensity import soften

LEAST_LOST = 0.1  # share of a section, the least that a missing part takes


@dataclass(frozen=True, kw_only=True)
class Defocus(Change):
    """Some sections out of focus.

    Source: Lee et al. 2017 (up to 5 sections, sigma up to 5 voxels).
    """

    LIMITS = {"sections": (1, math.inf)}

    sections: int = 5
    """Most sections that are blurred."""
    sigma: float = 5.0
    """Largest standard deviation of the blur, in voxels; another for each section."""


@dataclass(frozen=True, kw_only=True)
class MotionBlur(Change):
    """Some sections smeared along a line, each in its own direction in the plane.

    Source: PyTorch Connectomics (2 sections, 11 voxels, along an axis).
    """

    LIMITS = {"sections": (1, math.inf), "length": (1, math.inf)}

    sections: int = 2
    """Most sections that are smeared."""
    length: int = 11
    """Largest length of the line, in voxels."""


@dataclass(frozen=True, kw_only=True)
class CutBlur(Change):
    """A cuboid as it would be with larger voxels in the plane.

    Source: Yoo et al. 2020; PyTorch Connectomics (sides of 0.4, factors 2 to 8).
    """

    LIMITS = {"share": (0, 1), "low": (1, math.inf), "high": (1, math.inf)}

    share: float = 0.4
    """Sides of the cuboid, as a share of the crop's."""
    low: float = 2.0
    """Smallest factor by which voxels are larger."""
    high: float = 8.0
    """Largest factor by which voxels are larger."""


@dataclass(frozen=True, kw_only=True)
class CutNoise(Change):
    """Uniform noise in a cuboid.

    Source: PyTorch Connectomics (sides of 0.4, noise up to 0.3).
    """

    LIMITS = {"share": (0, 1)}

    share: float = 0.4
    """Sides of the cuboid, as a share of the crop's."""
    amplitude: float = 0.3
    """Largest change of a voxel, of the range [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class MissingParts(Change):
    """Some sections spoiled on one side of a random line: black, faded or blurred there.

    Source: Lee et al. 2017 (up to 5 sections are missing, in whole or in part).
    """

    LIMITS = {"sections": (1, math.inf), "share": (LEAST_LOST, 1)}

    sections: int = 5
    """Most sections that are spoiled."""
    share: float = 0.5
    """Largest part of a section that is spoiled, at least 0.1."""
    sigma: float = 5.0
    """Standard deviation of the blur of a blurred part, in voxels."""


@dataclass(frozen=True, kw_only=True)
class Missing(Change):
    """Sections lost: dark or black."""

    LIMITS = {"sections": (1, math.inf)}

    p: float = 0.05
    """Probability that sections are lost."""
    sections: int = 1
    """Most sections that are lost at once (Lee et al. 2017: 5)."""


def defocus(crop: np.ndarray, config: Defocus, *, rng: np.random.Generator) -> np.ndarray:
    """Blur some sections of a uint8 crop [D, H, W], each by a random sigma."""
    changed = crop.copy()
    for z in pick_sections(rng, len(crop), most=config.sections):
        changed[z] = soften(crop[z], sigma=rng.uniform(0, config.sigma))
    return changed


def motion_blur(crop: np.ndarray, config: MotionBlur, *, rng: np.random.Generator) -> np.ndarray:
    """Smear some sections of a uint8 crop [D, H, W], each along its own line."""
    changed = crop.copy()
    for z in pick_sections(rng, len(crop), most=config.sections):
        angle, length = rng.uniform(0, math.pi), rng.uniform(1, config.length)
        changed[z] = smear(crop[z], angle=angle, length=length)
    return changed


def smear(section: np.ndarray, *, angle: float, length: float) -> np.ndarray:
    """Mean of a uint8 section [H, W] along a line through each voxel, with mirrored borders.

    Args:
        section: what moved while it was imaged.
        angle: of the line, from x towards y, in radians.
        length: of the line, in voxels.
    """
    reach = math.ceil(length / 2)
    padded = np.pad(section.astype(np.float32), reach, mode="reflect")
    h, w = section.shape
    total = np.zeros((h, w), np.float32)
    for (y, x), weight in _line(angle, length):
        y, x = y + reach, x + reach
        total += np.float32(weight) * padded[y : y + h, x : x + w]
    return to_gray(total)


def cut_blur(crop: np.ndarray, config: CutBlur, *, rng: np.random.Generator) -> np.ndarray:
    """Shrink a random cuboid of a uint8 crop [D, H, W] in the plane, and enlarge it again."""
    box = _cuboid(crop.shape, config.share, rng)
    factor = rng.uniform(config.low, config.high)
    changed = crop.copy()
    cuboid = torch.from_numpy(crop[box].astype(np.float32))[None]
    sides = cuboid.shape[2:]
    small = [max(1, round(side / factor)) for side in sides]
    for size in (small, sides):
        cuboid = F.interpolate(cuboid, size, mode="bilinear", antialias=True)
    changed[box] = to_gray(cuboid[0].numpy())
    return changed


def cut_noise(crop: np.ndarray, config: CutNoise, *, rng: np.random.Generator) -> np.ndarray:
    """Uniform noise of a random strength in a random cuboid of a uint8 crop [D, H, W]."""
    box = _cuboid(crop.shape, config.share, rng)
    amplitude = 255 * rng.uniform(0, config.amplitude)
    changed = crop.copy()
    noise = rng.random(crop[box].shape, dtype=np.float32)
    changed[box] = to_gray(crop[box] + amplitude * (2 * noise - 1))
    return changed


def lose_parts(crop: np.ndarray, config: MissingParts, *, rng: np.random.Generator) -> np.ndarray:
    """Spoil one side of a random line, in some sections of a uint8 crop [D, H, W]."""
    changed = crop.copy()
    for z in pick_sections(rng, len(crop), most=config.sections):
        section = crop[z]
        depth = _beyond_line(section.shape, rng.uniform(LEAST_LOST, config.share), rng)
        kind = rng.choice(("black", "faded", "blurred"))
        if kind == "black":
            spoiled = np.zeros_like(section)
        elif kind == "faded":  # contrast falls with the distance from the line
            kept = np.exp(-3 * depth / max(depth.max(), 1))
            spoiled = to_gray(section.mean() + kept * (section - section.mean()))
        else:
            spoiled = soften(section, sigma=config.sigma)
        changed[z] = np.where(depth > 0, spoiled, section)
    return changed


def lose_sections(crop: np.ndarray, config: Missing, *, rng: np.random.Generator) -> np.ndarray:
    """Lose some sections of a uint8 crop [D, H, W]: black (half of the time) or darkened."""
    changed = crop.copy()
    for z in pick_sections(rng, len(crop), most=config.sections):
        light = 0.0 if rng.random() < 0.5 else rng.uniform(0.1, 0.6)
        changed[z] = (crop[z] * light).astype(np.uint8)
    return changed


def _line(angle: float, length: float) -> Iterator[tuple[tuple[int, int], float]]:
    """Voxels (y, x) of a line about the origin, with weights that sum to 1."""
    steps = max(1, math.ceil(length))
    weights: dict[tuple[int, int], float] = {}
    for t in (np.arange(steps) - (steps - 1) / 2) * (length / steps):
        y, x = t * math.sin(angle), t * math.cos(angle)
        top, left = math.floor(y), math.floor(x)
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            share = abs(1 - dy - (y - top)) * abs(1 - dx - (x - left))
            if share > 0:
                place = (top + dy, left + dx)
                weights[place] = weights.get(place, 0.0) + share / steps
    yield from weights.items()


def _cuboid(
    shape: tuple[int, ...], share: float, rng: np.random.Generator
) -> tuple[slice, slice, slice]:
    """A random box with ``share`` of each side of ``shape``, at least a voxel."""
    lengths = [max(1, round(share * side)) for side in shape]
    starts = [int(rng.integers(s - n + 1)) for s, n in zip(shape, lengths, strict=True)]
    z, y, x = (slice(start, start + n) for start, n in zip(starts, lengths, strict=True))
    return z, y, x


def _beyond_line(sides: tuple[int, int], share: float, rng: np.random.Generator) -> np.ndarray:
    """Distance [H, W] from a random line in voxels, > 0 in ``share`` of an image of ``sides``."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.indices(sides, dtype=np.float32)
    along = math.sin(angle) * y + math.cos(angle) * x
    return along - np.quantile(along, 1 - share)
