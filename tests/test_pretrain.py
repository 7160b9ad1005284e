import json
import shutil

import numpy as np
import pytest
import torch

from tokenunify_scale import load_model
from tokenunify_scale.cli import main
from tokenunify_scale.config import ConfigError, build, load_yaml
from tokenunify_scale.pretrain import Config, plan
from tokenunify_scale.train.checkpoint import read_weights
from tokenunify_scale.train.hold import HELD
from tokenunify_scale.train.runlog import read_metrics, read_result

LEAF = ["--size", "atto", "--global-batch", 2, "--log-every", 1, "--set", "objective.patch=[4,8,8]"]


def losses(run):
    return [record["loss"] for record in read_metrics(run)]


def test_a_run_folder_is_complete(pretrained):
    names = {path.name for path in pretrained.iterdir() if path.name != HELD}
    assert names == {
        "config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "latest",
        "model.safetensors", "result.json", "tensorboard",
    }  # fmt: skip
    result = read_result(pretrained)
    assert result["model"] == {"name": "emmamba_atto", "parameters": 477_841}
    assert result["steps"] == 6 and result["crops_seen"] == 12
    assert {"loss", "random", "next", "next_all", "grad_norm"} <= set(result["metrics"])
    assert len(read_metrics(pretrained)) == 6
    environment = json.loads((pretrained / "environment.json").read_text())
    assert environment["scan"]["backend"] == "cpu" and environment["world"] == 1


def test_the_resolved_config_repeats_the_run(pretrained):
    config = build(Config, load_yaml(pretrained / "config.yaml"))
    assert config.steps == 6 and config.model.name == "emmamba_atto"


def test_the_weights_load_as_a_network(pretrained):
    model = load_model(pretrained)
    assert not model.training and sum(p.numel() for p in model.parameters()) == 477_841


@pytest.mark.parametrize("objective", ["mae", "autoregressive"])
def test_the_baselines_train_through_the_same_command(objective, demo, tmp_path, tokenunify):
    words = ["--shards", demo / "shards", "--out", tmp_path, "--steps", 2]
    done = tokenunify("pretrain", *LEAF, *words, "--set", f"objective.name={objective}")
    assert done.returncode == 0, done.stderr
    assert read_result(tmp_path)["objective"] == objective


def test_a_resumed_run_equals_one_that_never_stopped(pretrained, demo, tmp_path, tokenunify):
    out = tmp_path / "run"
    words = [*LEAF, "--shards", demo / "shards", "--out", out, "--steps", 6, "--save-every", 3]
    assert tokenunify("pretrain", *words).returncode == 0
    whole = losses(out)
    assert whole == losses(pretrained), "how often is saved does not change what is learned"
    # As a kill after step 4 would leave it: the checkpoint of step 3, and a line too many.
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    (out / "latest").write_text("step-00000003\n")
    (out / "result.json").unlink()
    done = tokenunify("pretrain", *words)
    assert done.returncode == 0, done.stderr
    assert losses(out) == whole


def test_a_plan_tells_parameters_and_memory(demo):
    config = build(Config, {"model": "emmamba_atto", "shards": [str(demo / "shards")],
                            "objective": {"name": "mae", "patch": [4, 8, 8]}})  # fmt: skip
    told = plan(config)
    assert told["parameters"] == "477,841" and told["crop"] == [8, 32, 32]
    assert "16 crops" in told["data"]


def test_a_finished_run_given_again_stays_what_it_was(pretrained, demo, tokenunify):
    before = read_result(pretrained)
    words = [*LEAF, "--shards", demo / "shards", "--out", pretrained, "--steps", 6]
    assert tokenunify("pretrain", *words).returncode == 0
    assert read_result(pretrained)["metrics"] == before["metrics"]
    other = tokenunify("pretrain", *words, "--set", "objective.name=mae")
    assert other.returncode == 2 and "give another --out" in other.stderr


