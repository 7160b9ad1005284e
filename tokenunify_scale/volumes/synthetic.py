"""Synthetic electron microscopy: neuropil with exact instance labels, from a seed.

Branching neurites of varied calibre fill the volume and run through many sections; membranes,
mitochondria, vesicles, synapses and microtubules are drawn as serial sections show them.
The needed packages are those of the core, and the same seed gives the same voxels.
"""

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

import numpy as np

from tokenunify_scale.config import ConfigError, build
from tokenunify_scale.registry import READERS
from tokenunify_scale.volumes.synthetic_labels import build_anatomy
from tokenunify_scale.volumes.synthetic_lattice import MOST_JITTER, Lattice, Spheres
from tokenunify_scale.volumes.synthetic_organelles import (
    draw_details,
    place_microtubules,
    place_mitochondria,
)
from tokenunify_scale.volumes.synthetic_skeletons import grow
from tokenunify_scale.volumes.synthetic_texture import render
from tokenunify_scale.volumes.volume import Claim, Volume

PREFIX = "synthetic"


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What decides a synthetic volume, down to the last voxel."""

    seed: int = 0
    """Which volume of all those of this shape."""
    shape: tuple[int, int, int] = (64, 512, 512)
    """Sides (z, y, x) in voxels, at least (1, 16, 16)."""
    voxel_size: tuple[float, float, float] = (35.0, 8.0, 8.0)
    """Sides of a voxel (z, y, x) in nm, 4 to 80."""
    jitter: float = 0.6
    """Standard deviation of the misalignment of sections, in voxels; 2 is the most."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}")
        if any(side < least for side, least in zip(self.shape, (1, 16, 16), strict=True)):
            raise ConfigError(f"shape {self.shape} must be at least (1, 16, 16) voxels (zyx)")
        if not all(4 <= side <= 80 for side in self.voxel_size):
            raise ConfigError(f"voxel_size {self.voxel_size} must be within 4 to 80 nm (zyx)")
        if not 0 <= self.jitter <= MOST_JITTER:
            raise ConfigError(f"jitter must be within [0, {MOST_JITTER}], got {self.jitter}")


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec(SyntheticConfig):
    """A synthetic volume as a reader's words choose it."""

    dataset: Literal["raw", "labels"] = "raw"
    """Grey values or instance labels."""


def synthesize(config: SyntheticConfig) -> tuple[np.ndarray, np.ndarray]:
    """Grow, label and draw a volume of neuropil.

    Args:
        config: the seed, the shape and the voxel size.

    Returns:
        Raw [D, H, W] uint8 and labels [D, H, W] uint32. Labels are 1..N without background;
        each one is a single 6-connected piece.
    """
    shape, voxel_size = config.shape, config.voxel_size
    rng = np.random.default_rng((config.seed, *shape))
    branches = grow(np.array(shape) * voxel_size, rng=rng)
    jitter = np.clip(rng.normal(0, config.jitter, (shape[0], 2)), -MOST_JITTER, MOST_JITTER)
    lattice = Lattice(shape, voxel_size, jitter=jitter, rng=rng)
    neurites = Spheres.of([(b.owner, b.points, b.radius) for b in branches])
    mitochondria, hosts = place_mitochondria(branches, rng=rng)
    anatomy = build_anatomy(neurites, mitochondria, hosts, shape=shape, lattice=lattice)
    beads = place_microtubules(branches, lattice=lattice, rng=rng)
    details = draw_details(anatomy, beads, voxel_size=voxel_size, rng=rng)
    return render(anatomy, details, voxel_size=voxel_size, rng=rng), anatomy.labels


# Raw and labels of one volume are asked for one after the other.
_cached = lru_cache(maxsize=2)(synthesize)


class _Lazy:
    """An array that is drawn when it is first sliced."""

    def __init__(self, spec: SyntheticSpec) -> None:
        self.shape = spec.shape
        self.dtype = np.dtype(np.uint8 if spec.dataset == "raw" else np.uint32)
        self.config = SyntheticConfig(
            **{field.name: getattr(spec, field.name) for field in fields(SyntheticConfig)}
        )

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        raw, labels = _cached(self.config)
        return (raw if self.dtype == np.uint8 else labels)[index]


def parse_spec(spec: str) -> SyntheticSpec:
    """Read ``synthetic:seed=7,shape=64x512x512,dataset=labels``; every key is optional.

    Raises:
        ConfigError: an unknown key (with the nearest one), a word without ``=``, a bad value.
    """
    words = [word for word in spec.partition(":")[2].split(",") if word]
    for word in words:
        if "=" not in word:
            raise ConfigError(f"{spec!r}: expected key=value, got {word!r}")
    return build(SyntheticSpec, dict(word.split("=", 1) for word in words), where=spec)


def open_synthetic(spec: str) -> Volume:
    """A synthetic volume; nothing is drawn before the first read.

    Raises:
        ConfigError: the words after ``synthetic:`` are wrong.
    """
    parsed = parse_spec(spec)
    attributes = {"source": "synthetic", "seed": parsed.seed, "dataset": parsed.dataset}
    return Volume(spec, _Lazy(parsed), voxel_size=parsed.voxel_size, attributes=attributes)


READERS.add("synthetic", open_synthetic, Claim(prefix=PREFIX), source="not in the paper")
