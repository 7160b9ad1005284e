import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import nn

from tokenunify_scale.measure import objectives
from tokenunify_scale.measure.growth import ATTENTION, OURS, WAYS
from tokenunify_scale.measure.report import TARGETS
from tokenunify_scale.objectives.output import LossOutput

COUNTS = [100, 400, 1600]


class StandIn(nn.Module):
    """An objective that notes what it is given."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.seen = backbone, []

    def forward(self, batch, *, progress):
        self.seen.append((batch["crops"], batch["positions"].tolist(), progress))
        return LossOutput(self.backbone(batch["crops"]).mean(), {})


@pytest.fixture
def measured():
    """As a run leaves it: ours linear, pairwise attention quadratic."""
    ways = {}
    for way in WAYS:
        power = 2 if way == ATTENTION else 1  # and the two others on one line
        values = {"seconds": [1e-4 * k**power for k in COUNTS],
                  "bytes": [2048 * k**power for k in COUNTS]}  # fmt: skip
        ways[way] = {**values, "exponents": {"seconds": 1.0 * power, "bytes": 1.0 * power}}
    sizes = [{"patches": k, "grid": (4, 5, 5), "cells": (2, 10, 10), "width": 16} for k in COUNTS]
    return {"steps": {"mae": 2.0, "byol": 5.0, "tokenunify": 2.2}, "crop": (16, 32, 32),
            "growth": {"sizes": sizes, "clock": "process_time", "ways": ways}}  # fmt: skip


def test_every_objective_takes_steps_on_one_batch_with_a_random_and_a_prefix_sample():
    backbone = nn.Conv3d(1, 1, 1)
    learned = {name: StandIn(backbone) for name in ("mae", "tokenunify")}
    seconds = objectives.steps(learned, crop=(2, 4, 4), repeats=2, device="cpu")
    assert list(seconds) == ["mae", "tokenunify"] and min(seconds.values()) > 0
    ((crops, *_), *_), seen = (learned[name].seen for name in seconds)
    assert crops.shape == (2, 1, 2, 4, 4) and len(seen) == 1 + 2
    assert all(given[0] is crops and given[1:] == ([0, 1], 0.5) for given in seen)


def test_the_first_turn_does_not_count_and_medians_are_taken_of_the_others(monkeypatch):
    taken = iter([90.0, 80.0, 1.0, 7.0, 3.0, 6.0, 2.0, 50.0])
    monkeypatch.setattr(objectives, "seconds_of", lambda work, clock: next(taken))
    learned = dict.fromkeys(["mae", "tokenunify"], nn.Conv3d(1, 1, 1))
    found = objectives.steps(learned, crop=(2, 4, 4), repeats=3, device="cpu")
    assert found == {"mae": 2.0, "tokenunify": 7.0}


def test_steps_of_minutes_take_two_turns(monkeypatch):
    monkeypatch.setattr(objectives, "LIMIT", -1.0)
    learned = {"mae": StandIn(nn.Conv3d(1, 1, 1))}
    objectives.steps(learned, crop=(2, 4, 4), repeats=9, device="cpu")
    assert len(learned["mae"].seen) == 1 + 2


def test_a_steps_gradients_are_those_of_one_step():
    backbone = nn.Conv3d(1, 1, 1)
    objectives.steps({"mae": StandIn(backbone)}, crop=(2, 4, 4), repeats=3, device="cpu")
    torch.testing.assert_close(backbone.bias.grad, torch.ones(1))


def test_ours_and_the_three_way_step_have_targets_and_pairwise_attention_has_none(measured):
    found = {finding.what: finding for finding in objectives.findings(measured)}
    assert [f.value for f in found.values()] == [1, 2, 1, 2, pytest.approx(1.1)]
    assert [f.met for f in found.values()] == [True, None, True, None, True]
    assert TARGETS["growth"].limit == 1.15 and TARGETS["three-way step"].limit == 1.25


def test_the_tables_have_every_way_and_every_objective(measured):
    text = objectives.tables(measured)
    assert "2 feature cells of 16 channels" in text and "K = 1600" in text
    assert "by Python's process_time" in text
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert rows["byol"][1:] == ["5000", "2.50"] and rows["mae"][1:] == ["2000", "1.00"]
    assert text.count(OURS) == text.count(ATTENTION) == 2


def test_without_a_peak_the_tables_say_so_and_time_is_found_and_drawn(measured, tmp_path):
    for way in measured["growth"]["ways"].values():
        way["bytes"], way["exponents"]["bytes"] = [None] * 3, None
    assert "?" in objectives.tables(measured)
    assert len(objectives.findings(measured)) == 3
    objectives.draw(tmp_path / "cost.png", measured["growth"])
    assert (tmp_path / "cost.png").is_file()


def test_the_picture_has_a_panel_for_time_and_one_for_memory(measured, tmp_path):
    objectives.draw(tmp_path / "new" / "cost.png", measured["growth"])
    image = imread(tmp_path / "new" / "cost.png")[..., :3]
    blue = np.abs(image - np.array([0, 0x72, 0xB2]) / 255).max(2) < 0.02
    middle = image.shape[1] // 2
    assert blue[:, :middle].sum() > 500 and blue[:, middle:].sum() > 500
