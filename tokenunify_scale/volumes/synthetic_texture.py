"""Draw serial-section electron micrographs from labels and distances.

Each section integrates over its thickness, so a membrane that runs along the section becomes a
grey smear while one that crosses it is a thin dark line. Grey values are those of stained neuropil
with its contrast stretched: membranes near black, cytoplasm bright, mitochondria between.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from tokenunify_scale.volumes.synthetic_labels import Anatomy
from tokenunify_scale.volumes.synthetic_lattice import smooth_noise
from tokenunify_scale.volumes.synthetic_organelles import Details

DEPTHS = (-0.4, -0.2, 0.0, 0.2, 0.4)
CYTOPLASM, MATRIX, MEMBRANE, DENSITY = 172.0, 106.0, 14.0, 18.0
MEMBRANE_NM, WALL_NM, BLUR_NM = 9.5, 6.0, 4.4


def render(
    anatomy: Anatomy,
    details: Details,
    *,
    voxel_size: tuple[float, float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Grey values of an anatomy and its details.

    Args:
        anatomy: from `build_anatomy`.
        details: from `draw_details`.
        voxel_size: nm (z, y, x).
        rng: where all randomness comes from.

    Returns:
        [D, H, W] uint8.
    """
    labels, pixel = anatomy.labels, float(np.mean(voxel_size[1:]))
    count = int(labels.max()) + 1
    tone = rng.normal(CYTOPLASM, 8, count).astype(np.float32)
    tone[rng.random(count) < 0.07] -= 42
    grain = rng.uniform(0.5, 1.3, count).astype(np.float32)
    drift = np.cumsum(rng.normal(0, 1, (len(labels), 2)), axis=0)
    drift = 0.5 * (drift - gaussian_filter(drift, (6, 0))) + rng.normal(0, 0.8, drift.shape)
    raw = np.empty(labels.shape, np.uint8)
    for z, ids in enumerate(labels):
        fine, coarse = (_noise(rng, ids.shape, s / pixel) for s in (8.0, 19.0))
        # Grains are dark: the tail of the noise points down.
        fine -= 0.45 * (fine * fine - 1)
        image = tone[ids] + grain[ids] * (15 * fine + 10 * coarse)
        lines = gaussian_filter(details.filaments[z], 7.0 / pixel)
        image -= 60 * (1 - np.exp(-2.5 * lines)) * (anatomy.gap[z] > 14)
        image -= 88 * details.rims[z].astype(np.float32)
        _mitochondria(image, anatomy, z, voxel_size=voxel_size)
        image += _membranes(anatomy, z) * (MEMBRANE - image)
        image += details.density[z].astype(np.float32) * (DENSITY - image)
        image = gaussian_filter(image, BLUR_NM / pixel)
        shot = rng.standard_normal(ids.shape, dtype=np.float32)
        image += 0.8 * np.sqrt(np.maximum(image, 1)) * shot
        shade = smooth_noise(rng, shape=ids.shape, spacing=(pixel, pixel), wavelength=3000)
        image = (image - 128) * (1 + 0.045 * drift[z, 0]) + 128 + 4 * drift[z, 1] + 3 * shade
        raw[z] = np.clip(np.round(image), 0, 255)
    return raw


def _noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """White noise blurred by ``sigma`` pixels, unit variance, float32."""
    noise = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    return noise / max(float(noise.std()), 1e-6)


def _membranes(anatomy: Anatomy, z: int) -> np.ndarray:
    """Share of section z's thickness that is membrane, [H, W] float32 in [0, 1]."""
    total = np.zeros(anatomy.gap[z].shape, np.float32)
    for t in DEPTHS:
        other = _neighbour(z, t, len(anatomy.gap))
        # The distance changes its sign where another neurite takes over.
        same = anatomy.labels[other] == anatomy.labels[z]
        there = np.where(same, anatomy.gap[other], -anatomy.gap[other])
        level = (1 - abs(t)) * anatomy.gap[z] + abs(t) * there
        total += np.exp(-((level / MEMBRANE_NM) ** 2))
    return total / len(DEPTHS)


def _neighbour(z: int, t: float, sections: int) -> int:
    """The section on the side of z that depth t lies on; z itself at the ends."""
    return min(max(z + int(np.sign(t)), 0), sections - 1)


def _mitochondria(image: np.ndarray, anatomy: Anatomy, z: int, *, voxel_size) -> None:
    """Draw matrix, double membrane and cristae into section z, in place."""
    where = np.nonzero(anatomy.depth[z] < 25)
    number = anatomy.mitochondrion[z][where].astype(np.int64)
    levels = []
    for t in DEPTHS:
        other = _neighbour(z, t, len(anatomy.depth))
        same = anatomy.mitochondrion[other][where] == number
        there = np.where(same, anatomy.depth[other][where], np.float32(40))
        levels.append((1 - abs(t)) * anatomy.depth[z][where] + abs(t) * there)
    depth = np.stack(levels)
    inside = _step(-depth).mean(0)
    walls = sum(np.exp(-(((depth + at) / WALL_NM) ** 2)).mean(0) for at in (0, 17))
    position = np.stack([np.full(len(number), z), *where], 1) * voxel_size
    body = MATRIX - 14 * np.cos(number)
    body = body + _step(-depth.mean(0) - 24) * _cristae(number, position)
    cytoplasm = image[where]
    grain = 0.35 * (cytoplasm - CYTOPLASM)
    cytoplasm += inside * (body + grain - cytoplasm)
    image[where] = cytoplasm - 66 * np.minimum(walls, 1)


def _step(depth: np.ndarray) -> np.ndarray:
    """A soft step, 0 to 1, about 10 nm wide."""
    return 1 / (1 + np.exp(-np.clip(depth / 3, -20, 20)))


def _cristae(number: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Grey-level pattern [N] of folded lamellae at positions [N, 3] nm of mitochondria [N]."""
    # Each mitochondrion's own direction, period and strength come from its number by cosines.
    turn, tilt = 2.4 * number, np.cos(1.7 * number)
    flat = np.sqrt(1 - 0.7 * tilt * tilt)
    across = np.stack([0.84 * tilt, flat * np.cos(turn), flat * np.sin(turn)], 1)
    period = 44 + 9 * np.cos(5.1 * number)
    bend = 16 * np.sin(position @ (0.012, 0.021, 0.017) + number)
    bend += 12 * np.sin(position @ (0.02, -0.014, 0.025) + 2 * number)
    phase = 2 * np.pi * ((position * across).sum(1) + bend) / period
    # What a lamella loses by being seen through a tilted section.
    seen = np.sinc(across[:, 0] * 30 / period)
    return (36 + 12 * np.cos(3.3 * number)) * seen * np.tanh(1.6 * np.cos(phase) + 0.5)
