import numpy as np
import pytest

from tokenunify_scale.scaling.laws.bootstrap import (
    RESIDUALS,
    STATED,
    WITHIN,
    Draws,
    band_of,
    bootstrap,
    resample,
    standard_errors,
)
from tokenunify_scale.scaling.laws.law import log_predicted, logarithms, move_origin

LAW = logarithms({"A": 50.0, "alpha": 0.3, "E": 1.0}, k=1)


def data(*, runs, sd=0.02, seed=0):
    log_x = np.log(np.geomspace(1e6, 1e9, 6).repeat(runs))[None, :, None]
    noise = sd * np.random.default_rng(seed).normal(size=log_x.shape[1])
    return log_x, log_predicted(LAW[None], log_x)[0] + noise


@pytest.mark.parametrize(
    "runs, noise, method", [(3, None, WITHIN), (1, None, RESIDUALS), (1, 0.03, STATED)]
)
def test_resamples_have_the_spread_of_the_runs(runs, noise, method):
    log_x, log_y = data(runs=runs)
    drawn, how = resample(log_x, log_y, theta=LAW, noise=noise, resamples=4000, seed=0)
    assert how == method and drawn.shape == (4000, len(log_y))
    if method == STATED:
        assert np.exp(drawn).std(axis=0) == pytest.approx(0.03, rel=0.1)
    elif method == WITHIN:
        cells = log_y.reshape(6, 3)
        expected = cells.std(axis=1, ddof=1).repeat(3)
        assert drawn.std(axis=0) == pytest.approx(expected, rel=0.1)
        assert drawn.mean(axis=0).reshape(6, 3)[:, 0] == pytest.approx(cells.mean(axis=1), abs=3e-3)
    else:
        rest = log_y - log_predicted(LAW[None], log_x)[0]
        assert drawn.std(axis=0).mean() == pytest.approx(rest.std() * np.sqrt(6 / 3), rel=0.05)


def test_the_seed_repeats_the_draws():
    log_x, log_y = data(runs=2)
    one, other, third = (
        resample(log_x, log_y, theta=LAW, noise=None, resamples=5, seed=s)[0] for s in (1, 1, 2)
    )
    assert np.array_equal(one, other) and not np.array_equal(one, third)


def test_draws_scatter_about_the_fit_and_a_band_holds_it():
    log_x, log_y = data(runs=3, sd=0.01)
    shift = log_x.mean(axis=(0, 1))
    centred = move_origin(LAW, shift)
    draws = bootstrap(
        log_x - shift,
        log_y,
        shift=shift,
        theta=centred,
        noise=None,
        resamples=60,
        seed=0,
        plain=True,
    )
    errors = standard_errors(draws, k=1)
    assert 0.003 < errors["alpha"] < 0.05 and set(errors) == {"A", "alpha", "E"}
    low, high = band_of(draws, LAW, np.log([[1e6], [1e10]]), widen=1.0)
    assert np.all(low <= 0) and np.all(high >= 0)
    assert high[1] - low[1] > high[0] - low[0]


def test_a_band_is_stretched_by_what_it_is_told():
    draws = Draws(LAW + np.linspace(-0.1, 0.1, 41)[:, None], "")
    one, two = (band_of(draws, LAW, np.log([[1e7]]), widen=w) for w in (1.0, 2.0))
    assert two[0] == pytest.approx(2 * one[0]) and two[1] == pytest.approx(2 * one[1])
