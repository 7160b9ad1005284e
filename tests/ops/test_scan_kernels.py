import numpy as np
import pytest
import torch

from tokenunify_scale.ops.kernels import compiled, lanes_for
from tokenunify_scale.ops.scan_kernels import LOG2E, scan_forward, scratch_size

GUARD = 64


@pytest.mark.parametrize("channels, states, length", [(1, 1, 1), (17, 3, 33), (40, 16, 70)])
def test_the_kernel_writes_its_part_and_nothing_else(channels, states, length):
    ones = np.ones((1, length, channels), np.float32)
    columns = np.ones((1, length, states), np.float32)
    rates = np.full((states, channels), -LOG2E, np.float32)
    weights = np.zeros(channels, np.float32)
    y, kept = np.full_like(ones, -1), np.empty((1, 0, states, channels), np.float32)
    lanes = lanes_for(torch.float32).width
    first, last = channels // 3, channels
    size = scratch_size(-(-(last - first) // lanes), states, lanes)
    scratch = torch.full((size + GUARD,), 7.0).numpy()
    kernel = compiled(scan_forward, torch.float32, arrays=(3, 3, 2, 3, 3, 1, 3, 1, 3, 4, 1),
                      integers=6)
    nothing = np.empty((0, 0, 0), np.float32)
    kernel(ones, ones, rates, columns, columns, weights, nothing, weights, y, kept, scratch, 0, 1,
           0, 1, first, last)
    steps = np.exp(-np.arange(length))
    expected = np.broadcast_to(states * np.cumsum(steps)[:, None], (length, last - first))
    np.testing.assert_allclose(y[0, :, first:], expected, rtol=1e-5)
    assert (y[0, :, :first] == -1).all()
    assert (scratch[size:] == 7).all()
