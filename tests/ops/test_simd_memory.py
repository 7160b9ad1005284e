import numpy as np
import pytest
from numba import njit, types

from tokenunify_scale.ops.simd import Lanes, width
from tokenunify_scale.ops.simd_memory import (
    at,
    load,
    load_some,
    peek,
    poke,
    store,
    store_some,
)


def copy_all(lanes, source, target):
    for i in range(0, source.shape[0], width(lanes)):
        count = source.shape[0] - i
        store_some(at(target, (i,)), count, load_some(lanes, at(source, (i,)), count))


def second_vector_twice(lanes, source, target):
    w = width(lanes)
    twice = 2 * load(lanes, at(source, (0,)), w)
    store(at(target, (w,)), 0, twice)
    poke(at(target, (0,)), 0, peek(at(source, (1,)), 2))


def compiled(kernel, lanes):
    array = types.Array(lanes.numba_type.scalar, 1, "A")
    return njit(types.void(lanes.numba_type, array, array))(kernel)


@pytest.mark.parametrize("register", [16, 32, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tail_touches_nothing_beyond_its_end(dtype, register):
    lanes = Lanes(dtype, register)
    copy = compiled(copy_all, lanes)
    for length in range(1, 20):
        source, memory = np.arange(length, dtype=dtype), np.full(length + 16, -1, dtype)
        copy(lanes, source, memory[:length])
        assert memory[:length].tolist() == source.tolist()
        assert (memory[length:] == -1).all()


def test_offsets_count_elements():
    lanes = Lanes(np.float32, 16)
    source, target = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    compiled(second_vector_twice, lanes)(lanes, source, target)
    assert target.tolist() == [3, 0, 0, 0, 8, 10, 12, 14]
