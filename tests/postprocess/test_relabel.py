"""Ids from fragments to numbers: exact above 2**53, small ones dissolved, specks to the nearest."""

import numpy as np
import pytest
from scipy import ndimage

from tokenunify_scale.postprocess.relabel import Table, compact, fill

BIG = (1 << 62) + 1


def test_small_segments_become_background():
    ids = np.array([[[5, 5, 5, 9], [0, 0, 7, 7]]], np.uint64)
    found, dropped = compact(ids, min_size=2)
    assert found.tolist() == [[[1, 1, 1, 0], [0, 0, 2, 2]]] and dropped == 1
    assert compact(ids)[0].max() == 3


@pytest.mark.parametrize("shape", [(2, 3, 4), (5, 9, 7)])
def test_ids_of_any_size_are_numbered_in_their_order(shape):
    generator = np.random.default_rng(0)
    small = generator.integers(0, 5, shape).astype(np.uint64)
    large = np.where(small, small + np.uint64(BIG), np.uint64(0))
    assert len(np.unique(large.astype(float))) == 2, "floats do not tell them apart"
    for least in (0, 3, 1000):
        expected, found = compact(small, min_size=least), compact(large, min_size=least)
        assert np.array_equal(found[0], expected[0]) and found[1] == expected[1]
        assert found[0].dtype == np.uint64 and found[0].shape == shape


def test_no_background_and_nothing_but_background():
    assert compact(np.full((1, 1, 2), BIG, np.uint64))[0].tolist() == [[[1, 1]]]
    empty, dropped = compact(np.zeros((1, 1, 2), np.uint64), min_size=5)
    assert not empty.any() and dropped == 0


def test_a_table_does_what_joining_and_renumbering_would():
    generator = np.random.default_rng(1)
    nodes = np.uint64(BIG) + np.arange(40, dtype=np.uint64) * np.uint64(3)
    joined = generator.choice(nodes[:9], 40)
    at = generator.integers(-1, 40, (6, 9, 8))
    fragments = np.where(at < 0, np.uint64(0), nodes[at])
    sizes = np.bincount(at[at >= 0], minlength=40)
    table = Table.of(nodes, joined, sizes, min_size=40)
    whole = np.where(at < 0, np.uint64(0), joined[at])
    expected, dropped = compact(whole, min_size=40)
    assert np.array_equal(table.apply(fragments), expected) and table.removed == dropped > 0
    assert table.count == expected.max() and table.apply(fragments).dtype == np.uint64


def test_a_table_of_no_fragments_leaves_background():
    none = np.zeros(0, np.uint64)
    table = Table.of(none, none, np.zeros(0, int), min_size=5)
    assert table.count == table.removed == 0
    assert not table.apply(np.zeros((1, 2, 2), np.uint64)).any()


def test_specks_go_to_the_segment_that_is_nearest_in_nanometres():
    found = np.zeros((2, 1, 4), np.uint64)
    found[0, 0] = [1, 1, 0, 0]
    found[1, 0] = [2, 2, 2, 0]
    holes = np.zeros(found.shape, bool)
    holes[0, 0, 2] = True
    near_in_plane = fill(found, holes, voxel_size=(40, 8, 8))
    assert near_in_plane[0, 0].tolist() == [1, 1, 1, 0], "other background stays background"
    assert fill(found, holes, voxel_size=(4, 8, 8))[0, 0, 2] == 2
    assert not found[0, 0, 2], "the input is left alone"
    empty = np.zeros_like(found)
    assert np.array_equal(fill(empty, holes, voxel_size=(1, 1, 1)), empty)


def test_nothing_is_nearer_than_what_a_distance_transform_finds():
    generator = np.random.default_rng(2)
    coarse = generator.integers(1, 50, (3, 5, 5)).astype(np.uint64)
    found = np.kron(coarse, np.ones((2, 4, 4), np.uint64))
    found[generator.random(found.shape) < 0.3] = 0
    found[2:4, 3:9, 3:15] = 0
    sides = (40.0, 8.0, 6.0)
    filled = fill(found, found == 0, voxel_size=sides)
    distance = ndimage.distance_transform_edt(found == 0, sampling=sides)
    for label in np.unique(found[found > 0]):
        own = ndimage.distance_transform_edt(found != label, sampling=sides)
        assert np.allclose(own[filled == label], distance[filled == label])
