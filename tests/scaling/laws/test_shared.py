import numpy as np
import pytest

from tokenunify_scale.scaling.laws.points import Points
from tokenunify_scale.scaling.laws.shared import share_exponent

N = np.geomspace(1e6, 1e9, 6).repeat(2)


def curve(alpha, *, E=1.0, A=50.0, sd=0.01, seed=0, x=N):
    return Points(
        x=x, y=(E + A * x**-alpha) * np.exp(sd * np.random.default_rng(seed).normal(size=len(x)))
    )


def test_curves_of_one_exponent_share_it_more_sharply_than_each_has_it():
    found = share_exponent({"a": curve(0.3), "b": curve(0.3, E=1.3, A=80, seed=1)}, noise=None)
    assert found.possible and found.low < 0.3 < found.high and found.identified
    assert found.p > 0.05 and "do not differ significantly" in found.reason
    assert found.curves["b"]["E"] == pytest.approx(1.3, rel=0.1)
    assert found.curves["a"]["alpha"] == pytest.approx(found.alpha)


@pytest.mark.parametrize("noise", [None, 0.02])
def test_curves_of_different_exponents_are_told_apart(noise):
    groups = {"a": curve(0.2, A=10), "b": curve(0.6, A=2000, seed=1)}
    found = share_exponent(groups, noise=noise)
    assert found.p < 0.01 and "one for all is not enough" in found.reason


def test_exact_curves_give_the_exponent_back():
    found = share_exponent({"a": curve(0.4, sd=0), "b": curve(0.4, E=2, sd=0)}, noise=0.01)
    assert found.alpha == pytest.approx(0.4, rel=0.01)
    assert found.low < 0.4 < found.high and found.p == pytest.approx(1, abs=0.05)


def test_it_takes_two_curves_and_something_that_tells_the_noise():
    assert not share_exponent({"a": curve(0.3)}, noise=None).possible
    three = {name: curve(0.3, x=N[::4], seed=i) for i, name in enumerate("ab")}
    found = share_exponent(three, noise=None)
    assert not found.possible and "6 points, 6 parameters" in found.reason
    assert share_exponent(three, noise=0.05).possible
