"""Surfaces: closed, of the right size and place, whatever the voxels are."""

import numpy as np
import pytest

from tokenunify_scale.viewer.surface import box_of, surface_of
from tokenunify_scale.volumes.geometry import Box


def volume_of(surface):
    """Signed volume inside a closed surface, by the sum over its triangles (nm^3, zyx)."""
    a, b, c = (surface.vertices[surface.faces[:, corner]] for corner in range(3))
    return abs(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def closed(surface):
    """Whether each edge belongs to an even number of triangles."""
    edges = np.concatenate([surface.faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    _, counts = np.unique(np.sort(edges, axis=1), axis=0, return_counts=True)
    return np.all(counts % 2 == 0)


def ball(radius, shape):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    middle = (np.array(shape) - 1) / 2
    return (np.linalg.norm(grid - middle, axis=-1) <= radius).astype(np.uint64)


def test_a_ball_keeps_its_volume_its_place_and_its_roundness():
    surface = surface_of(ball(12, (40, 30, 34)), 1, voxel_size=(10, 10, 10))
    from_middle = surface.vertices - np.array([20, 15, 17]) * 10
    distance = np.linalg.norm(from_middle, axis=1)
    assert distance.mean() == pytest.approx(120, rel=0.02) and distance.std() < 3
    assert volume_of(surface) == pytest.approx(4 / 3 * np.pi * 120**3, rel=0.04)
    outwards = np.einsum("ij,ij->i", from_middle / distance[:, None], surface.normals)
    assert outwards.min() > 0.9
    assert closed(surface)


def test_a_segment_that_ends_with_the_volume_is_closed_there():
    ids = np.full((4, 6, 8), 3, np.uint64)
    surface = surface_of(ids, 3, voxel_size=(30, 5, 5))
    assert closed(surface) and surface.voxels == ids.size
    np.testing.assert_array_equal(surface.box, [[0, 0, 0], [120, 30, 40]])
    assert volume_of(surface) == pytest.approx(120 * 30 * 40, rel=0.2)


@pytest.mark.parametrize("voxel_size", [(10, 10, 10), (35, 8, 8)])
def test_one_voxel_and_a_branch_of_one_voxel_do_not_vanish(voxel_size):
    ids = np.zeros((5, 9, 30), np.uint64)
    ids[2, 4, :] = 7
    ids[0, 0, 0] = 2**64 - 1
    branch, dot = (surface_of(ids, i, voxel_size=voxel_size) for i in (7, 2**64 - 1))
    assert closed(branch) and closed(dot)
    assert np.ptp(branch.vertices[:, 2]) > 28 * voxel_size[2]
    assert volume_of(dot) > 0 and (dot.vertices >= 0).all()
    wide = branch.vertices[np.abs(branch.vertices[:, 2] - 15 * voxel_size[2]) < voxel_size[2]]
    assert np.ptp(wide[:, 1]) > 0.2 * voxel_size[1]


def test_a_large_segment_is_thinned_and_its_branches_stay_whole():
    ids = np.zeros((60, 60, 60), np.uint32)
    ids[10:50, 10:50, 10:50] = 1
    ids[30, 30, 50:] = 1
    fine, coarse = (surface_of(ids, 1, voxel_size=(10, 10, 10), budget=b) for b in (10**6, 4000))
    assert len(coarse.faces) < len(fine.faces) / 5
    assert coarse.vertices[:, 2].max() > 580 and fine.vertices[:, 2].max() > 590
    assert volume_of(coarse) == pytest.approx(volume_of(fine), rel=0.25)
    assert coarse.voxels == fine.voxels == 64010


def test_the_box_is_the_smallest_and_an_absent_id_has_none():
    ids = np.zeros((4, 5, 6), np.int32)
    ids[1:3, 4, 2] = 9
    assert box_of(ids, 9) == (Box((1, 4, 2), (3, 5, 3)), 2)
    assert box_of(ids, 8) is None and surface_of(ids, 8, voxel_size=(1, 1, 1)) is None
