import numpy as np
import pytest
from scipy import stats

from tokenunify_scale.config import ConfigError
from tokenunify_scale.scaling.pages.collect import Row
from tokenunify_scale.scaling.pages.ranking import paired, rank, ranking_table
from tokenunify_scale.scaling.pages.tables import latex, markdown


def rows(table, **more):
    """Rows of {(size, init): scores of seeds 0, 1, ...}; the ARAND is a tenth of the VOI."""
    return [
        Row(size=size, init=init, seed=seed, voi=voi, arand=voi and voi / 10, **more)
        for (size, init), scores in table.items()
        for seed, voi in enumerate(scores)
    ]


NOISY = {
    ("nano", "mae"): [1.00, 1.10, 1.05],
    ("nano", "random"): [1.50, 1.62, 1.53],
    ("nano", "tokenunify"): [1.03, 1.08, 1.09],
    ("atto", "mae"): [2.0],
    ("atto", "random"): [1.9],
}


def test_mean_spread_and_interval_are_those_of_scipy():
    nano, atto = rank(rows(NOISY))
    assert nano.where == (("size", "nano"),)
    assert [entry.name for entry in nano.entries] == ["mae", "tokenunify", "random"]
    best, close, far = nano.entries
    scores = {init: np.array(NOISY["nano", init]) for init in ("mae", "random", "tokenunify")}
    for entry in nano.entries:
        assert entry.mean == pytest.approx(scores[entry.name].mean())
        assert entry.sd == pytest.approx(scores[entry.name].std(ddof=1))
    for entry in (close, far):
        test = stats.ttest_rel(scores[entry.name], scores["mae"])
        low, high = test.confidence_interval(0.95)
        assert (entry.low, entry.high) == pytest.approx((low, high))
        assert entry.close == (test.pvalue >= 0.05)
    assert close.close and far.close is False and best.close is None and best.best


def test_the_interval_holds_the_truth_in_95_of_100_trials():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        seeds = rng.normal(size=4)  # what the two have in common
        one, two = (dict(enumerate(m + seeds + 0.1 * rng.normal(size=4))) for m in (1.3, 1.0))
        found = paired(one, two)
        held += found["low"] <= 0.3 <= found["high"]
    assert 930 <= held <= 970


def test_one_seed_ranks_and_says_that_its_noise_is_not_known():
    atto = rank(rows(NOISY))[1]
    assert [(e.name, e.n, e.sd, e.close) for e in atto.entries] == [
        ("random", 1, None, None), ("mae", 1, None, None),
    ]  # fmt: skip
    table = ranking_table(rows({k: v[:1] for k, v in NOISY.items()}))
    assert any("not known" in note for note in table.notes)
    assert not any("paired t" in note for note in table.notes)


def test_only_shared_seeds_are_paired_and_missing_ones_are_counted():
    table = {("nano", "mae"): [1.0, 1.1, None], ("nano", "random"): [None, 1.3, 1.2]}
    best, other = rank(rows(table))[0].entries
    assert (best.n, best.planned, other.pairs) == (2, 3, 1)
    assert other.behind == pytest.approx(0.2) and other.low is None
    assert "2 of 3" in markdown(ranking_table(rows(table)))


def test_an_init_without_any_score_comes_last_with_dashes():
    table = {("nano", "mae"): [None, None], ("nano", "random"): [1.0, 1.1]}
    entries = rank(rows(table))[0].entries
    assert [entry.name for entry in entries] == ["random", "mae"] and entries[1].mean is None
    assert ranking_table(rows(table)).rows[1][-3:] == ("-", "-", "-")
    assert not any(e.best for e in rank(rows({("nano", "mae"): [None]}))[0].entries)


def test_equal_scores_are_within_the_noise_and_a_constant_gap_is_not():
    same = {("n", "a"): [1.0, 2.0], ("n", "b"): [1.0, 2.0], ("n", "c"): [1.5, 2.5]}
    _, tie, gap = rank(rows(same))[0].entries
    assert tie.close and gap.close is False


def test_other_axes_make_blocks_of_their_own_and_may_compete_themselves():
    some = [
        *rows({("n", "mae"): [1.0]}, axes={"fraction": "0.1"}),
        *rows({("n", "mae"): [0.8]}, axes={"fraction": "1"}),
    ]
    assert [block.where for block in rank(some)] == [
        (("size", "n"), ("fraction", "0.1")), (("size", "n"), ("fraction", "1")),
    ]  # fmt: skip
    (block,) = rank(some, of="fraction")
    assert [entry.name for entry in block.entries] == ["1", "0.1"]
    assert ranking_table(some, of="fraction").columns[:3] == ("size", "init", "fraction")


def test_the_table_has_the_best_of_every_score_in_bold_and_marks_what_is_near():
    table = ranking_table(rows(NOISY), caption="cpu_ladder")
    assert table.bold == {(0, 3), (0, 4), (3, 3), (3, 4)}
    assert table.rows[1][3] == "1.0667 +- 0.0321 =" and table.rows[0][3] == "1.0500 +- 0.0500"
    assert table.rows[2][5].startswith("+0.5000 [+0.4")
    assert any("= : within" in note or "=: within" in note for note in table.notes)
    done = latex(table)
    assert r"\textbf{1.0500 $\pm$ 0.0500}" in done and done.count(r"\midrule") == 2


def test_an_unknown_score_or_axis_is_refused():
    with pytest.raises(ConfigError, match="no score 'vio'.*voi"):
        rank(rows(NOISY), score="vio")
    with pytest.raises(ConfigError, match="no axis 'inits' to rank.*init"):
        rank(rows(NOISY), of="inits")
