"""Run folders as trainings and evaluations leave them, without any training."""

import json

import pytest
import yaml

OPTIM = {
    "lr": 0.002, "weight_decay": 0.05, "betas": [0.9, 0.95], "warmup": 0.05,
    "schedule": "cosine", "final": 0.1, "clip": 1.0,
}  # fmt: skip
TRAINING = {
    "steps": 150, "global_batch": 4, "seed": 4, "strategy": None, "zero": None, "optim": OPTIM,
}  # fmt: skip
ENVIRONMENT = {
    "python": "3.11.7",
    "packages": {"torch": "2.13.0"},
    "git_commit": "abc123",
    "world": 2,
    "scan": {"device": "cpu"},
}
MODEL = {"name": "emmamba_atto", "parameters": 5}
SCORES = {"voi_split": 1.0, "voi_merge": 0.25, "voi": 1.25, "arand": 0.125}
CONVENTION = {"units": "bits", "ignore_label": 0, "ignore_segment": None, "border": "original"}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a folder's records; relative paths count from the test's own folder."""
    monkeypatch.chdir(tmp_path)

    def records(name, verb, *, config=None, result=None, environment=None, metrics=()):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        facts = {"verb": verb, **ENVIRONMENT, **(environment or {})}
        (folder / "config.yaml").write_text(
            yaml.safe_dump({**(config or {}), "out": name}, sort_keys=False)
        )
        (folder / "environment.json").write_text(json.dumps(facts))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
        if result is not None:
            (folder / "result.json").write_text(json.dumps({"verb": verb, **result}))
        return folder

    return records


@pytest.fixture
def finetune(write):
    """Write a fine-tuning; ``done=False`` leaves it unfinished."""

    def run(name="ft", *, done=True, result=None, environment=None, metrics=(), **config):
        config = {
            **TRAINING, "volume": ["a.h5:raw"], "labels": ["a.h5:labels"], "sections": None,
            "init": "random", "load": ["mamba"], "crop": [8, 32, 32],
            "objective": {"name": "affinity", "loss": "bce", "border": 1}, "model": MODEL, **config,
        }  # fmt: skip
        ended = {
            "model": MODEL, "objective": "affinity", "steps": 150, "seconds": 61.4,
            "finished": "2026-01-01T00:01:00+00:00", "crops_seen": 600, **(result or {}),
        }  # fmt: skip
        records = {"result": ended if done else None, "metrics": metrics}
        return write(name, "finetune", config=config, environment=environment, **records)

    return run


@pytest.fixture
def pretrain(write):
    """Write a pretraining."""

    def run(name="pre", **config):
        config = {
            **TRAINING, "steps": 300, "shards": ["s1", "s2"], "crop": None, "model": MODEL,
            "objective": {"name": "mae"}, **config,
        }  # fmt: skip
        ended = {
            "model": MODEL, "objective": "mae", "steps": 300, "seconds": 7200.0,
            "finished": "2026-01-01T02:00:00+00:00", "crops_seen": 1200,
        }  # fmt: skip
        return write(name, "pretrain", config=config, result=ended)

    return run


@pytest.fixture
def evaluate(write):
    """Write an evaluation."""

    def run(name="ev", *, labels="b.h5:labels", box=((0, 0, 0), (4, 8, 8)), **more):
        metrics = more.pop("metrics", SCORES)
        result = {"metrics": metrics, "labels": labels, "convention": CONVENTION, **more}
        result |= {"start": list(box[0]), "stop": list(box[1])} if box else {}
        return write(name, "evaluate", config={"labels": labels}, result=result)

    return run
