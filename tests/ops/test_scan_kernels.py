import numpy as np
import pytest
import torch

from tokenunify_scale.ops.kernels import call, lanes_for
from tokenunify_scale.ops.scan_kernels import scan_forward, scratch_size

GUARD = 64


@pytest.mark.parametrize("channels, states, length", [(1, 1, 1), (17, 3, 33), (40, 16, 70)])
def test_the_kernel_writes_its_part_and_nothing_else(channels, states, length):
    ones = np.ones((1, length, channels), np.float32)
    columns = np.ones((1, length, states), np.float32)
    rates = np.full((channels, states), -1, np.float32)
    weights = np.zeros(channels, np.float32)
    y, kept = np.full_like(ones, -1), np.empty((1, 0, states, channels), np.float32)
    lanes = lanes_for(torch.float32).width
    first, last = channels // 3, channels
    size = scratch_size(-(-(last - first) // lanes), states, 0, lanes)
    scratch = torch.full((size + GUARD,), 7.0).numpy()
    nothing = np.empty((0, 0, 0), np.float32)
    full = np.empty((0, 0), np.float32)
    arrays = (ones, ones, rates, columns, columns, weights, nothing, weights, full, y, kept,
              scratch)
    call(scan_forward, torch.float32, arrays, (0, 1, 0, 0, 1, first, last))
    steps = np.exp(-np.arange(length))
    expected = np.broadcast_to(states * np.cumsum(steps)[:, None], (length, last - first))
    np.testing.assert_allclose(y[0, :, first:], expected, rtol=1e-5)
    assert (y[0, :, :first] == -1).all()
    assert (scratch[size:] == 7).all()
    call(scan_forward, torch.float32, arrays, (0, 1, 1, 0, 1, first, last))
    np.testing.assert_allclose(y[0, :, first:], 2 * expected, rtol=1e-5)
