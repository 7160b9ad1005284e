"""Changes of gray values all over a crop: mixup, contrast, blur and noise."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from tokenunify_scale.data.changes.change import Change, to_gray


@dataclass(frozen=True, kw_only=True)
class Mixup(Change):
    """A second crop faintly over the crop, whose labels stay those of the first.

    Source: Zhang et al. 2018; as PyTorch Connectomics mixes volumes (0.1 to 0.3).
    """

    LIMITS = {"low": (0, 0.5), "high": (0, 0.5)}

    low: float = 0.1
    """Smallest weight of the second crop."""
    high: float = 0.3
    """Largest weight of the second crop, at most 0.5."""


@dataclass(frozen=True, kw_only=True)
class Intensity(Change):
    """A change of contrast, brightness and gamma."""

    p: float = 0.5
    """Probability of a change of contrast, brightness and gamma."""
    contrast: float = 0.2
    """Largest relative change of contrast."""
    brightness: float = 0.1
    """Largest shift of brightness, of the range [0, 1]."""
    gamma: float = 0.5
    """Largest change of gamma, as a power of two."""


@dataclass(frozen=True, kw_only=True)
class Blur(Change):
    """Gaussian blur of all sections, each in its plane.

    Source: nnU-Net (Isensee et al. 2021: 0.5 to 1.5 voxels).
    """

    sigma: float = 1.5
    """Largest standard deviation, in voxels; the smallest is a third of it."""


@dataclass(frozen=True, kw_only=True)
class Noise(Change):
    """Gaussian noise."""

    p: float = 0.2
    """Probability of Gaussian noise."""
    std: float = 0.04
    """Largest standard deviation of the noise, of the range [0, 1]."""


def mix(
    crop: np.ndarray, config: Mixup, *, partner: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A weighted mean of a uint8 crop and a partner of its shape.

    Raises:
        ValueError: the shapes differ.
    """
    if partner.shape != crop.shape:
        raise ValueError(f"mixup needs a partner of the shape {crop.shape}, got {partner.shape}")
    weight = rng.uniform(config.low, config.high)
    mixed = crop.astype(np.float32) * (1 - weight)
    return to_gray(mixed + partner.astype(np.float32) * weight)


def change_intensity(
    crop: np.ndarray, config: Intensity, *, rng: np.random.Generator
) -> np.ndarray:
    """One change of gray values for a whole uint8 crop, of any shape."""
    return np.take(_table(config, rng), crop)


def change_sections(crop: np.ndarray, config: Intensity, *, rng: np.random.Generator) -> np.ndarray:
    """Another change of gray values for each section of a uint8 crop [D, H, W]."""
    return np.stack([np.take(_table(config, rng), section) for section in crop])


def blur(crop: np.ndarray, config: Blur, *, rng: np.random.Generator) -> np.ndarray:
    """Blur a uint8 crop [D, H, W] with one random sigma."""
    return soften(crop, sigma=rng.uniform(config.sigma / 3, config.sigma))


def soften(crop: np.ndarray, *, sigma: float) -> np.ndarray:
    """Gaussian blur of a uint8 array [..., H, W] in its plane, with mirrored borders."""
    return to_gray(gaussian_filter(crop.astype(np.float32), sigma, axes=(-2, -1), mode="mirror"))


def add_noise(crop: np.ndarray, config: Noise, *, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of one random strength on a uint8 crop of any shape."""
    std = rng.uniform(0, config.std)
    noise = rng.standard_normal(crop.shape, dtype=np.float32)
    noise *= std * 255
    noise += crop
    return to_gray(noise)


def _table(config: Intensity, rng: np.random.Generator) -> np.ndarray:
    """Table [256] uint8 of one random change of gamma, contrast and brightness."""
    gray = np.linspace(0, 1, 256) ** 2 ** rng.uniform(-config.gamma, config.gamma)
    gray = (gray - 0.5) * (1 + rng.uniform(-config.contrast, config.contrast)) + 0.5
    gray = gray + rng.uniform(-config.brightness, config.brightness)
    return to_gray(gray * 255)
