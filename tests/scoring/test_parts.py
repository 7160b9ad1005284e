"""Parts cover a box once, begin where chunks do and keep within a limit; thinning crosses them."""

import math

import numpy as np
import pytest

from tokenunify_scale.scoring.parts import parts_of, steps_for, thin
from tokenunify_scale.volumes.geometry import Box

BOXES = [
    (Box((0, 0, 0), (100, 64, 64)), (0, 0, 0), 16 * 64 * 64),
    (Box((7, 0, 0), (100, 64, 64)), (0, 0, 0), 16 * 64 * 64),
    (Box((3, 5, 9), (40, 300, 500)), (3, 5, 9), 16 * 128 * 500),
    (Box((3, 5, 9), (40, 300, 500)), (0, 0, 0), 1),
    (Box((90, 0, 0), (95, 20, 20)), (90, 0, 0), 10**9),
]


@pytest.mark.parametrize("box, origin, voxels", BOXES)
def test_parts_cover_a_box_once_and_fit(box, origin, voxels):
    seen = np.zeros(box.stop, np.uint8)
    for part in parts_of(box, origin=origin, voxels=voxels):
        assert box.contains(part) and math.prod(part.shape) <= max(voxels, 16 * 128 * 128)
        seen[part.slices] += 1
    assert (seen[box.slices] == 1).all() and seen.sum() == math.prod(box.shape)


def test_parts_begin_at_whole_chunks_of_the_array():
    box = Box((20, 0, 0), (100, 256, 256))
    parts = parts_of(box, origin=(4, 0, 0), voxels=16 * 256 * 256)
    assert [part.start[0] for part in parts] == [20, 36, 52, 68, 84]
    parts = parts_of(box, origin=(0, 0, 0), voxels=16 * 256 * 256)
    assert [part.start[0] for part in parts] == [20, 32, 48, 64, 80, 96]
    assert [part.start[0] for part in parts_of(box, origin=(0, 0, 0), voxels=1 << 22)] == [20, 64]


def test_parts_are_as_deep_as_the_chunks_that_are_told():
    box, chunk = Box.of((96, 512, 512)), (32, 256, 256)
    parts = parts_of(box, origin=(0, 0, 0), voxels=32 * 256 * 512, chunk=chunk)
    assert {part.shape for part in parts} == {(32, 256, 512)} and len(parts) == 6


@pytest.mark.parametrize("steps", [(1, 1, 1), (1, 3, 3), (2, 5, 7), (50, 400, 400)])
@pytest.mark.parametrize("box, origin, voxels", BOXES)
def test_a_box_is_thinned_part_by_part_as_it_is_whole(box, origin, voxels, steps):
    whole = np.random.default_rng(0).integers(0, 99, (2, *box.stop))
    reads = []

    def read(part):
        reads.append(part)
        return whole[(..., *part.slices)]

    z, y, x = steps
    parts = parts_of(box, origin=origin, voxels=voxels)
    found = thin(read, box, steps=steps, parts=parts)
    assert np.array_equal(found, whole[(..., *box.slices)][:, ::z, ::y, ::x])
    assert reads == parts


def test_thin_sections_are_thinned_in_plane_first():
    assert steps_for((10, 100, 100), voxel_size=(40, 8, 8), voxels=10**5) == (1, 1, 1)
    z, y, x = steps_for((100, 1000, 1000), voxel_size=(40, 8, 8), voxels=10**7 // 2)
    assert z == 1 and {y, x} == {4, 5}
    assert steps_for((64, 64, 64), voxel_size=None, voxels=32**3) == (2, 2, 2)
