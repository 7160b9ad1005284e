import numpy as np
import pytest
from scipy import stats

from tokenunify_scale.scaling.laws.differences import (
    MEANS,
    SEEDS,
    differences,
    holm,
    mean_difference,
    pair,
    trend,
)
from tokenunify_scale.scaling.laws.points import Points

N = np.array([1e6, 1e7, 1e8])


def two(*, runs=3, gap=(0.1, 0.1, 0.1), sd=0.05, seeds=True, seed=0, noise=None, common=0.0):
    rng = np.random.default_rng(seed)
    x = N.repeat(runs)
    labels = tuple(str(i) for i in range(runs)) * 3 if seeds else None
    shared = common * rng.normal(size=len(x))
    first = 2 + shared + sd * rng.normal(size=len(x))
    second = 2 + shared + np.repeat(gap, runs) + sd * rng.normal(size=len(x))
    one, other = (Points(x=x, y=y, seed=labels) for y in (first, second))
    return pair(one, other, noise=noise), first.reshape(3, runs), second.reshape(3, runs)


def test_pairs_of_seeds_cancel_what_their_runs_share():
    paired = two(common=1.0, sd=0.01)[0]
    means = two(common=1.0, sd=0.01, seeds=False)[0]
    assert paired.how == SEEDS and means.how == MEANS
    assert paired.values == pytest.approx(means.values)
    assert differences(paired)[0].p < 1e-3 < differences(means)[0].p


def test_one_size_of_pairs_is_the_paired_t_test_and_of_means_the_plain_one():
    x = np.full(4, 1e6)
    a, b = [1.0, 1.1, 1.3, 0.9], [1.2, 1.5, 1.3, 1.1]
    for seed, oracle in ((tuple("0123"), stats.ttest_rel), (None, stats.ttest_ind)):
        paired = pair(Points(x=x, y=a, seed=seed), Points(x=x, y=b, seed=seed), noise=None)
        found, expected = differences(paired)[0], oracle(a, b)
        assert found.p == pytest.approx(expected.pvalue)
        ends = expected.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((ends.low, ends.high))


def test_a_stated_noise_gives_normal_intervals_even_for_single_runs():
    paired, first, second = two(runs=1, noise=0.05)
    found = differences(paired)[1]
    half = 1.959964 * 0.05 * np.sqrt(2)
    assert found.value == pytest.approx((first - second)[1, 0])
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))


def test_single_runs_without_a_noise_have_no_interval_but_a_mean_over_sizes():
    paired, first, second = two(runs=1)
    assert all(d.p is None and d.significant is None for d in differences(paired))
    expected = stats.ttest_1samp((first - second)[:, 0], 0)
    assert mean_difference(paired).p == pytest.approx(expected.pvalue)


def test_curves_without_a_common_size_are_no_pair():
    assert pair(Points(x=[1], y=[1]), Points(x=[2], y=[1]), noise=None) is None


@pytest.mark.parametrize("seeds", [True, False])
def test_the_trend_is_that_of_least_squares(seeds):
    paired, first, second = two(gap=(0.1, 0.2, 0.3), seeds=seeds)
    found = trend(paired)
    line = stats.linregress(np.log10(N.repeat(3)), (first - second).ravel())
    assert found.slope == pytest.approx(line.slope)
    assert found.grows + found.stays + found.shrinks == pytest.approx(1)
    if seeds:
        assert found.p == pytest.approx(line.pvalue)


@pytest.mark.parametrize(
    "gap, word",
    [((0.1, 0.5, 0.9), "grows"), ((0.5, 0.5, 0.5), "stays"), ((0.9, 0.5, 0.1), "shrinks")],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_an_advantage_of_either_curve_grows_stays_or_shrinks(gap, word, sign):
    found = trend(two(gap=tuple(sign * g for g in gap), sd=0.02)[0])
    assert getattr(found, word) > 0.9 and found.band == pytest.approx(0.125, rel=0.1)


def test_the_trend_of_equals_is_called_significant_once_in_twenty_times():
    p = [trend(two(seed=seed, gap=(0, 0, 0))[0]).p for seed in range(400)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.085


def test_holm_corrects_the_smallest_most():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
