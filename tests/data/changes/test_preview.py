import numpy as np
import pytest
from matplotlib.image import imread

from tokenunify_scale.data.augment import AugmentConfig
from tokenunify_scale.data.changes.preview import _edges, _place, draw_contact_sheet

CROP = np.random.default_rng(0).integers(90, 160, (4, 32, 32)).astype(np.uint8)


def orange(path):
    """How many pixels have the colour of an outline."""
    red, green, blue = (imread(path)[..., channel] for channel in range(3))
    return ((red - blue > 0.3) & (red > green)).sum()


def test_a_sheet_is_drawn_and_has_outlines_where_there_are_labels(tmp_path):
    labels = (np.indices(CROP.shape)[2] // 8).astype(np.uint32)
    paths = [tmp_path / "new" / name for name in ("without.png", "with.png")]
    for path, ids in zip(paths, (None, labels), strict=True):
        draw_contact_sheet(
            path, CROP, ids, config=AugmentConfig(), seed=3, voxel_size=(40.0, 8.0, 8.0)
        )
    assert imread(paths[0]).shape[1] > 1500
    assert orange(paths[0]) == 0 and orange(paths[1]) > 5000


def test_a_crop_that_is_neither_square_nor_deep_is_drawn_too(tmp_path):
    draw_contact_sheet(tmp_path / "a.png", CROP[:1, :20], config=AugmentConfig(), seed=0)
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    "difference, place",
    [([0, 0, 3, 0], 2), ([0, 1, 5, 2], 2), ([9, 1, 1, 1], 2), ([0, 0, 0], 1)],
)
def test_a_cut_goes_where_a_partial_change_is_largest_else_through_the_middle(difference, place):
    assert _place(np.array(difference)) == place


def test_outlines_are_one_pixel_wide_at_any_scale():
    labels = np.array([[1, 1, 2], [1, 1, 2]])
    edge = _edges(labels, (20, 30))
    assert np.flatnonzero(edge.any(axis=0)).tolist() == [20] and edge[:, 20].all()
