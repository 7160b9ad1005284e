import numpy as np
import pytest
from scipy.optimize import differential_evolution

from tokenunify_scale.scaling.laws.law import limits, log_predicted, logarithms
from tokenunify_scale.scaling.laws.solve import DELTA, descend, huber, minimise, starts

LAW = {"A": 50.0, "alpha": 0.3, "E": 1.0}


def data(*, sd, runs=1, sets=1, law=None, sizes=8):
    log_x = np.log(np.geomspace(1e6, 1e9, sizes).repeat(runs))[None, :, None]
    rng = np.random.default_rng(1)
    truth = log_predicted(logarithms(law or LAW, k=1)[None], log_x)
    log_y = truth + sd * rng.normal(size=(sets, truth.shape[1]))
    return log_x - log_x.mean(), log_y


def test_huber_is_a_parabola_and_then_a_line():
    r = np.array([-3.0, -0.5, 0.0, 1.0, 2.0])
    assert huber(r, 1.0).tolist() == [2.5, 0.125, 0.0, 0.5, 1.5]


def test_the_minimum_is_the_one_that_a_global_search_finds():
    t, log_y = data(sd=0.03)
    found = minimise(t, log_y, begin=starts(t, log_y[0]), polish=2)
    bounds = limits(t, log_y)
    bounds[0] = (-8, 3)
    oracle = differential_evolution(
        lambda p: huber(log_predicted(p[None], t) - log_y, DELTA).sum() / DELTA,
        bounds,
        rng=0,
        tol=1e-12,
        maxiter=400,
        polish=False,
    )
    assert found.loss[0] / DELTA <= oracle.fun * (1 + 1e-5)
    assert found.theta[0] == pytest.approx(oracle.x, abs=0.02)
    assert found.share[0] > 0.5


def test_many_sets_at_once_end_where_each_does_alone():
    t, log_y = data(sd=0.02, runs=3, sets=6)
    begin = starts(t, log_y.mean(axis=0))[::4]
    together = minimise(t, log_y, begin=begin)
    for row, theta in zip(log_y, together.theta, strict=True):
        alone = minimise(t, row[None], begin=begin)
        assert alone.theta[0] == pytest.approx(theta, abs=1e-6)


def test_the_start_of_exact_points_is_nearly_the_law():
    t, log_y = data(sd=0.0)
    found = minimise(t, log_y, begin=starts(t, log_y[0]))
    assert log_predicted(found.theta, t) == pytest.approx(log_y, abs=1e-12)


def test_what_is_fixed_does_not_move_and_bounds_hold():
    t, log_y = data(sd=0.02)
    begin = np.array([[-1.0, np.log(0.7), -0.5], [-1.0, np.log(0.2), -0.5]])
    fixed = np.array([[False, True, False], [False, True, False]])
    bounds = limits(t, log_y)
    theta, loss = descend(begin, t=t, log_y=log_y, delta=0.1, fixed=fixed, bounds=bounds, steps=60)
    assert theta[:, 1].tolist() == begin[:, 1].tolist()
    assert np.all(theta >= bounds[:, 0]) and np.all(theta <= bounds[:, 1])
    again = (huber(log_predicted(theta, t) - log_y, 0.1)).sum(axis=1)
    assert loss == pytest.approx(again)
    # Nearly flat: E must vanish, and what is left must follow.
    flat = np.array([[-1.0, np.log(0.01), -0.5]])
    one, least = descend(
        flat, t=t, log_y=log_y, delta=0.1, fixed=fixed[:1], bounds=bounds, steps=60
    )
    assert one[0, 2] == bounds[2, 0] and least[0] < 0.0603
    # At the minimum no step of what may move goes lower.
    for j in (0, 2):
        for step in (-1e-3, 1e-3):
            near = theta.copy()
            near[:, j] += step
            assert np.all(huber(log_predicted(near, t) - log_y, 0.1).sum(axis=1) >= loss - 1e-12)


def test_weights_of_zero_leave_points_out():
    t, log_y = data(sd=0.02, runs=2)
    gone = log_y.copy()
    gone[0, 3] += 2
    weights = np.ones_like(log_y)
    weights[0, 3] = 0
    begin = starts(t, log_y[0])
    one = minimise(t, log_y, begin=begin, delta=0.05, weights=weights)
    other = minimise(t, gone, begin=begin, delta=0.05, weights=weights)
    assert one.theta == pytest.approx(other.theta, abs=1e-5)
