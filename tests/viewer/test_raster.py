"""Pixels of triangles: exact cover, the nearest wins, light falls from one side."""

import numpy as np
import pytest

from tokenunify_scale.viewer.raster import depth_buffer, shade

SQUARE = np.array([[0, 1, 2], [0, 2, 3]])


def square(low, high, depth):
    return np.array(
        [[low, low, depth], [high, low, depth], [high, high, depth], [low, high, depth]]
    )


@pytest.mark.parametrize("high", [3, 9, 40, 130])
def test_two_triangles_cover_a_square_without_a_gap(high):
    points = square(2, high, 5.0)
    face, depth = depth_buffer(points, SQUARE, shape=(100, 120))
    inside = np.zeros((100, 120), bool)
    inside[2:high, 2:high] = True
    np.testing.assert_array_equal(face >= 0, inside)
    assert np.isinf(depth[~inside]).all() and np.allclose(depth[inside], 5)


def test_random_triangles_are_those_that_a_loop_over_pixels_finds():
    random = np.random.default_rng(0)
    points = random.uniform(-5, 25, (30, 3))
    faces = random.integers(0, 30, (40, 3))
    faces = faces[[len(set(face)) == 3 for face in faces.tolist()]]
    face, depth = depth_buffer(points, faces, shape=(20, 20))
    for row, column in np.ndindex(20, 20):
        best = (np.inf, -1)
        for number, corners in enumerate(points[faces]):
            edges = np.vstack([corners[:, :2].T, np.ones(3)])
            weights = np.linalg.solve(edges, [column + 0.5, row + 0.5, 1])
            if (weights >= 0).all():
                best = min(best, (float(weights @ corners[:, 2]), number))
        assert face[row, column] == best[1]
        assert depth[row, column] == pytest.approx(best[0], abs=1e-6)


def test_the_nearer_of_two_is_shown_and_what_is_seen_from_its_edge_is_not():
    points = np.concatenate([square(0, 10, 7.0), square(2, 8, 3.0), [[5, 0, 0], [5, 10, 0]]])
    faces = np.concatenate([SQUARE, SQUARE + 4, [[8, 9, 9]]])
    face, depth = depth_buffer(points, faces, shape=(10, 10))
    assert set(face[2:8, 2:8].ravel()) == {2, 3} and np.allclose(depth[2:8, 2:8], 3)
    assert set(np.delete(face, np.s_[2:8], axis=0).ravel()) == {0, 1}


def test_light_comes_from_the_upper_left_and_nothing_is_white():
    points = square(0, 40, 5.0)
    face, depth = depth_buffer(points, SQUARE, shape=(40, 50))
    brightness = []
    for normal in ([-0.4, -0.6, -0.7], [0.4, 0.6, -0.7]):
        normals = np.tile(np.array(normal) / np.linalg.norm(normal), (4, 1))
        image = shade(
            face, depth, points=points, faces=SQUARE, normals=normals,
            colours=np.array([[0.9, 0.2, 0.1]] * 2),
        )  # fmt: skip
        assert np.all(image[:, 40:] == 1) and image.min() >= 0 and image.max() <= 1
        brightness.append(image[5:35, 5:35].mean())
        assert image[20, 20, 0] > image[20, 20, 1]
    assert brightness[0] > brightness[1] + 0.1
