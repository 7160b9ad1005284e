import io
import json

import pytest
import yaml

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.train import runlog
from tokenunify_scale.train.runlog import (
    RunFolder,
    read_metrics,
    read_result,
    track,
    write_atomically,
)


def create(path, **options) -> RunFolder:
    return RunFolder.create(path, verb="pretrain", config={"steps": 3, "optim": {}}, **options)


def test_a_new_run_has_its_request_and_its_environment_and_no_result(tmp_path):
    run = create(tmp_path / "a" / "b", environment={"world": 2})
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == {"steps": 3, "optim": {}}
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["verb"] == "pretrain" and environment["world"] == 2
    assert environment["packages"]["torch"] and environment["python"]
    assert {"command", "platform", "git_commit"} <= environment.keys()
    assert read_result(run.path) is None


def test_the_result_is_there_if_and_only_if_the_run_is_finished(tmp_path):
    run = create(tmp_path)
    run.log(step=1, loss=0.5)
    assert read_result(tmp_path) is None
    record = run.finish(steps=3, metrics={"loss": 0.5})
    assert read_result(tmp_path) == record
    assert record["verb"] == "pretrain" and record["steps"] == 3 and record["seconds"] >= 0
    assert record["finished"].startswith("20")
    create(tmp_path)
    assert read_result(tmp_path) is None


def test_a_repeated_run_keeps_the_metrics_it_may_go_on_from(tmp_path):
    create(tmp_path).log(step=1)
    create(tmp_path).log(step=2)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]


def test_ranks_other_than_0_write_nothing(tmp_path):
    run = create(tmp_path / "run", rank=1)
    run.log(step=1)
    run.rewind(0)
    assert run.finish(steps=1)["steps"] == 1
    assert not (tmp_path / "run").exists()


def test_rewinding_drops_what_will_be_measured_again(tmp_path):
    run = create(tmp_path)
    for step in (10, 20, 30):
        run.log(step=step, loss=1 / step)
    run.rewind(20)
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20]
    run.rewind(0)
    assert read_metrics(tmp_path) == []


def test_a_last_line_cut_short_is_left_out_and_rewinding_removes_it(tmp_path):
    run = create(tmp_path)
    run.log(step=10, loss=1.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    assert read_metrics(tmp_path) == [{"step": 10, "loss": 1.0}]
    run.rewind(10)
    run.log(step=20, loss=0.5)
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20]


def test_damage_in_the_middle_is_an_error_with_its_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(DataError, match="metrics.jsonl:2: not valid JSON"):
        read_metrics(tmp_path)


def test_no_metrics_are_an_empty_list_and_a_damaged_result_is_an_error(tmp_path):
    assert read_metrics(tmp_path) == [] and read_result(tmp_path) is None
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(DataError, match="result.json: not valid JSON"):
        read_result(tmp_path)


def test_an_atomic_write_replaces_the_file_and_leaves_no_other(tmp_path):
    write_atomically(tmp_path / "a.txt", "old")
    write_atomically(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    monkeypatch.setattr(type(path), "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize("enabled", [True, False])
def test_progress_passes_every_item_on(enabled, capsys):
    assert list(track(range(5), description="work", enabled=enabled)) == [0, 1, 2, 3, 4]
    assert list(track(iter("ab"), description="work", total=2, enabled=enabled)) == ["a", "b"]
    assert capsys.readouterr().out == ""


def test_without_a_terminal_progress_is_plain_lines_with_rate_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(runlog, "LINE_SECONDS", 0.0)
    assert list(track(range(3), description="work", unit="crop")) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["work: 1/3", "work: 2/3"]
    assert all("crop/s" in line and "s left" in line for line in lines)
    list(track(iter("ab"), description="endless"))
    assert "endless: 2," in capsys.readouterr().err


def test_on_a_terminal_progress_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        """A text stream that says it is a terminal."""

        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert list(track(range(3), description="work")) == [0, 1, 2]
    assert "work" in terminal.getvalue() and "3/3" in terminal.getvalue()


def test_progress_off_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(runlog, "LINE_SECONDS", 0.0)
    list(track(range(3), description="work", enabled=False))
    assert capsys.readouterr().err == ""


def test_another_verbs_folder_is_not_written_over(tmp_path):
    run = RunFolder.create(tmp_path, verb="pretrain", config={})
    run.finish()
    with pytest.raises(ConfigError, match="is a run of pretrain: give export another --out"):
        RunFolder.create(tmp_path, verb="export", config={})
    assert (tmp_path / "result.json").is_file()


def test_a_checkpoint_of_another_request_is_not_continued(tmp_path):
    config = {"objective": {"name": "mae"}, "log_every": 1}
    options = {"verb": "pretrain", "changeable": ("log_every",)}
    RunFolder.create(tmp_path, config=config, **options)
    RunFolder.create(tmp_path, config={**config, "seed": 1}, **options)  # nothing learned yet
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    RunFolder.create(tmp_path, config={**config, "seed": 1, "log_every": 5}, **options)
    with pytest.raises(ConfigError, match="seed 1, this one has 2"):
        RunFolder.create(tmp_path, config={**config, "seed": 2}, **options)
