"""Random changes to EM crops, with or without labels; all pure functions of a generator."""

from dataclasses import dataclass

import numpy as np

from tokenunify_scale.volumes.geometry import Box


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Which changes are made to a crop, how often and how strongly."""

    flip: float = 0.5
    """Probability of a mirror image, for each axis by itself."""
    transpose: float = 0.5
    """Probability of exchanging y and x, where crop and voxel are square in the plane."""
    intensity: float = 0.5
    """Probability of a change of contrast, brightness and gamma."""
    contrast: float = 0.2
    """Largest relative change of contrast."""
    brightness: float = 0.1
    """Largest shift of brightness, of the range [0, 1]."""
    gamma: float = 0.5
    """Largest change of gamma, as a power of two."""
    noise: float = 0.2
    """Probability of Gaussian noise."""
    noise_std: float = 0.04
    """Largest standard deviation of the noise, of the range [0, 1]."""
    missing: float = 0.05
    """Probability that one section is lost: dark or black."""

    def __post_init__(self) -> None:
        """Refuse what is no probability or strength."""
        for name in ("flip", "transpose", "intensity", "noise", "missing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, got {getattr(self, name)}")
        for name in ("contrast", "brightness", "gamma", "noise_std"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is a strength >= 0, got {getattr(self, name)}")


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
    voxel_size: tuple[float, float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Change a crop at random; labels move with it, and keep their values.

    Args:
        crop: uint8 [D, H, W].
        labels: None or [D, H, W], any type.
        config: probabilities and strengths.
        rng: the only source of chance.
        voxel_size: (z, y, x) in nm; y and x are exchanged only where they are equal. None: unknown,
            taken to be equal, as it is in all but a few EM volumes.

    Returns:
        The new crop (uint8, same shape, contiguous) and labels (or None).
    """
    crop, labels = _move(crop, labels, config=config, rng=rng, voxel_size=voxel_size)
    if rng.random() < config.intensity:
        crop = _lookup(config, rng)[crop]
    if rng.random() < config.noise:
        crop = add_noise(crop, std=rng.uniform(0, config.noise_std), rng=rng)
    if rng.random() < config.missing:
        crop = lose_section(crop, rng=rng)
    return crop, labels


def add_noise(crop: np.ndarray, *, std: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of ``std`` (of the range [0, 1]) on a uint8 crop of any shape."""
    noise = rng.standard_normal(crop.shape, dtype=np.float32)
    noise *= std * 255
    noise += crop
    return np.clip(np.rint(noise), 0, 255).astype(np.uint8)


def lose_section(crop: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """One z section of a uint8 crop [D, H, W], black (half of the time) or darkened."""
    section = int(rng.integers(crop.shape[0]))
    light = 0.0 if rng.random() < 0.5 else rng.uniform(0.1, 0.6)
    changed = crop.copy()
    changed[section] = (crop[section] * light).astype(np.uint8)
    return changed


def _move(
    crop: np.ndarray,
    labels: np.ndarray | None,
    *,
    config: AugmentConfig,
    rng: np.random.Generator,
    voxel_size: tuple[float, float, float] | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Flips and the in-plane transpose, the same for crop and labels."""
    axes = tuple(axis for axis in range(3) if rng.random() < config.flip)
    square = crop.shape[1] == crop.shape[2]
    square = square and (voxel_size is None or voxel_size[1] == voxel_size[2])
    exchange = rng.random() < config.transpose and square

    def move(array: np.ndarray) -> np.ndarray:
        array = np.flip(array, axes)
        return np.ascontiguousarray(array.transpose(0, 2, 1) if exchange else array)

    return move(crop), None if labels is None else move(labels)


def _lookup(config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Table [256] uint8 of one random change of gamma, contrast and brightness."""
    gray = np.linspace(0, 1, 256) ** 2 ** rng.uniform(-config.gamma, config.gamma)
    gray = (gray - 0.5) * (1 + rng.uniform(-config.contrast, config.contrast)) + 0.5
    gray = gray + rng.uniform(-config.brightness, config.brightness)
    return np.rint(np.clip(gray, 0, 1) * 255).astype(np.uint8)
