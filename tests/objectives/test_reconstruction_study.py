"""Runs on the same crops and masks: what is measured, what is written."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tokenunify_scale.objectives import reconstruction_study, sources
from tokenunify_scale.objectives.hiding import Hidden
from tokenunify_scale.objectives.reconstruction import TASKS
from tokenunify_scale.objectives.reconstruction_study import Study, Subject
from tokenunify_scale.objectives.sources import Photos, VolumeCrops

VOLUME = "synthetic:seed=3,shape=16x48x48"
SOURCE = VolumeCrops(volume=VOLUME, sections=None, crop=(4, 16, 16), crops=3, seed=0)


class Blur(nn.Module):
    """A network without weights that says what it was shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, crops):
        self.seen.append(crops)
        return nn.functional.avg_pool3d(crops, (1, 3, 3), 1, (0, 1, 1))

    def features(self, crops):
        finest = nn.functional.avg_pool3d(crops, (1, 2, 2))
        coarser = nn.functional.avg_pool3d(finest, (1, 2, 2))
        return finest, torch.cat([coarser, coarser.square()], 1)

    def legal(self, sides):
        return sides


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    """Blurs, by folder."""
    made = {}

    def load(folder):
        return made.setdefault(str(folder), Blur())

    monkeypatch.setattr(reconstruction_study, "load_model", load)
    return made


def subject(name, objective="mae", **changes):
    settings = {"hidden": Hidden(patch=(2, 8, 8)), **changes}
    return Subject(name=name, folder=Path(name), objective=objective, **settings)


def study(*subjects, **changes):
    settings = {"source": SOURCE, "ratio": 0.75, "prefixes": 3, "seed": 0, **changes}
    return Study(subjects=subjects, **settings)


def test_runs_of_one_patch_path_and_fill_are_shown_the_same(tmp_path, networks):
    other = subject("c", hidden=Hidden(patch=(2, 8, 8), fill="mean"))
    metrics = study(subject("a"), subject("b"), other).run(tmp_path)["metrics"]
    a, b, c = (torch.cat(networks[name].seen) for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)
    same = (a == c).float().mean()
    assert 0.2 < same < 0.7  # what is visible
    assert metrics["a"] == metrics["b"] != metrics["c"]
    floors = [{k: v for k, v in m.items() if k.startswith("floor")} for m in metrics.values()]
    assert floors[0] == floors[2] and len(floors[0]) == 2 * len(TASKS)


def test_a_crops_numbers_do_not_depend_on_the_others(tmp_path):
    study(subject("a")).run(tmp_path)
    with (tmp_path / "reconstruct.csv").open(newline="") as file:
        whole = list(csv.DictReader(file))
    result = study(subject("a"), source=replace(SOURCE, crops=1)).run(tmp_path)
    assert result["metrics"]["a"]["next_psnr"] == pytest.approx(float(whole[0]["next_psnr"]))
    again = study(subject("a"), source=replace(SOURCE, crops=1), seed=1).run(tmp_path)
    assert again["metrics"]["a"]["random_psnr"] != result["metrics"]["a"]["random_psnr"]
    assert len(whole) == 3 and (tmp_path / "reconstruct.png").is_file()
    assert not (tmp_path / "psnr.png").exists()


def test_nothing_is_claimed_of_a_decoder_that_was_not_trained(tmp_path, networks):
    result = study(subject("a"), subject("b", "byol", decodes=False)).run(tmp_path)
    assert result["metrics"]["b"]["random_psnr"] is None and not networks["b"].seen
    assert result["metrics"]["b"]["floor_next_psnr"] == result["metrics"]["a"]["floor_next_psnr"]
    assert result["runs"]["b"]["note"] == "decoder not trained"
    json.dumps(result, allow_nan=False)


def test_normalised_predictions_get_the_true_mean_and_contrast(tmp_path, monkeypatch):
    gray = nn.Module()
    gray.forward = lambda crops: torch.full_like(crops, 0.5)
    gray.features, gray.legal = Blur().features, Blur().legal
    monkeypatch.setattr(reconstruction_study, "load_model", lambda folder: gray)
    runs = subject("a"), subject("b", targets="normalised")
    metrics = study(*runs).run(tmp_path)["metrics"]
    # The mean of each patch is better than any other number for it.
    assert all(metrics["b"][f"{t}_mse"] < metrics["a"][f"{t}_mse"] for t in TASKS)
    assert all(metrics["b"][f"{t}_mse"] < metrics["b"][f"floor_{t}_mse"] for t in TASKS)


def test_the_drawn_section_is_half_shown_on_every_path():
    crop = torch.rand(1, 8, 32, 32)
    for path in ("raster", "snake", "hilbert", "random"):
        one = subject("a", hidden=Hidden(patch=(2, 8, 8), path=path))
        masks, section = study(one)._masks_drawn(one, crop, 0)
        layer = masks.reshape(2, 4, 16)[:, section // 2]
        assert layer[1].sum() == 8 and 0.7 < masks[0].float().mean() < 0.8
    thin = subject("a", hidden=Hidden(patch=(2, 32, 32)))
    masks, _ = study(thin)._masks_drawn(thin, crop, 0)
    assert 0 < masks[1].sum() < 4


def test_photographs_are_measured_by_the_mean_of_their_tiles(tmp_path, monkeypatch):
    photo = np.random.default_rng(0).integers(0, 256, (3, 1, 40, 40)).astype(np.uint8)
    paths = [tmp_path / f"kodim0{i}.png" for i in (1, 2)]
    monkeypatch.setattr(sources, "find_photos", lambda spec: paths)
    monkeypatch.setattr(sources, "photo_sides", lambda path: (40, 40))
    monkeypatch.setattr(sources, "read_photo", lambda path: photo)
    source = Photos(spec=str(tmp_path), crop=(1, 16, 16))
    one = subject("a", hidden=Hidden(patch=(1, 8, 8)))
    result = study(one, source=source, prefixes=2).run(tmp_path)
    assert result["photographs"] == 2 and result["paper"]["tokenunify_8"] == 24.8945
    with (tmp_path / "reconstruct.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["crop"] for row in rows] == ["kodim01", "kodim02"]
    assert rows[0]["paper_autoregress_16"] == "19.249" and (tmp_path / "psnr.png").is_file()
    # Other tiles, other masks: the same photograph twice is not measured the same way.
    assert rows[0]["random_mse"] != rows[1]["random_mse"]


def test_the_plan_says_how_each_run_hides():
    plan = study(subject("a"), subject("b", masked=False)).plan()
    assert plan["runs"]["a"]["patches"] == 8 and plan["runs"]["a"]["prefixes"] == [2, 4, 6]
    assert plan["runs"]["b"]["note"] == "not trained on hidden patches" and plan["crops"] == 3
    assert json.dumps(plan)
