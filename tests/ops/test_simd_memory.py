import numpy as np
import pytest
import torch
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


@pytest.mark.parametrize("register", [16, 32, 64])
def test_bfloat16_is_widened_exactly_and_rounded_to_nearest_even(register):
    lanes = Lanes(np.float32, register)
    float32, bfloat16 = (types.Array(kind, 1, "A") for kind in (types.float32, types.uint16))
    narrow, widen = (njit(types.void(lanes.numba_type, *kinds))(copy_all)
                     for kinds in ((float32, bfloat16), (bfloat16, float32)))
    near_ties = torch.tensor([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20])
    values = torch.cat([torch.randn(30), near_ties, -near_ties,
                        torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-40, 3e38])])
    expected = values.bfloat16()
    rounded = np.empty(len(values), np.uint16)
    narrow(lanes, values.numpy(), rounded)
    number = ~values.isnan().numpy()
    assert rounded[number].tolist() == expected.view(torch.uint16).numpy()[number].tolist()
    back = np.empty(len(values), np.float32)
    widen(lanes, rounded, back)
    np.testing.assert_array_equal(back, expected.float().numpy())


def test_offsets_count_elements():
    lanes = Lanes(np.float32, 16)
    source, target = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    compiled(second_vector_twice, lanes)(lanes, source, target)
    assert target.tolist() == [3, 0, 0, 0, 8, 10, 12, 14]
