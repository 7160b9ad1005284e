import numpy as np
import pytest
import torch

from tokenunify_scale.ops.kernels import call, lanes_for
from tokenunify_scale.ops.order import STEPS
from tokenunify_scale.ops.scan_adjoint import scan_backward, scratch_size

GUARD = 64


@pytest.mark.parametrize("channels, states, length", [(1, 1, 1), (17, 3, 33), (40, 16, 70)])
def test_without_decay_a_gradient_counts_the_steps_that_follow(channels, states, length):
    def filled(value, *shape):
        return np.full(shape, value, np.float32)

    ones, columns = filled(1, 1, length, channels), filled(1, 1, length, states)
    weights, nothing = filled(0, channels), filled(0, 0, 0, 0)
    starts = np.arange(0, length, STEPS, dtype=np.float32)[None, :, None, None]
    before = np.broadcast_to(starts, (1, starts.size, states, channels)).copy()
    du, ddelta = filled(-1, 1, length, channels), filled(-1, 1, length, channels)
    dA, dD, dbias = (filled(-1, *s) for s in ((1, states, channels), (1, channels), (1, channels)))
    dB, dC = filled(-1, 1, 1, length, states), filled(-1, 1, 1, length, states)
    lanes = lanes_for(torch.float32).width
    size = scratch_size(-(-channels // lanes), states, 0, lanes)
    scratch = torch.full((size + GUARD,), 7.0).numpy()
    arrays = (ones, ones, filled(0, channels, states), columns, columns, weights, nothing, weights,
              filled(0, 0, 0), before, ones, du, ddelta, filled(0, 1, 1, length, 0), dA, dB, dC, dD,
              nothing, dbias, filled(0, 1, 0, channels), scratch)
    call(scan_backward, torch.float32, arrays, (0, 1, 0, 0, 1, 0, channels, 0))
    following = np.arange(length, 0, -1)
    np.testing.assert_allclose(du[0], np.tile(states * following[:, None], channels))
    np.testing.assert_allclose(dB[0, 0], np.tile(channels * following[:, None], states))
    np.testing.assert_allclose(dC[0, 0], np.tile(channels * following[::-1, None], states))
    np.testing.assert_allclose(dD, length)
    np.testing.assert_allclose(dA, (following[1:] * np.arange(1, length)).sum())
    assert (scratch[size:] == 7).all()
