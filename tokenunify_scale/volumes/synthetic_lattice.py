"""The space synthetic neurites live in: smooth noise, spheres, and a warped coarse grid.

Distances are computed on a grid of about 32 nm in plane and brought to the voxels by cubic
B-splines, which is fast and keeps outlines smooth to a fraction of a voxel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from tokenunify_scale.volumes.geometry import Box, Triple

COARSE = 32.0
PAD = 3
MOST_JITTER = 2
RIPPLES = 8
# Amplitudes in nm along (z, y, x) of the warp at each wavelength in nm.
WARP = {900.0: (60, 85, 85), 340.0: (18, 26, 26), 150.0: (4, 8, 8)}


def spline(positions: np.ndarray, size: int) -> np.ndarray:
    """Weights [M, size] of the uniform cubic B-spline at positions given in samples."""
    base = np.floor(positions).astype(int)
    t = positions - base
    parts = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    rows = np.arange(len(positions))
    weights = np.zeros((len(positions), size), np.float32)
    for shift, part in enumerate(parts):
        weights[rows, np.clip(base - 1 + shift, 0, size - 1)] += part / 6
    return weights


def smooth_noise(
    rng: np.random.Generator,
    *,
    shape: Sequence[int],
    spacing: Sequence[float],
    wavelength: float,
) -> np.ndarray:
    """Smooth noise of unit variance on a grid.

    Args:
        rng: where the noise comes from.
        shape: of the grid, any number of axes.
        spacing: of the grid along each axis, nm.
        wavelength: about the distance from crest to crest, nm.

    Returns:
        Array of ``shape``, float32.
    """
    step = wavelength / 2
    knots = [int(np.ceil(n * s / step)) + 4 for n, s in zip(shape, spacing, strict=True)]
    noise = rng.standard_normal(knots, dtype=np.float32)
    noise /= float(noise.std())
    for axis, (n, s, count) in enumerate(zip(shape, spacing, knots, strict=True)):
        weights = spline(np.arange(n) * s / step + rng.uniform(1, 2), count)
        # The spline averages its knots; scale what that takes from the variance back in.
        weights /= np.sqrt((weights**2).sum(1).mean())
        noise = np.moveaxis(np.tensordot(weights, noise, (1, axis)), 0, axis)
    return noise


@dataclass(frozen=True)
class Spheres:
    """Spheres, sorted by owner."""

    points: np.ndarray
    """[N, 3] float32, nm."""
    radius: np.ndarray
    """[N] float32, nm."""
    owner: np.ndarray
    """[N] int64, ascending."""

    @classmethod
    def of(cls, runs: list[tuple[int, np.ndarray, np.ndarray]]) -> "Spheres":
        """Join runs of spheres (owner, points, radius); owners must not descend."""
        if not runs:
            return cls(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, int))
        owner, points, radius = zip(*runs, strict=True)
        return cls(
            np.concatenate(points).astype(np.float32),
            np.concatenate(radius).astype(np.float32),
            np.repeat(owner, [len(run) for run in points]),
        )

    def near(self, where: np.ndarray, *, reach: float) -> "Spheres":
        """Those whose surface comes within ``reach`` nm of the bounding box of [..., 3]."""
        flat = where.reshape(-1, 3)
        low, high = flat.min(0), flat.max(0)
        out = np.maximum(np.maximum(low - self.points, self.points - high), 0)
        keep = (out * out).sum(1) < (reach + self.radius) ** 2
        return Spheres(self.points[keep], self.radius[keep], self.owner[keep])

    def distance(self, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Owners [L] and their signed distance [L, D, H, W], nm, to positions [D, H, W, 3]."""
        owners, starts = np.unique(self.owner, return_index=True)
        stops = np.append(starts[1:], len(self.owner))
        result = np.empty((len(owners), len(where), where[0, ..., 0].size), np.float32)
        # |p - q|^2 as one product of five columns; centring keeps float32 exact enough, and
        # the 1 nm^2 keeps round-off from making it negative.
        middle = where.mean((0, 1, 2))
        points = self.points - middle
        left = np.column_stack([points, (points**2).sum(1), np.ones_like(self.radius)])
        for z, plane in enumerate(where - middle):
            flat = plane.reshape(-1, 3).T
            right = np.vstack([-2 * flat, np.ones_like(flat[0]), (flat**2).sum(0) + 1])
            distance = np.sqrt(np.maximum(left @ right, 0))
            distance -= self.radius[:, None]
            # Faster than minimum.reduceat by a factor of four.
            for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
                np.minimum.reduce(distance[start:stop], axis=0, out=result[row, z])
        return owners, result.reshape(len(owners), *where.shape[:3])


