import numpy as np
import pytest

from tokenunify_scale.scaling.laws.extrapolate import held_out, split
from tokenunify_scale.scaling.laws.points import Points

N = np.geomspace(1e6, 1e9, 6)
OPTIONS = {"noise": None, "resamples": 40, "seed": 0}


def test_the_largest_size_is_split_off_with_its_seeds():
    rest, last = split(Points(x=[1, 3, 2, 3], y=[4, 1, 2, 3], seed=("a", "b", "c", "d")))
    assert rest.seed == ("a", "c") and last.seed == ("b", "d") and last.y.tolist() == [1, 3]
    assert split(Points(x=[1, 1], y=[1, 2]))[0] is None


def test_the_law_of_the_smaller_sizes_tells_the_largest():
    found = held_out(Points(x=N, y=1 + 50 * N**-0.3), **OPTIONS)
    assert found.error == pytest.approx(0, abs=1e-6) and found.inside and found.size == 1e9
    assert "without size 1e+09: predicted 1.1" in found.text()


def test_a_law_that_breaks_is_found_out():
    y = (1 + 50 * N**-0.3) * np.exp(0.003 * np.random.default_rng(0).normal(size=6))
    y[-1] *= 1.3
    found = held_out(Points(x=N, y=y), **OPTIONS)
    assert found.inside is False and found.error == pytest.approx(1 / 1.3 - 1, abs=0.03)


def test_runs_at_several_data_are_compared_by_their_mean():
    x = np.stack(np.meshgrid(N, np.geomspace(1e9, 1e12, 5)), -1).reshape(-1, 2)
    y = 1.8 + 482 * x[:, 0] ** -0.35 + 2085 * x[:, 1] ** -0.37
    found = held_out(Points(x=x, y=y), **OPTIONS)
    assert found.points == 5 and found.error == pytest.approx(0, abs=1e-6)
    assert found.measured == pytest.approx(np.exp(np.log(y[x[:, 0] == 1e9]).mean()))


def test_too_few_sizes_hold_nothing_out():
    assert held_out(Points(x=N[:3], y=[3, 2, 1]), **OPTIONS) is None
    four = held_out(Points(x=N[:4], y=1 + 50 * N[:4] ** -0.3), **OPTIONS)
    assert four.low is None and four.inside is None and four.error == pytest.approx(0, abs=1e-5)