def test_what_is_held_out_is_measured_before_during_and_after(demo, tmp_path, tokenunify):
    out, held_out = tmp_path / "run", tmp_path / "held_out"
    spec = ["--volumes", "synthetic:seed=6,shape=16x64x64", "--crops", 4, "--crop", "8,32,32"]
    assert tokenunify("prepare", *spec, "--out", held_out).returncode == 0
    words = [*LEAF, "--shards", demo / "shards", "--held-out", held_out, "--held-out-crops", 4]
    done = tokenunify("pretrain", *words, "--held-out-every", 2, "--steps", 3, "--out", out)
    assert done.returncode == 0, done.stderr
    records = [r for r in read_metrics(out) if "held_out_random" in r]
    measured = {r["step"]: r["held_out_random"] for r in records}
    assert list(measured) == [0, 2, 3] and len({*measured.values()}) == 3
    assert read_result(out)["metrics"]["held_out_random"] == measured[3]
    # Measuring leaves training alone.
    plain = tmp_path / "plain"
    words = [*LEAF, "--shards", demo / "shards", "--steps", 3, "--out", plain]
    assert tokenunify("pretrain", *words).returncode == 0
    assert losses(plain) == [r["loss"] for r in read_metrics(out) if "loss" in r]


def test_what_is_held_out_must_not_be_trained_on(demo, tmp_path):
    same = {"shards": [str(demo / "shards")], "held_out": [f"{demo}/../{demo.name}/shards"]}
    with pytest.raises(ConfigError, match="shards and held_out both name"):
        build(Config, {"model": "emmamba_atto", **same})


def test_photographs_are_learned_as_one_section_of_three_channels(tmp_path, tokenunify):
    from PIL import Image

    photos, shards, out = tmp_path / "photos", tmp_path / "shards", tmp_path / "run"
    photos.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photos / f"{number}.png")
    cut = ["--images", photos, "--crop", "1,32,32", "--crops", 4]
    assert tokenunify("prepare", *cut, "--out", shards).returncode == 0
    words = ["--recipe", "pretrain_photographs", "--size", "atto", "--shards", shards]
    words += ["--steps", 2, "--global-batch", 2, "--out", out]
    done = tokenunify("pretrain", *words, "--set", "objective.patch=[1,8,8]")
    assert done.returncode == 0, done.stderr
    model = load_model(out)
    assert model(torch.rand(1, 3, 1, 32, 32)).shape == (1, 3, 1, 32, 32)
    refused = tokenunify("pretrain", "--size", "atto", "--shards", shards, "--dry-run")
    assert refused.returncode == 2 and "--recipe pretrain_photographs" in refused.stderr


@pytest.mark.slow
def test_measuring_leaves_a_teachers_network_in_parts(demo, tmp_path, tokenunify):
    words = ["--size", "atto", "--shards", demo / "shards", "--objective", "byol", "--zero", 3]
    words += ["--steps", 4, "--global-batch", 2, "--log-every", 1, "--save-every", 2]
    held_out = ["--held-out", demo / "held_out", "--held-out-every", 1, "--held-out-crops", 2]
    spec = ["--volumes", "synthetic:seed=6,shape=16x64x64", "--crops", 2, "--crop", "8,32,32"]
    assert tokenunify("prepare", *spec, "--out", demo / "held_out").returncode == 0
    for out, more in (("plain", []), ("measured", held_out)):
        done = tokenunify("pretrain", *words, *more, "--out", tmp_path / out)
        assert done.returncode == 0, done.stderr
    records = read_metrics(tmp_path / "measured")
    assert [r["loss"] for r in records if "loss" in r] == losses(tmp_path / "plain")


def test_it_starts_from_another_runs_network(pretrained, demo, tmp_path, tokenunify):
    words = ["--init", pretrained, "--shards", demo / "shards", "--size", "atto", "--steps", 1,
             "--global-batch", 1, "--log-every", 1, "--out", tmp_path / "run"]  # fmt: skip
    words += ["--set", "objective.name=mae", "--set", "objective.patch=[4,8,8]"]
    done = tokenunify("pretrain", *words, "--set", "optim.lr=1e-12")
    assert done.returncode == 0, done.stderr
    assert read_result(tmp_path / "run")["init"] == "tokenunify"
    weights, before = read_weights(tmp_path / "run")[0], read_weights(pretrained)[0]
    assert all((weights[name] - before[name]).abs().max() < 1e-6 for name in before)


def test_initial_weights_of_another_network_are_refused(pretrained, demo, capsys):
    words = ["--init", pretrained, "--shards", demo / "shards", "--size", "femto", "--dry-run"]
    assert main("pretrain", [str(word) for word in words]) == 2
    told = f"init {pretrained} holds emmamba_atto, the network asked for is emmamba_femto"
    assert told in capsys.readouterr().err
