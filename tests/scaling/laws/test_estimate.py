import numpy as np
import pytest
from scipy import stats

from tokenunify_scale.scaling.laws.estimate import draw, estimate, obstacle, predict_run, widening
from tokenunify_scale.scaling.laws.points import Points

N = np.geomspace(1e6, 1e9, 6)


def curve(x=N, *, sd=0.0, seed=0):
    noise = np.exp(sd * np.random.default_rng(seed).normal(size=len(x)))
    return Points(x=x, y=(1 + 50 * x**-0.3) * noise)


@pytest.mark.parametrize(
    "x, words",
    [
        ([5, 5, 5], "1 size, 3 parameters"),
        ([5, 6, 5], "2 sizes, 3 parameters"),
        (np.stack([N, np.full(6, 1e9)], -1), "D takes 1 value"),
        (np.stack([N, np.array([1, 2] * 3)], -1), "D takes 2 values"),
        (np.stack([N[[0, 1, 2, 0, 1, 2]], N[[2, 0, 3, 2, 0, 3]]], -1), "3 different points"),
        (np.stack([N, 20 * N], -1), "rise together"),
        (np.array([5.0, 6.0, 7.0]), None),
    ],
)
def test_what_stands_in_the_way_of_a_law_is_said(x, words):
    why = obstacle(Points(x=x, y=np.linspace(2, 1, len(x))))
    assert why is None if words is None else words in why


def test_an_estimate_of_exact_points_is_the_law():
    found = estimate(curve())
    assert np.exp(found.theta) == pytest.approx([50, 0.3, 1], rel=1e-6)
    assert found.freedom == 3 and found.huber < 1e-8 and not found.floorless


def test_nothing_tells_the_noise_of_as_many_points_as_parameters():
    found = estimate(curve(N[::2]))
    assert found.region is None and found.sd is None
    assert draw(found, resamples=10, seed=0) is None
    assert estimate(curve(N[::2]), noise=0.1).sd == pytest.approx(0.1 / found.points.y[1], rel=0.5)


def test_a_stated_noise_needs_no_student():
    assert widening(freedom=1, noise=0.1) == 1.0
    assert widening(freedom=4, noise=None) == pytest.approx(
        stats.t.ppf(0.975, 4) / stats.norm.ppf(0.975)
    )


def test_the_mean_of_many_runs_is_predicted_more_narrowly_than_one():
    found = estimate(curve(N.repeat(3), sd=0.02))
    draws = draw(found, resamples=50, seed=0)
    one, many = (predict_run(found, draws, np.array([1e10]), runs=r) for r in (1, 1000))
    assert one[0] == many[0] and one[1] < many[1] < many[0] < many[2] < one[2]
