import numpy as np
import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models.tiling import Windows, blending_window, check_overlap, windows


class Padded:
    """Takes multiples of 8 and pads by itself."""

    margin = (0, 0, 0)

    def legal(self, sides):
        return tuple(-(-side // 8) * 8 for side in sides)


class Valid:
    """Predicts 2, 5, 5 voxels less on either side, from in-plane sides of 14 + 3 k."""

    margin = (2, 5, 5)

    def legal(self, sides):
        return max(sides[0], 5), *(max(14, 14 + -(-(side - 14) // 3) * 3) for side in sides[1:])


def test_a_network_without_margin_predicts_what_it_sees():
    look = windows(Padded(), tile=(16, 40, 40), overlap=None, shape=(64, 100, 100))
    assert look == Windows((16, 40, 40), (4, 8, 8), (0, 0, 0), (0, 0, 0))


def test_a_tile_is_cut_to_the_volume_and_grown_to_what_the_network_takes():
    look = windows(Padded(), tile=(16, 40, 40), overlap=(4, 8, 39), shape=(10, 100, 12))
    assert look == Windows((10, 40, 12), (4, 8, 11), (0, 0, 0), (6, 0, 4))


def test_a_margin_is_seen_and_not_predicted():
    look = windows(Valid(), tile=(9, 20, 26), overlap=None, shape=(64, 100, 100))
    assert look == Windows((5, 10, 16), (0, 0, 0), (2, 5, 5), (0, 0, 0))
    small = windows(Valid(), tile=(9, 20, 26), overlap=None, shape=(4, 6, 100))
    assert small == Windows((4, 6, 16), (0, 0, 0), (2, 5, 5), (0, 1, 0))


def test_a_tile_of_which_nothing_is_predicted_is_refused_with_the_smallest():
    with pytest.raises(ConfigError, match=r"nothing is left; the smallest tile is \(5, 14, 14\)"):
        windows(Valid(), tile=(9, 10, 26), overlap=None, shape=(64, 100, 100))


@pytest.mark.parametrize("overlap", [(0, 10, 0), (-1, 0, 0)])
def test_an_overlap_that_leaves_no_step_is_refused(overlap):
    with pytest.raises(ConfigError, match="below tile"):
        windows(Valid(), tile=(9, 20, 26), overlap=overlap, shape=(64, 100, 100))


def test_the_window_is_highest_in_the_middle_and_nowhere_zero():
    window = blending_window((4, 9, 9))
    assert window.shape == (4, 9, 9) and window.min() > 0
    assert window[:, 4, 4].min() == window.max(axis=(1, 2)).min()
    assert window.dtype == np.float32


def test_a_context_widens_the_default_overlap_and_is_refused_beyond_a_given_one():
    look = windows(
        Padded(), tile=(16, 40, 40), overlap=None, shape=(64, 100, 100), context=(3, 4, 0)
    )
    assert look.overlap == (6, 8, 8) and look.context == (3, 4, 0)
    with pytest.raises(ConfigError, match=r"twice the context \(3, 4, 5\)"):
        windows(
            Padded(), tile=(16, 40, 40), overlap=(6, 8, 8), shape=(64, 100, 100), context=(3, 4, 5)
        )
    with pytest.raises(ConfigError, match="context"):
        check_overlap((1, 1, 1), (4, 4, 4), context=(0, -1, 0))
