"""The whole way in miniature: a study of two initialisations, an export, somebody else's stack."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tokenunify_scale import load_model, open_volume
from tokenunify_scale.train.runlog import read_result

SMALL = [
    "sizes=[atto]", "inits=[tokenunify,random]",
    "prepare.pretraining.volumes=synthetic:seed=1,shape=16x64x64",
    "prepare.pretraining.crops=8", "prepare.pretraining.crop=[8,32,32]",
    "prepare.training.volumes=synthetic:seed=2,shape=16x64x64",
    "prepare.test.volumes=synthetic:seed=3,shape=16x64x64",
    "pretrain.steps=2", "pretrain.objective.patch=[4,8,8]", "pretrain.global_batch=2",
    "finetune.steps=2", "finetune.crop=[8,32,32]", "predict.tile=[8,64,64]",
    "predict.overlap=[0,0,0]",
]  # fmt: skip


@pytest.fixture(scope="module")
def study(tokenunify, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    words = [word for assignment in SMALL for word in ("--set", assignment)]
    done = tokenunify("scaling", "run", "cpu_demo", "--out", out, *words, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    again = tokenunify("scaling", "run", "cpu_demo", "--out", out, *words)
    assert again.returncode == 0 and "start" not in again.stdout, "finished runs are skipped"
    return out


@pytest.mark.slow
def test_a_study_leaves_its_table_and_its_figure(study):
    rows = json.loads((study / "table.json").read_text())
    assert sorted(row["init"] for row in rows) == ["random", "tokenunify"]
    assert all(row["voi"] > 0 and row["parameters"] == 477_851 for row in rows)
    assert (study / "scaling.png").stat().st_size > 10_000
    evaluations = [each for each in (study / "evaluate").iterdir() if each.is_dir()]
    assert len(evaluations) == 2
    for folder in evaluations:
        assert read_result(folder) and (folder / "sections.png").is_file()
        assert (folder / "errors.png").is_file()


@pytest.mark.slow
def test_every_number_of_the_table_stands_in_a_result(study):
    for row in json.loads((study / "table.json").read_text()):
        name = f"{row['size']}-{row['init']}-s{row['seed']}"
        assert read_result(study / "evaluate" / name)["metrics"]["voi"] == row["voi"]


@pytest.mark.slow
def test_an_exported_model_segments_somebody_elses_stack(study, tokenunify, tmp_path):
    cell = "atto-tokenunify-s0"
    words = ["--run", study / "finetune" / cell, "--evaluation", study / "evaluate" / cell]
    assert tokenunify("export", *words, "--out", tmp_path / "model").returncode == 0
    assert sum(p.numel() for p in load_model(tmp_path / "model").parameters()) == 477_851
    stack = open_volume("synthetic:seed=9,shape=10x70x50").read()
    tifffile.imwrite(tmp_path / "stack.tif", stack)
    done = tokenunify(
        "segment", "--model", tmp_path / "model", "--volume", tmp_path / "stack.tif",
        "--out", tmp_path / "neurons", "--format", "both",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = open_volume(f"{tmp_path / 'neurons' / 'segmentation.h5'}:segmentation").read()
    assert found.shape == (10, 70, 50) and len(np.unique(found)) > 1
    assert list(Path(tmp_path / "neurons").glob("*.tif"))
