"""Compiled loops: runs of pairs are counted once a run, and pairs are found by their number."""

import numpy as np

from tokenunify_scale.metrics import kernels


def table(places):
    left, right = np.zeros((2, places), np.uint64)
    return left, right, np.zeros(places, np.int64)


def test_counting_stops_when_two_thirds_are_taken_and_says_where():
    ids = np.arange(1, 50, dtype=np.uint64)
    left, right, counts = table(16)
    done, filled = kernels.count()(ids, ids, 0, left, right, counts, 0)
    assert (done, filled) == (11, 11) and counts.sum() == 11


def test_rows_move_to_a_larger_table():
    first, second = np.array([[7, 7, 0], [1, 2, 0]], np.uint64)
    left, right, counts = table(8)
    kernels.insert()(first, second, np.array([5, 0, 3]), left, right, counts)
    taken = np.flatnonzero(counts)
    found = np.stack([left[taken], right[taken], counts[taken].astype(np.uint64)], axis=1)
    assert sorted(found.tolist()) == [[0, 0, 3], [7, 1, 5]]


def test_voxels_get_the_number_of_their_pair():
    left, right, numbers = table(8)
    wanted = np.array([[3, 0], [4, 9]], np.uint64)
    kernels.insert()(*wanted, np.array([1, 2]), left, right, numbers)
    first, second = np.array([[3, 3, 3, 0, 0, 5], [4, 4, 9, 9, 9, 9]], np.uint64)
    found = np.full(6, -1, np.int32)
    kernels.find()(first, second, left, right, numbers, found)
    assert found.tolist() == [1, 1, 0, 2, 2, 0]
