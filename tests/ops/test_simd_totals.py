import numpy as np
import pytest
from numba import njit, types

from tokenunify_scale.ops.simd import Lanes, width
from tokenunify_scale.ops.simd_memory import at, load
from tokenunify_scale.ops.simd_totals import EIGHT, add_totals, finish_totals


def add_up_twice(lanes, x, out):
    w, start = width(lanes), at(x, (0,))
    for _ in range(2):
        add_totals(lanes, at(out, (0,)), load(lanes, start, 0), load(lanes, start, w),
                   load(lanes, start, 2 * w), load(lanes, start, 3 * w),
                   load(lanes, start, 4 * w), load(lanes, start, 5 * w),
                   load(lanes, start, 6 * w), load(lanes, start, 7 * w))
    finish_totals(lanes, at(out, (0,)))


@pytest.mark.parametrize("register", [16, 32, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_totals_are_sums_in_order(register, dtype):
    lanes = Lanes(dtype, register)
    array = types.Array(lanes.numba_type.scalar, 1, "A")
    run = njit(types.void(lanes.numba_type, array, array))(add_up_twice)
    x = np.arange(EIGHT * lanes.width, dtype=dtype)
    out = np.zeros(max(EIGHT, lanes.width), dtype)
    run(lanes, x, out)
    assert out[:EIGHT].tolist() == (2 * x.reshape(EIGHT, -1).sum(1)).tolist()
