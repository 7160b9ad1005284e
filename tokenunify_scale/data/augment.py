"""Random changes to EM crops, with or without labels; all pure functions of a generator.

The order is that in which an image comes about: tissue (mixup, then all that moves voxels), its
gray values, what the microscope does to them (blur, then noise), and what is lost in the end.

Each change that may be made has a generator of its own, seeded by one number of the crop's and the
change's name. So a change that is switched off or made stronger leaves the others as they were.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from zlib import crc32

import numpy as np

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.changes import artifacts, intensity, warp
from tokenunify_scale.data.changes.artifacts import (
    CutBlur,
    CutNoise,
    Defocus,
    Missing,
    MissingParts,
    MotionBlur,
)
from tokenunify_scale.data.changes.change import Change
from tokenunify_scale.data.changes.intensity import Blur, Intensity, Mixup, Noise
from tokenunify_scale.data.changes.warp import (
    Elastic,
    Flip,
    Misalignment,
    Rescale,
    Rotate,
    Rotate90,
    Transpose,
)
from tokenunify_scale.volumes.geometry import Box

Triple = tuple[float, float, float]

# Changes of gray values, in the order in which they are made.
GRAY_CHANGES = {
    "intensity": intensity.change_intensity,
    "section_intensity": intensity.change_sections,
    "blur": intensity.blur,
    "defocus": artifacts.defocus,
    "motion_blur": artifacts.motion_blur,
    "cut_blur": artifacts.cut_blur,
    "noise": intensity.add_noise,
    "cut_noise": artifacts.cut_noise,
    "missing_parts": artifacts.lose_parts,
    "missing": artifacts.lose_sections,
}


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Which changes are made to a crop, how often and how strongly, in the order they are made."""

    p: float = 1.0
    """Probability that a crop is changed at all; 0 switches all changes off."""
    mixup: Mixup = Mixup()
    """A second crop faintly over the crop."""
    flip: Flip = Flip()
    """Mirror images."""
    transpose: Transpose = Transpose()
    """Exchange of y and x."""
    rotate90: Rotate90 = Rotate90()
    """Quarter turns in the plane."""
    rotate: Rotate = Rotate()
    """A free rotation in the plane."""
    rescale: Rescale = Rescale()
    """A zoom in the plane."""
    elastic: Elastic = Elastic()
    """A smooth deformation in the plane."""
    slip: Misalignment = Misalignment()
    """One section displaced."""
    shift: Misalignment = Misalignment()
    """All sections displaced from one on."""
    intensity: Intensity = Intensity()
    """Contrast, brightness and gamma of the whole crop (3-D)."""
    section_intensity: Intensity = Intensity(p=0.0, contrast=0.1, brightness=0.1, gamma=0.0)
    """The same for each section by itself (2-D); strengths of Funke et al. 2018."""
    blur: Blur = Blur()
    """Gaussian blur of all sections."""
    defocus: Defocus = Defocus()
    """Some sections out of focus."""
    motion_blur: MotionBlur = MotionBlur()
    """Some sections smeared along a line."""
    cut_blur: CutBlur = CutBlur()
    """A cuboid with larger voxels."""
    noise: Noise = Noise()
    """Gaussian noise."""
    cut_noise: CutNoise = CutNoise()
    """Uniform noise in a cuboid."""
    missing_parts: MissingParts = MissingParts()
    """Sections spoiled on one side of a line."""
    missing: Missing = Missing()
    """Sections lost."""

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        if not 0 <= self.p <= 1:
            raise ConfigError(f"p is a probability within 0 to 1, got {self.p}")


def change_names() -> tuple[str, ...]:
    """The names of all changes, as in ``AugmentConfig`` and in its order."""
    return tuple(field.name for field in fields(AugmentConfig) if field.name != "p")


def only(config: AugmentConfig, *names: str) -> AugmentConfig:
    """The same strengths, but the named changes always and all others never."""
    changes = {key: replace(getattr(config, key), p=float(key in names)) for key in change_names()}
    return AugmentConfig(**changes)


def unchanged() -> AugmentConfig:
    """A default for what makes no change unless one is named: each probability is 0."""
    return only(AugmentConfig())


def generator(*words: int) -> np.random.Generator:
    """A random generator that depends only on ``words`` (>= 0), such as seed and position."""
    return np.random.default_rng(words)


def random_box(
    rng: np.random.Generator, shape: tuple[int, int, int], *, crop: tuple[int, int, int]
) -> Box:
    """A box of ``crop`` voxels, uniform over all places inside ``shape`` (zyx).

    Raises:
        ValueError: the crop is larger than the shape.
    """
    if not Box.of(shape).contains(Box.of(crop)):
        raise ValueError(f"a crop of {tuple(crop)} does not fit into {tuple(shape)} (zyx voxels)")
    z, y, x = (int(rng.integers(0, s - c + 1)) for s, c in zip(shape, crop, strict=True))
    return Box.of(crop).shift((z, y, x))


