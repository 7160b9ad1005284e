import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tokenunify_scale.scaling.laws.points import Points
from tokenunify_scale.scaling.pages.curves import (
    FAMILY,
    SHADES,
    STYLES,
    contrast,
    curves,
    even_ticks,
    ink,
    lighter,
    round_ticks,
    short,
    size_ticks,
    spread,
    styles,
)

# Brettel, Vienot and Mollon's limit of a missing cone, as linear maps of linear RGB
# (Vienot et al. 1999): protanopia and deuteranopia.
BLIND = {
    "protanopia": [[0.1124, 0.8876, 0.0], [0.1124, 0.8876, 0.0], [0.0040, -0.0040, 1.0]],
    "deuteranopia": [[0.2928, 0.7072, 0.0], [0.2928, 0.7072, 0.0], [-0.0223, 0.0223, 1.0]],
}


def seen(colour, matrix):
    linear = np.array(to_rgb(colour)) ** 2.2
    return (np.clip(np.array(matrix) @ linear, 0, 1)) ** (1 / 2.2)


def test_an_initialisation_keeps_its_colour_and_no_two_groups_share_one():
    assert styles(["random", "mae"])[1] == styles(["mae", "other"])[0] == STYLES[1]
    assert len(set(styles(["random", "a", "b", "tokenunify", "c"]))) == 5
    assert len(set(styles([str(n) for n in range(8)]))) == 8


@pytest.mark.parametrize("matrix", BLIND.values(), ids=BLIND)
def test_the_four_curves_of_figure_6_differ_for_colour_blind_readers(matrix):
    four = [seen(colour, matrix) for colour, _ in STYLES[:4]]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(four, 2)) > 0.15


def test_a_family_goes_from_dark_to_light():
    light = [sum(to_rgb(colour)) for colour in SHADES]
    assert light == sorted(light)


@pytest.mark.parametrize("colour", [colour for colour, _ in STYLES] + [*SHADES])
def test_names_can_be_read_on_white(colour):
    assert contrast(ink(colour)) >= 4.5
    assert contrast(lighter(colour, 0.5)) < contrast(colour) <= 21


def test_contrast_is_that_of_the_definition():
    assert contrast("#000000") == pytest.approx(21) and contrast("#FFFFFF") == pytest.approx(1)
    assert contrast("#767676") == pytest.approx(4.54, abs=0.01)  # the well-known limit of grey


def test_a_group_is_a_curve_with_the_means_of_its_seeds():
    points = Points(x=np.array([[10.0], [1.0], [10.0]]), y=np.array([3.0, 5.0, 4.0]))
    (curve,) = curves({"mae": points})
    assert curve.means == ([1.0, 10.0], [5.0, 3.5]) and curve.beside is None
    assert curve.sizes(np.array([1.0, 2.0])).shape == (2,)


def grid(n, d):
    table = np.array(list(itertools.product(n, d)))
    return Points(x=table, y=1 + 1 / table[:, 0])


def test_two_sizes_make_a_family_with_a_curve_for_each_second_size():
    family = curves({"": grid([1e6, 1e7, 1e8], [1e9, 1e10])}, second="tokens")
    assert [curve.label for curve in family] == ["tokens 1 G", "tokens 10 G"]
    assert [curve.beside for curve in family] == pytest.approx([1e9, 1e10])
    assert family[0].sizes(np.array([1.0, 2.0])).tolist() == [
        [1.0, pytest.approx(1e9)], [2.0, pytest.approx(1e9)],
    ]  # fmt: skip
    two = curves({"a": grid([1, 2], [1, 2]), "b": grid([1, 2], [1, 2])})
    assert [curve.label for curve in two] == ["a, D 1", "a, D 2", "b, D 1", "b, D 2"]
    assert len({curve.colour for curve in two}) == 4


def test_many_second_sizes_are_put_into_classes_that_hold_every_point_once():
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(0, 10, size=(80, 2)))
    family = curves({"": Points(x=x, y=np.ones(80))})
    assert len(family) <= FAMILY and sum(len(curve.x) for curve in family) == 80
    assert sorted(np.concatenate([curve.x for curve in family])) == sorted(x[:, 0])


@pytest.mark.parametrize(
    "number, words",
    [(477851, "478 k"), (1e9, "1 G"), (999999, "1 M"), (0.5, "0.5"), (0, "0"), (2e13, "20 T")],
)
def test_numbers_are_short(number, words):
    assert short(number) == words


@pytest.mark.parametrize("low, high", [(1.0, 1.001), (0.9, 2.1), (1e-8, 1e3), (4e5, 1e9), (3, 7)])
def test_ticks_lie_within_and_rise_and_become_fewer(low, high):
    for sets in (round_ticks(low, high), even_ticks(low, high)):
        for ticks in sets:
            places, words = zip(*ticks, strict=True)
            edge = 1e-8 * (high - low)
            assert low - edge <= places[0] and places[-1] <= high + edge
            assert list(places) == sorted(places) and len(set(places)) == len(words)
    assert len(even_ticks(low, high)[0]) > 3
    assert all(len(set(words)) == len(words) for ticks in even_ticks(0.9, 2.1)
               for words in [[w for _, w in ticks]])  # fmt: skip


def test_sizes_carry_their_names_first_and_numbers_where_names_do_not_fit():
    sets = size_ticks([1e6, 4e6], {1e6: "atto"}, log=True)
    assert sets[0] == [(1e6, "atto\n1 M"), (4e6, "4 M")]
    assert sets[1] == [(1e6, "atto"), (4e6, "4 M")] and sets[2][0] == (1e6, "1 M")
    assert len(sets[-1]) == 1
    assert size_ticks([5.0], {}, log=True)[0] == [(5.0, "5")]
    assert size_ticks([5.0], {}, log=False)[0] == [(5.0, "5")]


def test_labels_are_moved_apart_in_order_and_no_further_than_needed():
    assert spread([0.5, 0.1], gap=0.1) == [0.5, 0.1]
    assert spread([0.50, 0.52], gap=0.1) == pytest.approx([0.46, 0.56])
    assert spread([0.5, 0.5, 0.5, 0.9], gap=0.1) == pytest.approx([0.4, 0.5, 0.6, 0.9])
    heights = list(np.random.default_rng(0).random(12))
    placed = spread(heights, gap=0.05)
    assert np.argsort(placed).tolist() == np.argsort(heights).tolist()
    assert np.diff(sorted(placed)).min() >= 0.05 - 1e-9
