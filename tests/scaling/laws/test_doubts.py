import numpy as np
import pytest

from tokenunify_scale.scaling.laws.doubts import doubts, overlaps
from tokenunify_scale.scaling.laws.estimate import estimate
from tokenunify_scale.scaling.laws.fit import fit_law
from tokenunify_scale.scaling.laws.intervals import Interval
from tokenunify_scale.scaling.laws.points import Points

N = np.geomspace(1e5, 1e9, 8)


def ends(low, high):
    return {"alpha": Interval(low=low, high=high, method="")}


@pytest.mark.parametrize(
    "y, words",
    [
        (np.full(8, 2.0), "L does not fall with N"),
        (1 + 0.1 * np.log(N), "L does not fall with N"),
        (50 * N**-0.3, "E came out as 0"),
    ],
)
def test_what_the_points_do_not_determine_is_said(y, words):
    assert words in doubts(estimate(Points(x=N, y=y)), {})[0]


def test_a_variable_without_effect_is_named():
    x = np.stack(np.meshgrid(N[:5], N[:5]), -1).reshape(-1, 2)
    fit = fit_law(Points(x=x, y=1.8 + 2000 * x[:, 0] ** -0.4), resamples=0)
    assert fit.verdict == "not identified: L does not fall with D"


def test_an_open_interval_and_a_missing_one_are_doubts():
    found = estimate(Points(x=N, y=1 + 50 * N**-0.3))
    closed = {**ends(0.2, 0.4), "E": Interval(low=0.8, high=1.1, method="")}
    assert doubts(found, closed) == []
    wide = {"alpha": Interval(low=0.1, high=10, method="", identified=False)}
    wide["E"] = Interval(low=0, high=1.1, method="", identified=False)
    assert "0.1 to 10, reaches a bound" in doubts(found, wide)[0]
    assert "E may be anything from 0 to 1.1" in doubts(found, wide)[1]
    assert "no size is left" in doubts(found, {})[0]


def test_curves_whose_exponents_overlap_are_named():
    around = {"a": ends(0.1, 0.3), "b": ends(0.25, 0.5), "c": ends(0.6, 0.7)}
    assert overlaps(around) == ["the intervals of alpha overlap: a and b"]
    same = dict.fromkeys("abc", ends(0.1, 0.3))
    assert overlaps(same) == ["the intervals of alpha overlap: every two curves"]
    assert overlaps({"a": {}, "c": ends(1, 2)}) == []


def test_few_sizes_a_loose_exponent_and_a_broken_prediction_are_warned_of():
    few = N[::2][:4]
    fit = fit_law(Points(x=few, y=1 + 5 * few**-0.1), noise=0.02, resamples=10)
    assert any("4 sizes are few" in text for text in fit.warnings)
    y = 1 + 50 * N**-0.3
    y[-1] *= 1.5
    broken = fit_law(Points(x=N, y=y), resamples=30)
    assert any("largest size lies outside" in text for text in broken.warnings)
