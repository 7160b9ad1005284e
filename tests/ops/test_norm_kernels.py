import numpy as np
import pytest
import torch

from tokenunify_scale.ops.kernels import call
from tokenunify_scale.ops.norm_kernels import combine_moments, combine_sums, moments


@pytest.fixture
def rows():
    """[B, L, W] = [2, 10, 6]: of two channels, three voxels a row."""
    return np.random.default_rng(0).normal(3, 2, (2, 10, 6)).astype(np.float32)


def test_moments_of_blocks_combine_to_those_of_channels(rows):
    means, squares = np.zeros((2, 3, 6), np.float32), np.zeros((2, 3, 6), np.float32)
    call(moments, torch.float32, (rows, means, squares), (4, 3, 0, 6))
    np.testing.assert_allclose(means[:, 2], rows[:, 8:].mean(1), rtol=1e-5)
    np.testing.assert_allclose(squares[:, 0], 4 * rows[:, :4].var(1), rtol=1e-5)
    mean, scale = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)
    call(combine_moments, torch.float32,
         (means, squares, mean, scale, np.array([0.5], np.float32)), (4, 10))
    voxels = rows.reshape(2, 30, 2)
    np.testing.assert_allclose(mean, voxels.mean(1), rtol=1e-6)
    np.testing.assert_allclose(scale, (voxels.var(1) + 0.5) ** -0.5, rtol=1e-6)


def test_only_the_blocks_asked_for_are_touched(rows):
    means, squares = np.zeros((2, 3, 6), np.float32), np.zeros((2, 3, 6), np.float32)
    call(moments, torch.float32, (rows, means, squares), (4, 3, 1, 4))
    touched = means.any(2)
    assert touched.tolist() == [[False, True, True], [True, False, False]]


def test_sums_of_blocks_become_means_for_every_voxel_of_a_row(rows):
    mean = np.zeros((2, 3, 2), np.float32)
    call(combine_sums, torch.float32, (rows, mean), (30,))
    expected = rows.reshape(2, 30, 2).mean(1)
    for voxel in range(3):
        np.testing.assert_allclose(mean[:, voxel], expected, rtol=1e-6)
