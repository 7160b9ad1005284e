"""Fixtures of several test files: folders, the command line, tiny runs."""

import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def tokenunify():
    """Run a command line in a process of its own; its exit code and both outputs come back."""

    def call(*words, timeout=300):
        command = [sys.executable, "-m", "tokenunify_scale", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)

    return call


@pytest.fixture(scope="session")
def demo(tmp_path_factory, tokenunify):
    """Tiny synthetic inputs: shards of 8x32x32 crops, and a labelled volume of 16x64x64."""
    folder = tmp_path_factory.mktemp("demo")
    for name, words in {
        "shards": ["--crops", 16, "--crop", "8,32,32", "--per-shard", 8],
        "volume": ["--write", "hdf5"],
    }.items():
        spec = "synthetic:seed=5,shape=16x64x64"
        done = tokenunify("prepare", "--volumes", spec, "--out", folder / name, *words)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def pretrained(demo, tokenunify):
    """A finished pretraining run of atto, six steps long."""
    out = demo / "pretrained"
    done = tokenunify(
        "pretrain", "--size", "atto", "--shards", demo / "shards", "--out", out,
        "--steps", 6, "--global-batch", 2, "--log-every", 1,
        "--set", "objective.patch=[4,8,8]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def finetuned(demo, pretrained, tokenunify):
    """A finished fine-tuning run that starts from ``pretrained``."""
    out, volume = demo / "finetuned", demo / "volume" / "synthetic.h5"
    done = tokenunify(
        "finetune", "--init", pretrained, "--volume", f"{volume}:raw",
        "--labels", f"{volume}:labels", "--crop", "8,32,32", "--out", out,
        "--steps", 6, "--global-batch", 2, "--log-every", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out
