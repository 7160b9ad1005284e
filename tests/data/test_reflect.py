import numpy as np
import pytest

from tokenunify_scale.data.reflect import grow, read_reflected
from tokenunify_scale.volumes.geometry import Box

ARRAY = np.arange(4 * 5 * 6).reshape(4, 5, 6)
WHOLE = Box.of(ARRAY.shape)


def read(box):
    return ARRAY[box.slices]


def test_a_box_grows_on_both_sides_and_more_at_its_end():
    assert grow(Box((2, 3, 4), (5, 6, 7)), (1, 2, 3), end=(0, 1, 2)) == Box((1, 1, 1), (6, 9, 12))


def test_a_box_inside_is_read_as_it_is():
    box = Box((1, 1, 1), (3, 4, 5))
    assert np.array_equal(read_reflected(read, box, within=WHOLE), ARRAY[box.slices])


def test_what_lies_outside_is_the_mirror_image_of_what_lies_inside():
    expected = np.pad(ARRAY, ((2, 1), (3, 0), (0, 4)), mode="reflect")
    found = read_reflected(read, Box((-2, -3, 0), (5, 5, 10)), within=WHOLE)
    assert np.array_equal(found, expected)
    part = read_reflected(read, Box((-2, 0, 0), (3, 5, 6)), within=WHOLE)
    assert np.array_equal(part, expected[:5, 3:, :6])


def test_a_side_longer_than_the_volume_is_mirrored_again_and_again():
    line = read_reflected(read, Box((-5, 0, 0), (5, 1, 1)), within=WHOLE)[:, 0, 0] // 30
    assert line.tolist() == [1, 2, 3, 2, 1, 0, 1, 2, 3, 2]


def test_nothing_is_made_of_nothing():
    with pytest.raises(ValueError, match="no voxel"):
        read_reflected(read, Box((9, 0, 0), (10, 5, 6)), within=WHOLE)
