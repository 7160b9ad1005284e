from collections import Counter

import numpy as np
import pytest

from tokenunify_scale.data.permutation import Permutation, mix, permutation, shuffled


def walked(size, *, key):
    numbers = Permutation(size, key=key)
    return [numbers[value] for value in range(size)]


@pytest.mark.parametrize("permute", [walked, shuffled])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 64, 65, 1000])
def test_each_number_comes_once(permute, size):
    for key in range(5):
        assert sorted(permute(size, key=key)) == list(range(size))


@pytest.mark.parametrize("permute", [walked, shuffled])
def test_orders_look_random_and_differ_between_keys(permute):
    a, b = (np.array(permute(1000, key=key)) for key in (1, 2))
    for other in (b, np.arange(1000)):
        assert np.mean(a == other) < 0.01
        assert abs(np.corrcoef(a, other)[0, 1]) < 0.1
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.1


@pytest.mark.parametrize("permute", [walked, shuffled])
def test_every_order_of_three_is_about_as_frequent(permute):
    orders = Counter(tuple(permute(3, key=mix(key))) for key in range(1200))
    assert len(orders) == 6 and min(orders.values()) > 150


def test_a_permutation_of_very_many_needs_no_table():
    numbers = permutation(10**15, key=3)
    values = {numbers[10**14 + n] for n in range(1000)}
    assert len(values) == 1000 and all(0 <= value < 10**15 for value in values)
    assert 0.45e15 < np.mean(list(values)) < 0.55e15


def test_hashes_and_permutations_are_the_recorded_ones():
    # The first number of splitmix64 from 0, as its authors' program prints it.
    assert mix(0) == 0xE220A8397B1DCDAF
    assert mix(1, 2, 3) != mix(1, 3, 2)
    assert walked(10, key=7) == [8, 6, 3, 4, 2, 5, 9, 1, 7, 0]
    assert shuffled(10, key=7) == [4, 1, 8, 6, 7, 9, 0, 5, 2, 3]
    assert permutation(10, key=7) == shuffled(10, key=7)
    assert [permutation(10**9, key=7)[value] for value in range(3)] == [
        163596206,
        751487751,
        775373897,
    ]
