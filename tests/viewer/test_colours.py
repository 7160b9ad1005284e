"""Colours: those of the pictures, and each id its own."""

import numpy as np

from tokenunify_scale import figures
from tokenunify_scale.metrics import Matches, Overlaps
from tokenunify_scale.viewer.colours import distinct_colours, object_colours, segment_colours

LABELS = np.kron([[1, 2], [3, 4]], np.ones((4, 4), int))


def painted(ids, keys):
    """The colour that figures.py gives each id of one row, without the raw image under it."""
    separate = np.stack([ids, ids])  # lines between ids darken the picture: only the top has none
    section = figures.Section(0, separate, raw=np.zeros(separate.shape, np.uint8))
    image = figures._painted(section, separate, keys=keys)
    return image[0, 0] / figures.PAINT


def test_an_id_has_the_colour_that_the_pictures_give_it():
    for number in (1, 7, 2**64 - 59):
        ids = np.array([number], np.uint64)
        # Painted colours are mixed with the image and rounded down to bytes.
        expected = painted(ids, figures._mix)
        np.testing.assert_allclose(object_colours(ids)[0], expected, atol=0.51 + 1 / figures.PAINT)
        expected = painted(ids, lambda rows: figures._segment_keys(rows, None))
        np.testing.assert_allclose(segment_colours(ids)[0], expected, atol=0.51 + 1 / figures.PAINT)


def test_a_segment_has_its_objects_colour_only_where_each_is_the_others_largest_part():
    segmentation = LABELS * 10
    segmentation[0, 0] = 11  # cut off
    matches = Matches.of(Overlaps.of(segmentation, LABELS))
    ids = np.array([0, 10, 11, 20, 99])
    found = segment_colours(ids, matches=matches)
    alone = segment_colours(ids)
    np.testing.assert_array_equal(found[[1, 3]], object_colours(np.array([1, 2])))
    np.testing.assert_array_equal(found[[0, 2, 4]], alone[[0, 2, 4]])


def test_neighbouring_ids_differ_and_so_do_the_colours_of_a_few_things():
    ids = object_colours(np.arange(1, 200)).astype(int)
    assert (np.abs(np.diff(ids, axis=0)).sum(1) > 20).mean() > 0.97
    few = distinct_colours(12).astype(int)
    apart = np.abs(few[:, None] - few[None]).sum(-1)
    assert apart[~np.eye(12, dtype=bool)].min() > 40
