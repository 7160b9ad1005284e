import numpy as np
import pytest

from tokenunify_scale.inference.lattice import Lattice
from tokenunify_scale.models.tiling import Windows
from tokenunify_scale.volumes.geometry import Box, tiles

SHAPE = (21, 50, 16)


def lattice(context=(0, 0, 0), overlap=(2, 4, 4)):
    return Lattice(SHAPE, Windows((8, 16, 16), overlap, (0, 0, 0), (0, 0, 0), context))


def flat(rows):
    return [tile for row in rows for tile in row]


def test_a_whole_volume_has_the_tiles_of_its_geometry_in_raster_order():
    found = [tile.box for tile in flat(lattice().rows(Box.of(SHAPE)))]
    assert found == tiles(SHAPE, tile=(8, 16, 16), overlap=(2, 4, 4))
    assert lattice().count(Box.of(SHAPE)) == len(found)


@pytest.mark.parametrize("context", [(0, 0, 0), (1, 2, 0)])
def test_a_request_takes_the_tiles_of_the_whole_that_it_touches(context):
    whole, part = lattice(context), Box((5, 20, 3), (9, 21, 16))
    touched = [t for t in flat(whole.rows(Box.of(SHAPE))) if 0 not in t.kept.intersect(part).shape]
    assert flat(whole.rows(part)) == touched
    assert whole.count(part) == len(touched)
    assert all(len({tile.box.start[0] for tile in row}) == 1 for row in whole.rows(part))


def test_what_is_kept_covers_the_volume_and_is_dropped_at_faces_inside_it_only():
    covered = np.zeros(SHAPE, int)
    for tile in flat(lattice((1, 2, 0)).rows(Box.of(SHAPE))):
        covered[tile.kept.slices] += 1
        for axis, dropped in enumerate((1, 2, 0)):
            at_face = tile.box.start[axis] == 0
            assert tile.kept.start[axis] - tile.box.start[axis] == (0 if at_face else dropped)
            at_end = tile.box.stop[axis] == SHAPE[axis]
            assert tile.box.stop[axis] - tile.kept.stop[axis] == (0 if at_end else dropped)
    assert covered.min() == 1