class Lattice:
    """A coarse grid under a volume: where its nodes lie in warped space, and ripples on it."""

    def __init__(
        self,
        shape: Triple,
        voxel_size: tuple[float, float, float],
        *,
        jitter: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Lay the grid under a volume whose section z is moved by ``jitter[z]`` (y, x) voxels."""
        self.voxel_size, self.jitter = np.array(voxel_size), jitter
        self.factor = np.maximum(np.round(COARSE / self.voxel_size), 1).astype(int)
        self.factor[0] = 1
        self.spacing = self.voxel_size * self.factor
        self.origin = PAD * self.spacing * (0, 1, 1)
        sides = zip(shape[1:], self.factor[1:], strict=True)
        size = (shape[0], *(-(-n // f) + 2 * PAD for n, f in sides))

        def noise(wavelength: float) -> np.ndarray:
            return smooth_noise(rng, shape=size, spacing=self.spacing, wavelength=wavelength)

        self.warp = np.stack(
            [sum(height[axis] * noise(w) for w, height in WARP.items()) for axis in range(3)]
        )
        self.ripples = np.stack([noise(260.0) for _ in range(RIPPLES)])
        axes = (
            np.arange(n) * s - o for n, s, o in zip(size, self.spacing, self.origin, strict=True)
        )
        grid = np.stack(np.meshgrid(*axes, indexing="ij"))
        self.nodes = np.moveaxis(grid + self.warp, 0, -1).astype(np.float32)

    def window(self, box: Box) -> tuple[slice, slice, slice]:
        """The nodes that the voxels of a box depend on."""
        slices = []
        for axis in (1, 2):
            low, high = box.start[axis] - MOST_JITTER, box.stop[axis] - 1 + MOST_JITTER
            f = int(self.factor[axis])
            slices.append(slice(max(low // f + PAD - 1, 0), -(-high // f) + PAD + 2))
        return box.slices[0], slices[0], slices[1]

    def refine(self, coarse: np.ndarray, box: Box) -> np.ndarray:
        """Bring values [L, *window] from the nodes to the voxels [L, *box.shape] of a box."""
        window = self.window(box)
        weights = []
        for axis in (1, 2):
            at = np.arange(box.start[axis], box.stop[axis]) + self.jitter[window[0], axis - 1, None]
            at = at / self.factor[axis] + PAD - window[axis].start
            size = coarse.shape[axis + 1]
            weights.append(spline(at.ravel(), size).reshape(*at.shape, size))
        return weights[0] @ (coarse @ weights[1].transpose(0, 2, 1))

    def unwarp(self, points: np.ndarray) -> np.ndarray:
        """Where points [N, 3] (nm, warped space) appear in the volume, in voxels."""
        found = points
        for _ in range(3):
            at = (found + self.origin) / self.spacing
            warp = [map_coordinates(w, at.T, order=1, mode="nearest") for w in self.warp]
            found = points - np.stack(warp, 1)
        found = found / self.voxel_size
        section = np.clip(np.round(found[:, 0]).astype(int), 0, len(self.jitter) - 1)
        found[:, 1:] -= self.jitter[section]
        return found
