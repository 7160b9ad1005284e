"""The rollout of a run: what is measured, what is written, and that both are repeatable."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenunify_scale.objectives import rollout_study
from tokenunify_scale.objectives.hiding import Hidden
from tokenunify_scale.objectives.rollout_study import Study
from tokenunify_scale.objectives.sources import VolumeCrops

VOLUME = "synthetic:seed=3,shape=16x48x48"
STUDY = Study(
    model=Path("runs/some"),
    objective="tokenunify",
    source=VolumeCrops(volume=VOLUME, sections=None, crop=(4, 16, 16), crops=3, seed=0),
    visible=4,
    every=1,
    hidden=Hidden(patch=(2, 8, 8)),
)


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """A network without weights: a blur."""
    blur = torch.nn.AvgPool3d(3, stride=1, padding=1, count_include_pad=False)
    monkeypatch.setattr(rollout_study, "load_model", lambda folder: blur)
    return blur


def read(path):
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_the_plan_counts_patches_and_passes():
    plan = replace(STUDY, every=3).plan()
    assert plan["patches_shown"] == plan["patches_predicted"] == 4
    assert plan["forward_passes_a_crop"] == 2
    assert json.dumps(plan)


def test_a_row_a_position_and_the_metrics_of_their_means(tmp_path):
    result = STUDY.run(tmp_path)
    rows = read(tmp_path / "rollout.csv")
    assert [row["position"] for row in rows] == [1, 2, 3, 4]
    for name in ("sequential", "at_once", "flat"):
        errors = [row[f"mse_{name}"] for row in rows]
        assert rows[-1][f"cumulative_{name}"] == pytest.approx(sum(errors))
        assert rows[1][f"psnr_{name}"] == pytest.approx(-10 * math.log10(errors[1]))
        whole = -10 * math.log10(np.mean(errors))
        assert result["metrics"][f"psnr_{name}"] == pytest.approx(whole)
        low, high = result["metrics"][f"exponent_{name}_interval"]
        assert low <= result["metrics"][f"exponent_{name}"] <= high
    # The first prediction is the same, and so is the fit's first point.
    assert rows[0]["mse_sequential"] == pytest.approx(rows[0]["mse_at_once"])
    difference = result["metrics"]["exponent_sequential"] - result["metrics"]["exponent_at_once"]
    assert result["metrics"]["exponent_difference"] == pytest.approx(difference)
    assert (tmp_path / "rollout.png").is_file()


@pytest.mark.parametrize("fill", ["noise", "zero", "mean"])
@pytest.mark.parametrize("path", ["hilbert", "random", "relevance"])
def test_a_study_repeats_itself(tmp_path, monkeypatch, path, fill):
    monkeypatch.setattr(rollout_study, "draw_rollout", lambda *_, **__: None)
    study = replace(STUDY, hidden=replace(STUDY.hidden, path=path, fill=fill))
    single = replace(study, source=replace(study.source, crops=1))
    few = single.run(tmp_path)["metrics"]
    assert few == single.run(tmp_path)["metrics"]
    assert few["exponent_sequential_interval"] == [None, None]
    other = replace(single, source=replace(single.source, seed=1)).run(tmp_path)["metrics"]
    assert few["psnr_at_once"] != other["psnr_at_once"]


def test_crops_beyond_one_pass_are_as_if_there_were_room(tmp_path, monkeypatch):
    whole = STUDY.run(tmp_path)["metrics"]
    monkeypatch.setattr(rollout_study, "AT_ONCE", 2)
    split = STUDY.run(tmp_path)["metrics"]
    assert split["psnr_sequential"] == pytest.approx(whole["psnr_sequential"])
    assert split["exponent_sequential"] == pytest.approx(whole["exponent_sequential"])


def test_a_network_without_error_has_numbers_that_json_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(VolumeCrops, "voxels", np.zeros((3, 1, 4, 16, 16), np.uint8))
    monkeypatch.setattr(rollout_study, "load_model", lambda folder: torch.nn.Identity())
    hidden, source = replace(STUDY.hidden, fill="zero"), replace(STUDY.source)
    study = replace(STUDY, hidden=hidden, source=source)
    metrics = study.run(tmp_path)["metrics"]
    assert metrics["psnr_sequential"] is None and metrics["exponent_difference"] is None
    json.dumps(metrics, allow_nan=False)
