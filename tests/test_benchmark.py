"""The verb benchmark on small shapes, and the check for machines with a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from tokenunify_scale import benchmark, build_model
from tokenunify_scale.cli import main
from tokenunify_scale.config import ConfigError, HostError, build
from tokenunify_scale.measure import clock, growth, planned
from tokenunify_scale.measure.report import Finding
from tokenunify_scale.measure.step import KINDS, OTHER
from tokenunify_scale.models.count import cost

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--size", "atto", "--crop", "16,16,32", "--short", "24", "--repeats", "1"]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(clock, "TURN", 0.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("change", [{"crop": [16, 0, 16]}, {"repeats": 0}, {"threads": 0},
                                    {"short": 0}, {"patches": 0},
                                    {"labels": [0, 8, 8]}])  # fmt: skip
def test_what_cannot_be_measured_is_refused(change):
    (name,) = change
    with pytest.raises(ConfigError, match=name):
        build(benchmark.Config, {"what": "scan", **change})


def test_the_plan_names_the_scans_of_the_networks_stages(quick):
    plan = benchmark.plan(benchmark.Config(what="scan"))
    assert plan["device"] == "cpu"
    assert plan["scans_batch_channels_length"] == [
        [1, 64, 51200], [1, 128, 6400], [1, 256, 800], [1, 512, 100]]  # fmt: skip


def test_the_plan_of_the_objectives_names_them_and_the_patches_they_grow_to(quick):
    plan = benchmark.plan(benchmark.Config(what="objectives", patches=1600))
    assert plan["patches_zyx"] == [[4, 5, 5], [4, 10, 10], [4, 20, 20]]
    assert {"mae", "autoregressive", "tokenunify"} <= {*plan["objectives"]}
    assert "affinity" not in plan["objectives"]
    with pytest.raises(ConfigError, match="at least 400"):
        benchmark.plan(benchmark.Config(what="objectives", patches=300))


def test_the_plan_of_memory_names_sizes_stages_and_ranks(quick):
    plan = benchmark.plan(benchmark.Config(what="memory"))
    assert plan["sizes"] == ["atto", "femto", "pico", "nano", "tiny"]
    assert plan["zero"] == [0, 3] and plan["ranks"] == [1, 2]


def test_memory_is_judged_by_the_cell_that_is_farthest_off(quick, capsys, monkeypatch, tmp_path):
    cell = {"size": "atto", "stage": 0, "ranks": 1, "planned": 1.1, "measured": 1.0}
    monkeypatch.setattr(planned, "compare", lambda *_, **__: {"cells": [cell]})
    volume = "synthetic:seed=7,shape=16x160x160"
    config = benchmark.Config(what="memory", out=tmp_path, volume=volume)
    assert benchmark.run(config)["metrics"] == {"targets_met": 1, "targets": 1}
    assert "1.100" in capsys.readouterr().out


def test_scores_are_measured_and_judged_at_the_asked_size_only(quick, capsys, tmp_path):
    assert benchmark.plan(benchmark.Config(what="scores"))["labels"] == [100, 1024, 1024]
    words = ["scores", "--labels", "8,40,60", "--repeats", "1", "--out", str(tmp_path)]
    assert main("benchmark", words) == 0
    result = json.loads((tmp_path / "scores.json").read_text())
    assert result["metrics"] == {} and len(result["findings"]) == 3
    assert "scikit-image / ours" in capsys.readouterr().out


def test_a_gpu_that_is_not_there_is_an_error_of_the_host(quick):
    with pytest.raises(HostError, match="no CUDA device"):
        benchmark.plan(benchmark.Config(what="step", device="cuda"))


def test_the_scan_is_measured_and_written(quick, capsys, tmp_path):
    assert main("benchmark", ["scan", *SMALL, "--threads", "1", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "scan.json").read_text())
    measured = result["measured"]
    shapes = [(row["channels"], row["length"]) for row in measured["floors"]]
    assert shapes == [(8, 1024), (16, 128), (32, 16), (64, 2), (8, 24)]
    short, long = measured["baselines"]
    assert list(short["seconds"]) == ["ours", "per-step loop", "parallel scan"]
    assert list(long["seconds"]) == ["ours", "parallel scan"] and long["length"] == 1024
    assert result["threads"] == 1 and result["environment"]["scan"]["backend"] == "cpu"
    out = capsys.readouterr().out
    assert "(1, 8, 1024)" in out and "per-step loop / ours at (1, 8, 24)" in out


def test_a_step_is_measured_written_and_drawn(quick, capsys, tmp_path):
    before = torch.get_num_threads()
    assert main("benchmark", ["step", *SMALL, "--threads", "1", "--out", str(tmp_path)]) == 0
    assert torch.get_num_threads() == before
    result = json.loads((tmp_path / "step.json").read_text())
    for step in result["measured"]["steps"].values():
        assert list(step["breakdown"]) == [*KINDS, OTHER]
        assert step["breakdown"]["scan"] > 0 and step["breakdown"]["conv3d"] > 0
        assert sum(row["count"] for row in step["mamba"]) == 8
        assert {row["shape"][1] for row in step["mamba"]} == {4, 8, 16, 32}
        assert all(row["products"] > 0 for row in step["mamba"])
        assert sum(row["count"] for row in step["convolutions"]) > 40
    assert imread(tmp_path / "step.png").shape[1] > 1000
    out = capsys.readouterr().out
    assert "training step in fp32" in out and "Mamba layers in bf16" in out


def test_objectives_are_measured_written_and_drawn(quick, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(growth, "_peak", lambda way, given, device: given.patches)
    words = ["--size", "atto", "--crop", "16,32,32", "--patches", "400", "--repeats", "1"]
    assert main("benchmark", ["objectives", *words, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "objectives.json").read_text())
    measured = result["measured"]
    assert list(measured["steps"]) == benchmark.plan(benchmark.Config(what="objectives"))[
        "objectives"]  # fmt: skip
    assert [size["patches"] for size in measured["growth"]["sizes"]] == [100, 400]
    assert list(measured["growth"]["ways"]) == list(growth.WAYS)
    assert result["metrics"] == {} and len(result["findings"]) == 5
    assert imread(tmp_path / "cost.png").shape[1] > 1000
    out = capsys.readouterr().out
    assert "benchmark objectives of emmamba_atto" in out and "step of tokenunify / of mae" in out


def test_on_a_gpu_a_step_is_held_against_the_devices_peak(quick, capsys, monkeypatch, tmp_path):
    """Without a GPU: what is moved there stays here."""
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *shape, device: rand(*shape))
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(benchmark, "_device", lambda config: "cuda")
    assert main("benchmark", ["step", *SMALL, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "step.json").read_text())
    steps = result["measured"]["steps"]
    assert list(steps) == ["fp32", "bf16"] and result["device"] == "NVIDIA H100 80GB HBM3"
    with torch.device("meta"):
        model = build_model("emmamba_atto", out_channels=1)
    forward = 2e9 * cost(model, crop=(16, 16, 32)).gmac
    assert [step["flop"] for step in steps.values()] == [3 * forward] * 2
    out = capsys.readouterr().out
    assert out.count("TFLOP/s, MFU") == 2 and "PASS" not in out


def test_targets_are_judged_only_at_the_sizes_they_are_for(quick, capsys, monkeypatch, tmp_path):
    findings = [Finding("x", 2.0, "floor"), Finding("y", 3.0, "floor")]
    monkeypatch.setattr(benchmark, "_scan", lambda config: ({}, "text", findings))

    def result(**changes):
        return benchmark.run(benchmark.Config(what="scan", out=tmp_path, **changes))

    asked = result()
    assert [finding["met"] for finding in asked["findings"]] == [True, False]
    assert asked["metrics"] == {"targets_met": 1, "targets": 2}
    assert "PASS" in capsys.readouterr().out
    other = result(crop=(16, 32, 32))
    assert [finding["met"] for finding in other["findings"]] == [None, None]
    assert other["metrics"] == {}
    out = capsys.readouterr().out
    assert "PASS" not in out and "2.00" in out


def gpu_check(folder, **environment):
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "gpu_check.sh")], capture_output=True, text=True,
        env={**os.environ, **environment}, cwd=folder, timeout=60)  # fmt: skip


def test_the_gpu_check_is_a_correct_script():
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / "gpu_check.sh")], check=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_the_check_names_what_is_missing_and_ends_with_3(tmp_path):
    done = gpu_check(tmp_path, PYTHON=sys.executable)
    assert done.returncode == 3 and done.stdout == ""
    assert "error: this machine lacks" in done.stderr and "a CUDA device" in done.stderr


def test_without_python_the_check_says_so(tmp_path):
    done = gpu_check(tmp_path, PYTHON="no-such-python")
    assert done.returncode == 3 and "no-such-python" in done.stderr
