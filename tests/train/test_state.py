import json
import os

import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.train.runlog import RunFolder
from tokenunify_scale.train.state import patience, read_state, resumes_at, runs_in

NOW = 1_800_000_000.0
CONFIG = {"steps": 100, "model": {"name": "emmamba_atto"}, "objective": {"name": "mae"}}


def run_folder(path, *, lines=(), age=5.0, config=CONFIG):
    """A run whose last sign of life is ``age`` seconds old."""
    run = RunFolder.create(path, verb="pretrain", config=config, environment={"world": 2})
    for line in lines:
        run.log(**line)
    for name in ("config.yaml", "environment.json", "metrics.jsonl"):
        if (path / name).exists():
            os.utime(path / name, (NOW - age, NOW - age))
    return run


def lines(*steps, gap=10.0):
    return [
        {"step": step, "time": number * gap, "loss": 1 / step, "crops_per_s": 2.0, "lr": 0.1,
         "weight_next": 0.5, "seconds_left": 60.0}
        for number, step in enumerate(steps)
    ]  # fmt: skip


def test_a_run_that_was_heard_of_lately_runs(tmp_path):
    before = [{"step": 0, "held_out_loss": 2.0}]
    after = [{"step": 20, "loss": 0.04, "held_out_loss": 1.5}]
    run_folder(tmp_path, lines=[*before, *lines(5, 10), *after, *lines(25)])
    state = read_state(tmp_path, now=NOW)
    assert state.state == "running" and state.began == state.heard == NOW - 5
    assert (state.verb, state.model, state.objective) == ("pretrain", "emmamba_atto", "mae")
    assert (state.step, state.steps, state.world) == (25, 100, 2)
    assert state.seconds_left == 55.0, "five seconds have passed since it was written"
    assert state.losses == [0.2, 0.1, 0.04, 0.04]
    assert state.first == {"step": 5, "loss": 0.2} and state.last == {"step": 25, "loss": 0.04}
    assert state.held_out_first == {"step": 0, "held_out_loss": 2.0}
    assert state.held_out == {"step": 20, "held_out_loss": 1.5}
    assert state.rates["crops_per_s"] == 2.0 and state.rates["weight_next"] == 0.5
    assert state.checkpoint is state.saved is resumes_at(state) is None


def test_how_long_silence_is_nothing_unusual_depends_on_how_often_it_writes():
    assert patience([]) == patience([{"step": 1}]) == 600
    assert patience(lines(1, 2, 3)) == 120
    assert patience(lines(1, 2, 3, gap=100.0)) == 400


def test_a_run_that_does_not_write_any_more_is_silent(tmp_path):
    run_folder(tmp_path, lines=lines(1, 2, 3), age=119)
    assert read_state(tmp_path, now=NOW).state == "running"
    state = read_state(tmp_path, now=NOW + 2)
    assert state.state == "silent" and state.seconds_left is None


@pytest.mark.parametrize(
    "code, word", [(75, "stopped"), (130, "stopped"), (4, "failed"), (1, "failed")]
)
def test_a_run_that_said_why_it_ended_is_stopped_or_failed(tmp_path, code, word):
    run_folder(tmp_path, lines=lines(3), age=1e6)
    message = "SIGTERM" + (": stopped after step 3" if word == "stopped" else "")
    ended = {"kind": "Stopped", "message": message, "exit_code": code, "step": 3}
    (tmp_path / "ended.json").write_text(json.dumps(ended))
    state = read_state(tmp_path, now=NOW)
    assert state.state == word and state.reason == f"SIGTERM (exit code {code})"


def test_a_finished_run_is_finished_however_long_ago(tmp_path):
    run = run_folder(tmp_path, lines=lines(100), age=1e6)
    run.finish(metrics={"loss": 0.5})
    state = read_state(tmp_path, now=NOW)
    assert state.state == "finished" and state.finished and state.metrics == {"loss": 0.5}


def test_what_a_resume_starts_from_and_its_age(tmp_path):
    run_folder(tmp_path, lines=lines(30))
    (tmp_path / "latest").write_text("step-00000020\n")
    state = read_state(tmp_path, now=NOW)
    assert state.checkpoint == "step-00000020" and state.saved is None, "its folder is missing"
    folder = tmp_path / "checkpoints" / "step-00000020"
    folder.mkdir(parents=True)
    os.utime(folder, (NOW - 60, NOW - 60))
    state = read_state(tmp_path, now=NOW)
    assert state.saved == NOW - 60 and resumes_at(state) == 20


def test_a_verb_that_does_not_train_has_no_steps(tmp_path):
    run_folder(tmp_path, config={"model": "runs/finetune", "volume": "a.h5"})
    state = read_state(tmp_path, now=NOW)
    assert state.model == "runs/finetune" and state.objective is state.steps is state.step is None


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "result.json", "ended.json"])
def test_a_damaged_file_is_told_in_the_state(tmp_path, name):
    run_folder(tmp_path)
    (tmp_path / name).write_text("{")
    state = read_state(tmp_path, now=NOW)
    assert state.state == "unreadable" and name in state.reason


def test_runs_below_a_folder_are_found_but_not_looked_into(tmp_path):
    for name in ("study/pretrain/b", "study/pretrain/a", "study/prepare/data"):
        run_folder(tmp_path / name)
    (tmp_path / "study/pretrain/a/checkpoints").mkdir()
    (tmp_path / "study/pretrain/a/checkpoints/config.yaml").write_text("")
    found = [str(path.relative_to(tmp_path)) for path in runs_in(tmp_path)]
    assert found == ["study/prepare/data", "study/pretrain/a", "study/pretrain/b"]
    assert runs_in(tmp_path / "study/pretrain/a") == [tmp_path / "study/pretrain/a"]


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no run folder: it has no config.yaml"):
        runs_in(tmp_path)
    with pytest.raises(ConfigError, match="no_such is no folder"):
        runs_in(tmp_path / "no_such")
