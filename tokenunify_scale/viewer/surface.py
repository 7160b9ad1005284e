"""The surface of a segment: marching cubes on its voxels, smoothed without shrinking it."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array
from skimage.measure import marching_cubes

from tokenunify_scale.viewer.embed import reduction
from tokenunify_scale.volumes.geometry import Box, Triple

BUDGET = 1 << 23  # voxels of the box that a surface is made from; larger ones are thinned
ROUNDS = 12  # of smoothing: steps of a voxel are gone, thin branches are not
FARTHEST = 0.38  # voxels that a vertex moves along an axis: a branch of one voxel stays
SHRINK, GROW = 0.5, -0.53  # Taubin 1995, doi 10.1145/218380.218473


class Surface(NamedTuple):
    """A closed surface of triangles."""

    vertices: np.ndarray
    """[V, 3] float64, nm (z, y, x), counted from the first voxel's outer corner."""

    faces: np.ndarray
    """[F, 3] vertices of each triangle."""

    normals: np.ndarray
    """[V, 3] unit vectors out of the segment."""

    box: np.ndarray
    """[2, 3] nm: where its voxels begin and end."""

    voxels: int
    """Of the segment."""


def box_of(segmentation: np.ndarray, segment: int) -> tuple[Box, int] | None:
    """The smallest box around a segment and its voxels; None where it is not there.

    Args:
        segmentation: [D, H, W] integer ids.
        segment: id.
    """
    depth, height, width = segmentation.shape
    hit = np.zeros(depth, bool), np.zeros(height, bool), np.zeros(width, bool)
    wanted, voxels = segmentation.dtype.type(segment), 0
    for z, section in enumerate(segmentation):
        mask = section == wanted
        if count := int(np.count_nonzero(mask)):
            voxels += count
            hit[0][z] = True
            np.logical_or(hit[1], mask.any(axis=1), out=hit[1])
            np.logical_or(hit[2], mask.any(axis=0), out=hit[2])
    if not voxels:
        return None
    ends = [np.flatnonzero(axis)[[0, -1]].tolist() for axis in hit]
    return Box(tuple(a for a, _ in ends), tuple(b + 1 for _, b in ends)), voxels


def surface_of(
    segmentation: np.ndarray,
    segment: int,
    *,
    voxel_size: tuple[float, float, float],
    budget: int = BUDGET,
) -> Surface | None:
    """The surface of a segment, closed where the volume ends; None where it is not there.

    Args:
        segmentation: [D, H, W] integer ids.
        segment: id.
        voxel_size: (z, y, x) in nm.
        budget: voxels of the segment's box at most; more are joined, and a joined voxel belongs
            to the segment if any of its voxels does, so that thin branches stay whole.
    """
    found = box_of(segmentation, segment)
    if found is None:
        return None
    box, voxels = found
    factors = reduction(box.shape, voxel_size=voxel_size, each=1, limit=budget)
    mask = _joined(segmentation[box.slices], segment, factors)
    corners, faces, *_ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5)
    # The padding moved all by one; the middle of the first voxel is half a voxel from its corner.
    places = _smooth(corners.astype(np.float64), faces) - 0.5
    vertices = (places * factors + box.start) * voxel_size
    sides = np.array([box.start, box.stop]) * np.array(voxel_size)
    return Surface(vertices, faces, _normals(vertices, faces), sides, voxels)


def _joined(ids: np.ndarray, segment: int, factors: Triple) -> np.ndarray:
    """Blocks of ``factors`` voxels that hold any of the segment, as bool."""
    wanted = ids.dtype.type(segment)
    starts = [np.arange(0, side, f) for side, f in zip(ids.shape, factors, strict=True)]
    joined = np.empty([len(axis) for axis in starts], bool)
    for place, z in enumerate(starts[0]):
        flat = (ids[z : z + factors[0]] == wanted).any(axis=0)
        rows = np.logical_or.reduceat(flat, starts[1], axis=0)
        joined[place] = np.logical_or.reduceat(rows, starts[2], axis=1)
    return joined


def _smooth(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Each vertex towards the mean of its neighbours, and back out: steps go, volume stays."""
    mean, moved = _neighbour_mean(len(vertices), faces), vertices
    for _ in range(ROUNDS):
        for step in (SHRINK, GROW):
            moved = moved + step * (mean @ moved - moved)
    return vertices + (moved - vertices).clip(-FARTHEST, FARTHEST)


def _neighbour_mean(count: int, faces: np.ndarray) -> csr_array:
    """A matrix that takes the mean over the vertices joined to each one by an edge."""
    pairs = np.concatenate([faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    joined = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    joined = joined.tocsr()
    joined.data[:] = 1  # an edge belongs to two triangles, and counts once
    return diags_array(1 / joined.sum(axis=1)) @ joined


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals of vertices: those of their triangles, weighted by area, pointing outwards."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    across = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for corner in range(3):
        for axis in range(3):
            weights = across[:, axis]
            normals[:, axis] += np.bincount(faces[:, corner], weights, len(vertices))
    # The sum of signed volumes tells which way round the triangles go.
    if np.einsum("ij,ij->", a - vertices.mean(axis=0), across) < 0:
        normals = -normals
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