def augment(
    crop: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    config: AugmentConfig,
    rng: np.random.Generator,
    voxel_size: Triple | None = None,
    partner: Callable[[], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Change a crop at random; labels move with it, and keep their values.

    Args:
        crop: uint8 [D, H, W].
        labels: None or [D, H, W], any type.
        config: probabilities and strengths.
        rng: the only source of chance; one number is drawn from it, whatever the config.
        voxel_size: (z, y, x) in nm; y and x are exchanged only where they are equal. None: unknown,
            taken to be equal, as it is in all but a few EM volumes.
        partner: gives the second crop of mixup; it is called when one is needed.

    Returns:
        The new crop (uint8, same shape, contiguous) and labels (or None). Where nothing changes
        they may be the arrays that were given.

    Raises:
        ConfigError: mixup may be drawn, and there is no partner.
        ValueError: the crop is not uint8 and 3-D, or labels or partner have another shape.
    """
    if crop.dtype != np.uint8 or crop.ndim != 3:
        raise ValueError(f"a crop is uint8 [D, H, W], got {crop.dtype} {crop.shape}")
    if labels is not None and labels.shape != crop.shape:
        raise ValueError(f"labels of shape {labels.shape} for a crop of {crop.shape}")
    if config.p > 0 and config.mixup.p > 0 and partner is None:
        raise ConfigError(f"mixup.p is {config.mixup.p}, but there is no second crop to mix in")
    dice = _Dice(config, rng)
    if own := dice.cast("mixup"):
        crop = intensity.mix(crop, config.mixup, partner=partner(), rng=own)
    crop, labels = _orient(crop, labels, dice=dice, voxel_size=voxel_size)
    crop, labels = _warp(crop, labels, dice=dice, voxel_size=voxel_size)
    for name, change in GRAY_CHANGES.items():
        if own := dice.cast(name):
            crop = change(crop, getattr(config, name), rng=own)
    return crop, labels


class _Dice:
    """Which changes are made to one crop; each has its own generator."""

    def __init__(self, config: AugmentConfig, rng: np.random.Generator) -> None:
        self.config = config
        self._seed = int(rng.integers(2**63))
        self._any = self._generator("p").random() < config.p

    def cast(self, name: str, *words: int) -> np.random.Generator | None:
        """The generator of a change, if it is made; ``words`` tell several chances of it apart."""
        change: Change = getattr(self.config, name)
        if not self._any or change.p == 0:
            return None
        rng = self._generator(name, *words)
        return rng if rng.random() < change.p else None

    def _generator(self, name: str, *words: int) -> np.random.Generator:
        return generator(self._seed, crc32(name.encode()), *words)


def _orient(
    crop: np.ndarray, labels: np.ndarray | None, *, dice: _Dice, voxel_size: Triple | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Flips, transpose and quarter turns, the same for crop and labels."""
    square = crop.shape[1] == crop.shape[2]
    square = square and (voxel_size is None or voxel_size[1] == voxel_size[2])
    turn = dice.cast("rotate90") if square else None
    moves = {
        "flips": [axis for axis in range(3) if dice.cast("flip", axis)],
        "transpose": square and dice.cast("transpose") is not None,
        "quarters": int(turn.integers(1, 4)) if turn else 0,
    }
    return warp.orient(crop, **moves), None if labels is None else warp.orient(labels, **moves)


def _warp(
    crop: np.ndarray, labels: np.ndarray | None, *, dice: _Dice, voxel_size: Triple | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rotation, zoom, elastic deformation and misalignment in one resampling, if any is made."""
    config, depth = dice.config, len(crop)
    matrix, field, offsets = np.eye(2), None, np.zeros((depth, 2))
    if rng := dice.cast("rotate"):
        angle = rng.uniform(-config.rotate.angle, config.rotate.angle)
        matrix = warp.rotation(angle, voxel_size=voxel_size)
    if rng := dice.cast("rescale"):
        matrix = matrix / warp.zoom(config.rescale, rng=rng)
    if rng := dice.cast("elastic"):
        field = warp.elastic_field(config.elastic, crop.shape[1:], rng=rng)
        offsets += config.elastic.jitter * rng.standard_normal((depth, 2))
    if rng := dice.cast("slip"):
        offsets += warp.slip_offsets(config.slip, depth, rng=rng)
    if rng := dice.cast("shift"):
        offsets += warp.shift_offsets(config.shift, depth, rng=rng)
    if field is None and not offsets.any() and np.array_equal(matrix, np.eye(2)):
        return crop, labels
    return warp.Warp(matrix, offsets, field).apply(crop, labels)
