import numpy as np
import pytest

from tokenunify_scale.volumes.geometry import Box, edges, tiles


def test_a_box_knows_its_shape_and_cuts_its_voxels():
    box = Box((1, 2, 3), (2, 5, 9))
    assert box.shape == (1, 3, 6)
    assert np.zeros((4, 3, 8, 10))[(..., *box.slices)].shape == (4, 1, 3, 6)
    assert Box.of((4, 5, 6)) == Box((0, 0, 0), (4, 5, 6))


def test_boxes_intersect_shift_and_contain():
    a, b = Box((0, 0, 0), (4, 4, 4)), Box((2, 3, 1), (9, 9, 2))
    assert a.intersect(b) == Box((2, 3, 1), (4, 4, 2))
    assert b.shift((-2, -3, -1)) == Box((0, 0, 0), (7, 6, 1))
    assert a.contains(a.intersect(b)) and not a.contains(b)


def test_boxes_that_do_not_meet_intersect_in_an_empty_box():
    assert 0 in Box.of((2, 2, 2)).intersect(Box((5, 0, 0), (6, 2, 2))).shape


@pytest.mark.parametrize("start, stop", [((0, 0), (1, 1)), ((0, 0, 3), (1, 1, 2))])
def test_a_box_must_be_3d_and_not_end_before_it_starts(start, stop):
    with pytest.raises(ValueError):
        Box(start, stop)


def test_tiles_step_by_tile_minus_overlap_and_the_last_one_moves_inward():
    windows = tiles((1, 1, 10), tile=(1, 1, 4), overlap=(0, 0, 1))
    assert [box.start[2] for box in windows] == [0, 3, 6]
    windows = tiles((1, 1, 11), tile=(1, 1, 4), overlap=(0, 0, 1))
    assert [box.start[2] for box in windows] == [0, 3, 6, 7]


def test_one_tile_covers_a_volume_of_its_size():
    assert tiles((3, 4, 5), tile=(3, 4, 5), overlap=(2, 2, 2)) == [Box.of((3, 4, 5))]


def test_a_tile_larger_than_the_volume_is_clipped_to_it():
    assert tiles((3, 4, 5), tile=(18, 160, 5), overlap=(9, 80, 0)) == [Box.of((3, 4, 5))]


@pytest.mark.parametrize("seed", range(20))
def test_tiles_have_one_shape_cover_every_voxel_and_neighbours_share_the_overlap(seed):
    rng = np.random.default_rng(seed)
    shape, tile = (tuple(int(n) for n in rng.integers(1, 14, 3)) for _ in range(2))
    overlap = tuple(int(rng.integers(0, side)) for side in tile)
    seen = np.zeros(shape, int)
    windows = tiles(shape, tile=tile, overlap=overlap)
    for box in windows:
        assert box.shape == tuple(map(min, tile, shape)) and Box.of(shape).contains(box)
        seen[box.slices] += 1
    assert seen.min() >= 1 and len(set(windows)) == len(windows)
    for axis in range(3):
        starts = sorted({box.start[axis] for box in windows})
        assert all(
            b - a <= tile[axis] - overlap[axis]
            for a, b in zip(starts[:-1], starts[1:], strict=True)
        )


@pytest.mark.parametrize(
    "tile, overlap", [((4, 4, 4), (0, 0, 4)), ((4, 0, 4), (0, 0, 0)), ((4, 4, 4), (0, -1, 0))]
)
def test_an_overlap_must_be_smaller_than_the_tile(tile, overlap):
    with pytest.raises(ValueError, match="axis [zyx]"):
        tiles((8, 8, 8), tile=tile, overlap=overlap)


def test_edges_begin_and_end_inside():
    array = np.arange(24).reshape(2, 3, 4)
    here, there = edges((0, 1, -2), sides=(2, 3, 4))
    assert np.array_equal(array[here], array[:, 1:, :2])
    assert np.array_equal(array[there], array[:, :2, 2:])
    assert array[edges((2, 0, 0), sides=(2, 3, 4))[0]].size == 0
