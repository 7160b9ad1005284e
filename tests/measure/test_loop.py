"""The loop beside what DeepSpeed does in it."""

import pytest

from tokenunify_scale import build_model
from tokenunify_scale.config import Named
from tokenunify_scale.measure import loop
from tokenunify_scale.measure.loader import make_data
from tokenunify_scale.objectives import build_objective
from tokenunify_scale.registry import OBJECTIVES

MEASURED = {
    "stage": 1,
    "loop": [1.05, 1.02, 1.50],
    "inner": [1.0, 1.0, 1.0],
    "waiting": [0.0, 0.0, 0.5],
    "plain": [0.9, 0.8, 0.7],
}


def test_all_but_forward_backward_and_step_counts_and_so_does_waiting():
    assert loop.overhead(MEASURED) == pytest.approx(0.05)
    (finding,) = loop.loop_findings(MEASURED)
    assert finding.met is False
    text = loop.loop_table(MEASURED)
    assert "ZeRO-1" in text and "1050" in text and "800" in text


def test_a_training_is_timed_step_by_step_beside_plain_torch(tmp_path):
    data = make_data(
        tmp_path / "data", volume="synthetic:seed=1,shape=16x64x64", crop=(8, 32, 32), count=8
    )
    objective = build_objective(
        Named("mae", OBJECTIVES.get("mae").config),
        backbone=build_model("emmamba_atto", out_channels=1),
        seed=0,
    )
    measured = loop.compare(
        objective, shards=data.shards, strategy="atto", steps=3, out=tmp_path / "run"
    )
    assert measured["stage"] == 0
    for name in ("loop", "inner", "waiting", "plain"):
        assert len(measured[name]) == 3 and min(measured[name]) >= 0
    pairs = zip(measured["loop"], measured["inner"], strict=True)
    assert all(whole >= part > 0 for whole, part in pairs)
