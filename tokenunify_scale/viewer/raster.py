"""Triangles to pixels in plain numpy: a depth buffer, soft light, and shade in the hollows."""

import numpy as np
from scipy.ndimage import gaussian_filter

AT_ONCE = 1 << 21  # tests of a pixel against a triangle
LIGHT = np.array([-0.30, -0.55, -0.80])  # towards the light: left, up, and before the picture
COARSER = 4  # pixels a side of one for which the hollows are found
FAR = np.iinfo(np.uint64).max  # of a pixel that nothing covers
LEVELS = (1 << 31) - 1  # depths told apart


def depth_buffer(
    points: np.ndarray, faces: np.ndarray, *, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Which triangle each pixel shows.

    Args:
        points: [V, 3] pixel coordinates (right, down, away from the viewer).
        faces: [F, 3] vertices of each triangle.
        shape: of the picture, (rows, columns).

    Returns:
        face: [rows, columns] int64, the nearest triangle at the pixel's middle, -1 where none is;
        depth: [rows, columns] float64, how far it is away, inf where none is.
    """
    near, far = points[:, 2].min(), points[:, 2].max()
    steps = LEVELS / max(far - near, 1e-9)
    corners = points[faces]
    low = np.floor(corners[..., :2].min(axis=1) - 0.5).astype(np.int64)
    high = np.ceil(corners[..., :2].max(axis=1) - 0.5).astype(np.int64)
    sides = (high - low).max(axis=1) + 1
    sides[sides > 16] = 1 << np.ceil(np.log2(sides[sides > 16])).astype(np.int64)  # few groups
    buffer = np.full(shape[0] * shape[1], FAR, np.uint64)
    for side in np.unique(sides):
        alike = np.flatnonzero(sides == side)
        count = max(1, AT_ONCE // int(side) ** 2)
        for start in range(0, len(alike), count):
            chosen = alike[start : start + count]
            pixels, depths, owners = _covered(corners[chosen], low[chosen], int(side), shape)
            keys = ((depths - near) * steps).clip(0, LEVELS).astype(np.uint64) << np.uint64(32)
            np.minimum.at(buffer, pixels, keys | chosen[owners].astype(np.uint64))
    shown = buffer != FAR
    face = np.where(shown, (buffer & np.uint64(0xFFFFFFFF)).astype(np.int64), -1)
    depth = np.where(shown, (buffer >> np.uint64(32)).astype(np.float64) / steps + near, np.inf)
    return face.reshape(shape), depth.reshape(shape)


def _covered(
    corners: np.ndarray, low: np.ndarray, side: int, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels that triangles [N, 3, 3] cover: their flat index, depth, and triangle."""
    down, across = (offset[None] for offset in np.divmod(np.arange(side * side), side))
    second, third = _weights(
        corners[:, None],
        (low[:, :1] - corners[:, 0, :1]) + (across + 0.5),
        (low[:, 1:] - corners[:, 0, 1:2]) + (down + 0.5),
    )
    inside = (second >= -1e-6) & (third >= -1e-6) & (second + third <= 1 + 1e-6)
    owners, places = np.nonzero(inside)
    columns, rows = low[owners, 0] + across[0, places], low[owners, 1] + down[0, places]
    depth = corners[..., 2]
    depths = depth[owners, 0] + second[inside] * (depth[:, 1] - depth[:, 0])[owners]
    depths += third[inside] * (depth[:, 2] - depth[:, 0])[owners]
    seen = (columns >= 0) & (columns < shape[1]) & (rows >= 0) & (rows < shape[0])
    return (rows * shape[1] + columns)[seen], depths[seen], owners[seen]


def _weights(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the second and third corner of triangles at places counted from the first.

    They are nan where a triangle is seen from its edge: it covers nothing.
    """
    sides = corners[..., 1:, :2] - corners[..., :1, :2]
    (bx, by), (cx, cy) = ((sides[..., corner, 0], sides[..., corner, 1]) for corner in (0, 1))
    area = bx * cy - cx * by
    scale = 1 / np.where(np.abs(area) < 1e-9, np.nan, area)
    return x * (cy * scale) - y * (cx * scale), y * (bx * scale) - x * (by * scale)


def shade(
    face: np.ndarray,
    depth: np.ndarray,
    *,
    points: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray,
    colours: np.ndarray,
) -> np.ndarray:
    """Colour the pixels of a depth buffer on white.

    Args:
        face: [rows, columns] as ``depth_buffer`` returns.
        depth: [rows, columns], likewise.
        points: [V, 3] pixel coordinates.
        faces: [F, 3] vertices of each triangle.
        normals: [V, 3] unit vectors in the axes of ``points``.
        colours: [F, 3] of each triangle, in [0, 1].

    Returns:
        [rows, columns, 3] float64 in [0, 1].
    """
    image = np.ones((*face.shape, 3))
    rows, columns = np.nonzero(face >= 0)
    shown = face[rows, columns]
    corners = faces[shown]
    first = points[corners[:, 0]]
    second, third = _weights(points[corners], columns + 0.5 - first[:, 0], rows + 0.5 - first[:, 1])
    normal = normals[corners[:, 0]] * (1 - second - third)[:, None]
    normal += normals[corners[:, 1]] * second[:, None] + normals[corners[:, 2]] * third[:, None]
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    light = LIGHT / np.linalg.norm(LIGHT)
    lit = normal @ light
    facing = np.clip(-normal[:, 2], 0, 1)  # 1 towards the viewer, 0 at the outline
    half = light + (0, 0, -1)
    shine = np.clip(normal @ (half / np.linalg.norm(half)), 0, 1) ** 40
    strength = 0.30 + 0.72 * (0.5 + 0.5 * lit) ** 1.4
    strength *= 0.62 + 0.38 * np.sqrt(facing)
    strength *= _hollow(depth)[rows, columns]
    colour = colours[shown] * strength[:, None] + 0.16 * shine[:, None]
    deep = depth[rows, columns]
    haze = 0.22 * (deep - deep.min()) / max(float(np.ptp(deep)), 1e-9)
    image[rows, columns] = (colour * (1 - haze[:, None]) + haze[:, None]).clip(0, 1)
    return image


def _hollow(depth: np.ndarray) -> np.ndarray:
    """Shade where the surroundings are nearer: folds, gaps, and what lies behind something.

    Source: unsharp masking of the depth buffer, Luft et al. 2006, doi 10.1145/1141911.1142016.
    """
    thin = depth[::COARSER, ::COARSER]
    there = np.isfinite(thin)
    known = np.where(there, thin, 0.0)
    shadow = np.zeros_like(thin)
    for radius in (0.008, 0.03):
        sigma = radius * max(thin.shape)
        weights = gaussian_filter(there.astype(np.float64), sigma)
        around = gaussian_filter(known, sigma) / np.maximum(weights, 1e-6)
        shadow += 0.5 * np.clip((known - around) / (3 * sigma * COARSER), 0, 1)
    whole = 1 - 0.55 * gaussian_filter(shadow, 0.7)
    rows, columns = (np.arange(side) // COARSER for side in depth.shape)
    return whole[rows[:, None], columns]
