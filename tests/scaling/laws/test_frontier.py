import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from tokenunify_scale.scaling.laws.fit import fit_law
from tokenunify_scale.scaling.laws.frontier import best_sizes, budgets_of, frontier, iso_flop
from tokenunify_scale.scaling.laws.law import logarithms
from tokenunify_scale.scaling.laws.points import Points

LAW = {"A": 482.0, "B": 2085.0, "alpha": 0.35, "beta": 0.37, "E": 1.8}


def loss(n, d):
    return 1.8 + 482 * n**-0.35 + 2085 * d**-0.37


def budgets(*, sd=0.0):
    flops = np.geomspace(1e19, 1e21, 4).repeat(9)
    n = np.sqrt(flops / 120) * np.tile(np.geomspace(0.2, 5, 9), 4)
    y = loss(n, flops / 6 / n) * np.exp(sd * np.random.default_rng(0).normal(size=36))
    return Points(x=np.stack([n, flops / 6 / n], axis=-1), y=y)


@pytest.mark.parametrize("flops, factor", [(1e20, 6.0), (1e24, 2.0)])
def test_the_closed_form_is_where_a_search_finds_the_least_loss(flops, factor):
    done = minimize_scalar(
        lambda ln_n: loss(np.exp(ln_n), flops / factor / np.exp(ln_n)), (15, 25), tol=1e-12
    )
    n, d = best_sizes(logarithms(LAW, k=2)[None], np.array([flops]), factor=factor)
    assert n[0, 0] == pytest.approx(done.x, abs=1e-4)
    assert factor * np.exp(n[0, 0] + d[0, 0]) == pytest.approx(flops)


def test_a_fitted_law_tells_the_best_sizes_with_intervals():
    fit = fit_law(budgets(sd=0.003), resamples=40)
    found = frontier(fit, [1e20, 1e23])
    assert found.possible and found.exponent == pytest.approx(fit.beta / (fit.alpha + fit.beta))
    for one in found.optima:
        assert one.size_interval[0] <= one.size <= one.size_interval[1]
        assert 6 * one.size * one.data == pytest.approx(one.flops)
        assert one.loss == pytest.approx(
            fit.E + fit.A * one.size**-fit.alpha + fit.B * one.data**-fit.beta
        )
    low, high = found.exponent_interval
    assert low < 0.37 / 0.72 < high and "N* ~ C^0.5" in found.text()


def test_what_is_not_a_law_of_both_has_no_frontier():
    n = np.geomspace(1e6, 1e9, 6)
    one = frontier(fit_law(Points(x=n, y=1 + 50 * n**-0.3), resamples=0), [1e20])
    assert one.text().endswith("not possible, because there is no fit of L(N, D)")
    fit = fit_law(budgets(), resamples=0)
    assert "without resamples" in frontier(fit, [1e20]).text()
    doubtful = dataclasses.replace(fit, identified=False, verdict="not identified: why")
    assert "not identified: why" in frontier(doubtful, [1e20]).text()


def test_points_fall_into_budgets():
    groups = budgets_of(budgets())
    assert [flops for flops, _ in groups] == pytest.approx(np.geomspace(1e19, 1e21, 4))
    assert [int(chosen.sum()) for _, chosen in groups] == [9] * 4


def test_parabolas_find_the_best_sizes_of_each_budget():
    found = iso_flop(budgets())
    law = logarithms(LAW, k=2)[None]
    expected = np.exp(best_sizes(law, np.geomspace(1e19, 1e21, 4), factor=6.0)[0][0])
    assert [one.size for one in found.optima] == pytest.approx(expected, rel=0.1)
    assert found.exponent == pytest.approx(0.37 / 0.72, abs=0.02)


def test_points_without_budgets_have_no_parabolas():
    x = np.stack(np.meshgrid(np.geomspace(1e6, 1e9, 3), np.geomspace(1e9, 1e12, 3)), -1)
    found = iso_flop(Points(x=x.reshape(-1, 2), y=np.linspace(3, 2, 9)))
    assert not found.possible and "make no FLOP budget" in found.text()
    assert "have no D" in iso_flop(Points(x=[1, 2], y=[2, 1])).text()
