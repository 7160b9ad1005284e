import json

import numpy as np
import pytest

from tokenunify_scale.scaling.laws.points import Points
from tokenunify_scale.scaling.laws.verdict import verdict
from tokenunify_scale.scaling.pages.published import figure6

N = np.geomspace(1e5, 1e8, 5).repeat(3)
SEEDS = tuple("012") * 5


def curve(E, *, seed):
    noise = 0.02 * np.random.default_rng(seed).normal(size=15)
    return Points(x=N, y=E + 50 * N**-0.3 + noise, seed=SEEDS)


def test_the_papers_figure_says_what_is_significant_and_what_is_not():
    found = verdict(figure6("mamba", x="gmacs"), noise=0.046)
    assert found.tests == 12
    by_pair = {frozenset((one.first, one.second)): one for one in found.comparisons}
    close = by_pair[frozenset(("mae", "tokenunify"))]
    far = by_pair[frozenset(("random", "tokenunify"))]
    assert not any(d.significant for d in close.sizes) and close.mean.significant
    assert all(d.significant for d in far.sizes) and far.trend.shrinks > 0.9
    assert close.trend.p > 0.5
    text = found.text()
    assert "tokenunify is better than mae on average; significant at 0 of 4 sizes" in text
    assert "the stated 0.046 of a run" in text and "One exponent for all" in text


def test_equals_are_not_told_apart_and_a_gap_is():
    groups = {"a": curve(1.0, seed=0), "b": curve(1.0, seed=1), "c": curve(1.3, seed=2)}
    found = verdict(groups)
    text = found.text()
    assert "a and b: no significant difference on average" in text
    assert "a is better than c on average; significant at 5 of 5 sizes" in text
    assert "no advantage is established whose growth could be judged" in text
    assert "pairs of the same seed" in text


def test_single_runs_without_a_noise_are_said_to_tell_nothing():
    n = N[::3]
    groups = {name: Points(x=n[:1], y=[y]) for name, y in (("a", 1.0), ("b", 2.0))}
    text = verdict(groups).text()
    assert "a and b: nothing can be said" in text and "trend with size: not known" in text
    pairs = {name: Points(x=n, y=y + n**-0.3) for name, y in (("a", 1.0), ("b", 2.0))}
    assert "of single sizes nothing can be said" in verdict(pairs).text()


def test_curves_of_other_sizes_are_not_compared():
    groups = {"a": Points(x=[1, 2], y=[1, 1]), "b": Points(x=[3, 4], y=[1, 1])}
    assert "they have no size in common" in verdict(groups).text()


def test_numbers_are_json_and_corrected_p_values_are_not_smaller():
    found = verdict({"a": curve(1.0, seed=0), "b": curve(1.01, seed=1)})
    record = json.loads(json.dumps(found.to_dict()))
    sizes = record["comparisons"][0]["sizes"]
    assert len(sizes) == 5 and all(d["p_holm"] >= d["p"] for d in sizes)
    assert record["comparisons"][0]["mean"]["value"] == pytest.approx(
        np.mean([d["value"] for d in sizes])
    )
