import numpy as np
import pytest
from scipy import stats

from tokenunify_scale.config import ConfigError
from tokenunify_scale.scaling.laws.fit import fit_law
from tokenunify_scale.scaling.laws.power import PAPER, PAPER_EFFECT, assumption, power, table
from tokenunify_scale.scaling.pages.published import figure6


def test_the_default_truth_is_the_papers_figure():
    curves = figure6("mamba", x="gmacs")
    fit = fit_law(curves["tokenunify"], noise=0.046, resamples=0)
    assert {name: getattr(fit, name) for name in PAPER} == pytest.approx(PAPER, rel=1e-3)
    assert np.mean(curves["mae"].y - curves["tokenunify"].y) == pytest.approx(
        PAPER_EFFECT, abs=1e-3
    )


def test_the_share_of_significant_differences_is_that_of_theory():
    row = power(5, [3], 0.1, effect=0.1, simulations=150, E=5)[0]
    freedom, shift = 10, 0.1 / (0.1 * np.sqrt(2 / 3))
    limit = stats.t.ppf(0.975, freedom)
    expected = stats.nct.sf(limit, freedom, shift) + stats.nct.cdf(-limit, freedom, shift)
    assert row.one_size == pytest.approx(expected, abs=0.06)
    assert row.runs == 30 and row.corrected <= row.one_size <= row.mean


def test_the_least_difference_is_found_eight_times_in_ten():
    least = power(4, [4], 0.1, simulations=2)[0].least
    row = power(4, [4], 0.1, effect=least, simulations=150, seed=1)[0]
    assert row.one_size == pytest.approx(0.8, abs=0.08)


def test_more_seeds_resolve_more():
    one, four = power((1e6, 1e7, 1e8, 1e9), [1, 4], 0.02, E=1, A=50, alpha=0.3, simulations=40)
    assert four.least < one.least and four.half_width < one.half_width
    assert four.trend >= one.trend


def test_the_table_and_its_assumption_are_said_in_words():
    rows = power(5, [1, 2], 0.046, simulations=5)
    text = table(rows)
    assert text.splitlines()[0].split()[:2] == ["seeds", "runs"] and "0.138" in text
    assert "the paper's Figure 6" in assumption(**PAPER, noise=0.046)
    assert "paper" not in assumption(E=1, A=2, alpha=0.3, noise=0.046)


@pytest.mark.parametrize(
    "change, words",
    [({"sizes": 2}, "3 sizes"), ({"noise": 0}, "noise"), ({"seeds": [0]}, "seeds")],
)
def test_a_design_that_is_none_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        power(**{"sizes": 5, "seeds": [1], "noise": 0.1} | change)
