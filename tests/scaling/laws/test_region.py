import numpy as np
import pytest
from scipy import stats

from tokenunify_scale.scaling.laws.law import log_predicted, logarithms
from tokenunify_scale.scaling.laws.region import (
    STATED_CORNER,
    found_factor,
    region,
    spread,
    stated_factor,
)


def test_the_spread_of_normal_residuals_is_their_standard_deviation():
    residual = 0.03 * np.random.default_rng(0).normal(size=(2, 4000))
    assert spread(residual, parameters=3) == pytest.approx([0.03, 0.03], rel=0.05)
    residual[:, :100] = 5.0
    assert spread(residual, parameters=3) == pytest.approx([0.03, 0.03], rel=0.1)


def test_points_that_the_fit_passes_through_do_not_count():
    assert spread(np.array([[0.0, 0.0, 0.0, 1.0]]), parameters=3) == pytest.approx([1.4826])


def test_the_stated_factor_is_that_of_an_integral():
    z = np.linspace(-12, 12, 200001)
    density = stats.norm.pdf(z) * (z[1] - z[0])
    inside = density[np.abs(z) < STATED_CORNER].sum()
    square = (np.clip(z, -STATED_CORNER, STATED_CORNER) ** 2 * density).sum()
    assert stated_factor() == pytest.approx(inside / square, rel=1e-4)


def test_the_found_factor_makes_up_for_a_wrong_scale():
    z = np.random.default_rng(0).normal(size=(1, 5000))
    near = found_factor(z, parameters=3)[0]
    assert near == pytest.approx(0.866 / 0.778, rel=0.03)


def test_the_smooth_fit_is_that_of_least_squares_where_noise_is_stated_and_small():
    x = np.log(np.geomspace(1e6, 1e9, 8))[None, :, None]
    t = x - x.mean()
    theta = logarithms({"A": 0.5, "alpha": 0.3, "E": 1.0}, k=1)[None]
    log_y = log_predicted(theta, t) + 0.005 * np.random.default_rng(0).normal(size=(1, 8))
    found = region(t, log_y, theta=theta, begin=theta, noise=0.02)
    z = (log_predicted(found.theta, t) - log_y) / found.scale
    assert found.loss[0] == pytest.approx((z**2).sum() / 2)
    assert found.limit == pytest.approx(stats.chi2.ppf(0.92**0.5, 1))
    assert found.scale == pytest.approx(0.02 / np.exp(log_predicted(theta, t)))
