import numpy as np
import pytest

from tokenunify_scale.scaling.laws.estimate import estimate
from tokenunify_scale.scaling.laws.goodness import goodness
from tokenunify_scale.scaling.laws.points import Points

N = np.geomspace(1e6, 1e9, 7)


def of(x, y, **options):
    return goodness(estimate(Points(x=x, y=y), **options))


def test_exact_points_leave_nothing_over():
    good = of(N, 1 + 50 * N**-0.3)
    assert good.r2 == pytest.approx(1) and good.rms < 1e-9 and good.scatter is None


def test_the_scatter_is_that_of_the_runs_of_a_size():
    x = N.repeat(2)
    step = np.tile([0.01, -0.01], 7)
    good = of(x, (1 + 50 * x**-0.3) * np.exp(step))
    # Two runs d apart have a variance of d^2 / 2.
    assert good.scatter == pytest.approx(0.02 / np.sqrt(2), rel=1e-6)
    assert good.lack_of_fit > 0.9


def test_a_law_that_is_not_one_lacks_fit():
    x = N.repeat(3)
    rng = np.random.default_rng(0)
    bent = np.where(np.arange(21) // 3 % 2, 1.05, 0.95)
    assert of(x, (1 + 50 * x**-0.3) * bent * np.exp(0.003 * rng.normal(size=21))).lack_of_fit < 1e-6


def test_residuals_above_the_stated_noise_are_noticed():
    rng = np.random.default_rng(0)
    x = N.repeat(3)
    y = 1 + 50 * x**-0.3 + 0.02 * rng.normal(size=21)
    assert of(x, y, noise=0.02).excess > 0.01
    assert of(x, y, noise=0.005).excess < 1e-6


def test_losses_that_are_all_the_same_have_no_share_to_explain():
    assert of(N, np.full(7, 2.0)).r2 is None
