"""The real launcher: two CPU ranks, ZeRO-3, gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenunify_scale import load_model
from tokenunify_scale.train.runlog import read_metrics

ROOT = Path(__file__).resolve().parents[1]
WORDS = ["--size", "atto", "--steps", "20", "--global-batch", "2", "--log-every", "1"]
WORDS += ["--set", "objective.patch=[4,8,8]", "--set", "optim.lr=1e-4"]


def launch(*words):
    """Run DeepSpeed's launcher on two ranks in a session of its own, so that none is orphaned."""
    launcher = Path(sys.executable).with_name("deepspeed")
    command = [launcher, "--num_accelerators", "2", "--master_port", "29611", *words]
    path = f"{launcher.parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, text=True, start_new_session=True,
        env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
    return process.returncode, output


@pytest.fixture
def pretrain(tmp_path, tokenunify):
    """Metrics of runs of the same words by name: ``two`` ranks with ZeRO-3, one rank that takes the
    batch in the two ranks' ``parts``, and one that takes it ``whole``."""
    parts = tmp_path / "parts.json"
    parts.write_text('{"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 0}}')
    alone = {"parts": ["--strategy", parts], "whole": ["--strategy", "atto"]}
    # Wider than others': over four voxels of a bottleneck, norms make much of a last bit.
    wide = ["--volumes", "synthetic:seed=5,shape=16x64x64", "--crops", 16, "--crop", "8,32,64"]
    assert tokenunify("prepare", *wide, "--out", tmp_path / "shards").returncode == 0

    def call(*words, names):
        words, found = [*WORDS, "--shards", tmp_path / "shards", *words], {}
        for name in names:
            if name == "two":
                request = ["scripts/pretrain.py", *words, "--zero", "3"]
                code, told = launch(*request, "--out", tmp_path / name)
            else:
                request = ["pretrain", *words, *alone[name], "--zero", 0]
                done = tokenunify(*request, "--out", tmp_path / name)
                code, told = done.returncode, done.stderr
            assert code == 0, told
            found[name] = read_metrics(tmp_path / name)
            assert len(found[name]) == 20
        return found

    return call


def assert_alike(one, other, *, steps, **tolerance):
    """The same terms in the first ``steps`` steps."""
    for a, b in zip(one[:steps], other[:steps], strict=True):
        for term in ("loss", "random", "next", "next_all"):
            assert a[term] == pytest.approx(b[term], **tolerance), (a["step"], term)


@pytest.mark.slow
def test_two_ranks_with_zero_3_learn_what_one_rank_learns(pretrain, tmp_path):
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    runs = pretrain("--set", "objective.head=dense", names=["two", "parts", "whole"])
    assert_alike(runs["two"], runs["parts"], steps=20, rel=1e-6)
    # Other parts round differently, and training makes the difference grow.
    assert_alike(runs["two"], runs["whole"], steps=5, rel=1e-4)
    assert len(list((tmp_path / "two" / "checkpoints").glob("step-*/*optim_states.pt"))) == 2
    assert sum(p.numel() for p in load_model(tmp_path / "two").parameters()) == 477_841
    if before:
        assert set(os.listdir("/dev/shm")) <= before, "shared memory was left behind"


@pytest.mark.slow
def test_a_head_that_reads_features_is_sharded_with_its_network(pretrain):
    # The map that the head reads has further readers, and the sum of their gradients rounds by its
    # order, which ZeRO-3's hooks change: after one step the weights before that map differ, by a
    # rounding, and no others do. Of biases before a norm the gradient is nothing but rounding, to
    # which AdamW gives whole steps: the difference grows from 1e-7 to 1e-5 in these 20 steps.
    runs = pretrain(names=["two", "parts"])
    assert_alike(runs["two"], runs["parts"], steps=2, rel=2e-6)
    assert_alike(runs["two"], runs["parts"], steps=20, rel=1e-4)


@pytest.mark.slow
def test_a_transformer_is_sharded_like_any_other_network(demo, tmp_path, tokenunify):
    volume = demo / "volume" / "synthetic.h5"
    words = ["--model", "unetr", "--volume", f"{volume}:raw", "--labels", f"{volume}:labels"]
    words += ["--crop", "8,32,32", "--steps", "5", "--global-batch", "2", "--log-every", "1"]
    narrow = ("hidden=96", "heads=2", "layers=4", "mlp=192", "positions=sincos")
    for setting in [*(f"model.{option}" for option in narrow), "optim.lr=1e-4"]:
        words += ["--set", setting]
    alone = tokenunify("finetune", *words, "--strategy", "atto", "--out", tmp_path / "one")
    assert alone.returncode == 0, alone.stderr
    sharded = ["--strategy", "atto", "--zero", "3", "--out", tmp_path / "two"]
    code, output = launch("scripts/finetune.py", *words, *sharded)
    assert code == 0, output
    one, two = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert [b["loss"] for b in two] == pytest.approx([a["loss"] for a in one], rel=1e-4)


@pytest.mark.slow
def test_a_wrong_request_ends_all_ranks_at_once(tmp_path):
    code, output = launch("scripts/pretrain.py", *WORDS, "--shards", tmp_path / "none")
    assert code != 0
    errors = [line for line in output.splitlines() if "error: " in line]
    assert 1 <= len(errors) <= 2 and all("no such shard folder" in line for line in errors)
    assert "Traceback" not in output
