"""Where volumes that were cut from one source lie on each other."""

import numpy as np
import pytest

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.part import Part, part_of, place
from tokenunify_scale.volumes.volume import Volume


def volume(*shape, offset=None):
    attributes = {} if offset is None else {"offset": offset}
    return Volume("v", np.zeros(shape, np.uint8), voxel_size=None, attributes=attributes)


def test_a_part_lies_where_its_offset_says():
    assert part_of(volume(4, 6, 8)) == Part(Box((0, 0, 0), (4, 6, 8)), (0, 0, 0))
    cut = part_of(volume(4, 6, 8, offset=[2, 1, 0]), sections=(3, 5))
    assert cut == Part(Box((3, 1, 0), (5, 7, 8)), (2, 1, 0))


@pytest.mark.parametrize("sections", [(1, 4), (2, 7), (4, 4), (5, 4)])
def test_sections_outside_are_refused(sections):
    with pytest.raises(ConfigError, match=r"must be within 2:6, where v lies"):
        part_of(volume(4, 6, 8, offset=[2, 0, 0]), sections=sections)


def test_another_volume_is_looked_up_at_the_same_source_voxels():
    own = volume(4, 6, 8, offset=[2, 0, 0])
    part = part_of(own, sections=(3, 5))
    assert place(volume(9, 6, 8), own, part) == Box((3, 0, 0), (5, 6, 8))
    assert place(volume(4, 6, 8, offset=[3, 0, 0]), own, part) == Box((0, 0, 0), (2, 6, 8))


@pytest.mark.parametrize(
    "other",
    [
        volume(9, 6, 7),  # another width
        volume(4, 6, 8),  # ends before the part does
        volume(9, 6, 8, offset=[4, 0, 0]),  # begins after it
    ],
)
def test_volumes_of_another_source_are_refused(other):
    own = volume(4, 6, 8, offset=[2, 0, 0])
    with pytest.raises(DataError, match="not of one volume"):
        place(other, own, part_of(own))


def test_without_an_offset_shapes_are_the_same():
    own = volume(4, 6, 8)
    with pytest.raises(DataError, match="not of one volume"):
        place(volume(5, 6, 8), own, part_of(own))
