import numpy as np
import pytest

from tokenunify_scale.scaling.laws.law import (
    log_predicted,
    logarithms,
    move_origin,
    named,
    predicted_and_slopes,
    shares_of_terms,
)

TRUTH = {"A": 482.0, "B": 2085.0, "alpha": 0.35, "beta": 0.37, "E": 1.8}
N = np.geomspace(1e6, 1e12, 5)
D = np.geomspace(1e14, 1e9, 5)
T = np.log(np.stack([N, D], axis=-1))[None]


def test_a_law_is_the_sum_of_its_terms():
    theta = logarithms(TRUTH, k=2)[None]
    expected = 1.8 + 482 * N**-0.35 + 2085 * D**-0.37
    assert np.exp(log_predicted(theta, T)[0]) == pytest.approx(expected, rel=1e-13)
    assert np.exp(predicted_and_slopes(theta, T)[0][0]) == pytest.approx(expected, rel=1e-13)
    assert named(theta, k=2) == pytest.approx(TRUTH)


def test_a_law_of_any_scale_has_finite_logarithms():
    theta = logarithms({"A": 1e300, "alpha": 10.0, "E": 1e-300}, k=1)[None]
    assert np.all(np.isfinite(log_predicted(theta, np.log([[[1.0], [1e12]]]))))


def test_the_slopes_are_those_of_differences():
    theta, step = logarithms(TRUTH, k=2)[None], 1e-6
    slopes = predicted_and_slopes(theta, T)[1][0]
    for j in range(5):
        up, down = theta.copy(), theta.copy()
        up[0, j] += step
        down[0, j] -= step
        expected = (log_predicted(up, T) - log_predicted(down, T))[0] / (2 * step)
        assert slopes[:, j] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_moved_origin_changes_no_value():
    theta, shift = logarithms(TRUTH, k=2)[None], np.array([20.0, 25.0])
    moved = move_origin(theta, shift)
    assert log_predicted(moved, T - shift) == pytest.approx(log_predicted(theta, T))
    assert move_origin(moved, -shift) == pytest.approx(theta)


def test_a_floor_of_zero_takes_no_share():
    theta = logarithms({"A": 2.0, "alpha": 0.5, "E": 0.0}, k=1)[None]
    assert shares_of_terms(theta, np.zeros((1, 1, 1))).tolist() == [[1.0, 0.0]]
