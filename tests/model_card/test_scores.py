import numpy as np
import pytest
from scipy import stats

from tokenunify_scale.config import DataError
from tokenunify_scale.model_card.records import Lineage, lineage
from tokenunify_scale.model_card.scores import index, interval, open_evaluation, results, seen

NOTHING = Lineage()


def test_one_evaluation_has_values_and_no_interval(evaluate):
    one = open_evaluation(evaluate(labels="/home/me/b.h5:labels"))
    text = results(
        [one], NOTHING, postprocessing={"name": "waterz", "threshold": 0.5, "block": None}
    )
    assert "| VOI (bits) | 1.2500 | not measured |" in text
    assert "`b.h5:labels`, voxels [0, 0, 0] to [4, 8, 8]" in text and "/home" not in text
    assert "label 0 ignored" in text and "Segmented with `waterz`: threshold 0.5." in text


def test_a_score_that_was_not_taken_says_so(evaluate):
    one = open_evaluation(evaluate(metrics={"voi": 2.0}, box=None))
    assert "| adapted Rand error | not measured | not measured |" in results([one], NOTHING)
    (result,) = index("m", [one])[0]["results"]
    assert [metric["type"] for metric in result["metrics"]] == ["voi"]
    assert "args" not in result["dataset"]


def test_several_have_mean_spread_and_interval(evaluate):
    values = [1.0, 1.5, 2.5]
    folders = [
        evaluate(f"e{n}", labels=f"{n}.h5:l", metrics={"voi": v}) for n, v in enumerate(values)
    ]
    text = results([open_evaluation(folder) for folder in folders], NOTHING)
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert interval(values) == pytest.approx((low, high))
    row = "| VOI (bits) | 1.0000 | 1.5000 | 2.5000 | 1.6667 | 0.7638 |"
    assert f"{row} {low:.4f} to {high:.4f} |" in text and "n = 3" in text


def test_units_stand_with_the_scores_and_are_not_mixed(evaluate):
    nats = open_evaluation(evaluate("n", convention={"units": "nats"}))
    assert index("m", [nats])[0]["results"][0]["metrics"][0]["name"] == "VOI split (nats)"
    text = results([nats, open_evaluation(evaluate("b"))], NOTHING)
    assert "| VOI (bits or nats) | 1.2500 | 1.2500 | not measured |" in text
    assert "| adapted Rand error | 0.1250 | 0.1250 | 0.1250 | 0.0000 |" in text


@pytest.mark.parametrize(
    "config, flatters",
    [
        ({}, True),
        ({"sections": [0, 2]}, True),
        ({"sections": [4, 9]}, False),
        ({"sections": [4, 9], "validate": [3, 4]}, True),
        ({"labels": ["other.h5:labels"]}, False),
    ],
)
def test_scores_on_what_training_has_read_are_marked(finetune, evaluate, config, flatters):
    line = lineage(finetune(**config))
    one = open_evaluation(evaluate(labels="a.h5:labels"))
    assert seen(one, line) == flatters and ("flatter" in results([one], line)) == flatters


def test_a_choice_of_the_threshold_is_told(evaluate):
    choice = {"segmentation": "s", "sections": [4, 6], "voi": {"s": 1.0, "t": 2.0}}
    text = results([open_evaluation(evaluate(choice=choice))], NOTHING)
    assert "chosen among 2 on sections 4:6" in text


def test_an_evaluation_without_scores_is_refused(evaluate, tmp_path):
    with pytest.raises(DataError, match="is not a finished evaluation"):
        open_evaluation(tmp_path / "none")
    with pytest.raises(DataError, match="has no scores of a segmentation"):
        open_evaluation(evaluate(metrics={"segments": 3}))
