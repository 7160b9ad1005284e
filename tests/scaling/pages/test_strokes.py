from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from tokenunify_scale.scaling.pages import strokes
from tokenunify_scale.scaling.pages.curves import Curve
from tokenunify_scale.scaling.pages.strokes import (
    draw_curve,
    draw_fit,
    draw_paper,
    limit,
    loss_ticks,
)


def curve(*pairs, beside=None):
    x, y = np.array(pairs, dtype=float).T
    look = {"label": "a", "group": "a", "colour": "#0072B2", "marker": "o"}
    return Curve(x=x, y=y, beside=beside, **look)


@pytest.fixture
def axes():
    return Figure().add_subplot()


def test_every_run_is_a_point_and_the_line_joins_means(axes):
    draw_curve(axes, curve((1, 2), (1, 4), (10, 1)), 1.0)
    line, points = axes.lines
    assert line.get_xydata().tolist() == [[1, 3], [10, 1]] and points.get_linestyle() == "None"
    assert points.get_xydata().tolist() == [[1, 2], [1, 4], [10, 1]]


def test_the_paper_s_points_are_hollow(axes):
    draw_paper(axes, curve((1, 2), (10, 1)), 1.0)
    assert axes.lines[0].get_markerfacecolor() == "white"


@pytest.mark.parametrize("identified, dashes", [(True, "--"), (False, ":")])
def test_a_fit_is_dashed_and_one_that_is_not_identified_dotted(
    axes, identified, dashes, monkeypatch
):
    monkeypatch.setattr(strokes, "predict", lambda fit, x: np.log(x))
    monkeypatch.setattr(strokes, "band", lambda fit, x: (np.log(x) - 1, np.log(x) + 1))
    fit = SimpleNamespace(identified=identified)
    heights = draw_fit(axes, curve((10, 2), (1000, 1)), fit, log=True, thick=1.0)
    x = axes.lines[0].get_xdata()
    assert np.allclose(heights, np.log(x)) and np.allclose(np.diff(np.log(x)), np.log(x[1] / x[0]))
    assert axes.lines[0].get_linestyle() == dashes and len(axes.collections) == 1
    draw_fit(axes, curve((10, 2), (1000, 1)), fit, log=False, thick=1.0)
    assert np.allclose(np.diff(axes.lines[1].get_xdata(), 2), 0)


def test_what_has_no_fit_or_one_size_is_not_drawn(axes, monkeypatch):
    monkeypatch.setattr(strokes, "predict", lambda fit, x: None)
    assert draw_fit(axes, curve((1, 2), (2, 1)), None, log=True, thick=1.0) is None
    assert draw_fit(axes, curve((1, 2), (1, 1)), None, log=True, thick=1.0) is None
    assert not axes.lines


def test_a_fit_of_two_sizes_is_asked_at_the_curve_s_second_size(axes, monkeypatch):
    asked = []
    monkeypatch.setattr(strokes, "predict", lambda fit, x: asked.append(x) or x[:, 0])
    monkeypatch.setattr(strokes, "band", lambda fit, x: None)
    some = curve((1, 2), (10, 1), beside=7.0)
    draw_fit(axes, some, SimpleNamespace(identified=True), log=True, thick=1.0)
    assert asked[0].shape[1] == 2 and np.allclose(asked[0][:, 1], 7)


@pytest.mark.parametrize("scale, kinds", [
    ("loglog", ("log", "log")), ("logx", ("log", "linear")), ("linear", ("linear", "linear")),
])  # fmt: skip
def test_the_limits_hold_every_point_and_fit_and_are_free_at_the_border(axes, scale, kinds):
    for some in (curve((10, 2), (1000, 1)), curve((10, 2))):
        limit(axes, [some], [np.array([0.5, 3.0])], scale=scale)
        assert (axes.get_xscale(), axes.get_yscale()) == kinds
        low, high = axes.get_xlim()
        assert low < some.x.min() and high > some.x.max()
        assert axes.get_ylim()[0] < 0.5 and axes.get_ylim()[1] > 3.0


def test_losses_over_decades_have_round_ticks_and_others_even_ones():
    assert [place for place, _ in loss_ticks(0.5, 200, log=True)[2]] == pytest.approx(
        [0.5, 1, 2, 5, 10, 20, 50, 100, 200]
    )
    places = [place for place, _ in loss_ticks(1, 2, log=True)[0]]
    assert np.allclose(np.diff(places, 2), 0)
