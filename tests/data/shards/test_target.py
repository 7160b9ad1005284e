import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.data.shards import target
from tokenunify_scale.data.shards.target import disk_errors, run_folder, whole_file, writing_to
from tokenunify_scale.data.team import Team
from tokenunify_scale.train.runlog import write_atomically

RESULTS = "*.tar"


def test_the_folder_is_made_and_the_lock_is_gone_at_the_end(tmp_path):
    folder = tmp_path / "a" / "b"
    with writing_to(folder, results=RESULTS):
        assert (folder / ".lock").exists()
        (folder / "1.tar").write_text("x")
    assert [path.name for path in folder.iterdir()] == ["1.tar"]


def test_of_a_failure_nothing_stays_not_even_folders_it_made(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ValueError, match="bad"), writing_to(tmp_path / "a" / "b", results=RESULTS):
        (tmp_path / "a" / "b" / "begun").write_text("x")
        raise ValueError("bad")
    with pytest.raises(KeyboardInterrupt), writing_to(tmp_path, results=RESULTS):
        (tmp_path / "begun").write_text("x")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_with_one_result_a_failure_leaves_what_is_needed_to_go_on(tmp_path):
    with pytest.raises(ValueError), writing_to(tmp_path / "a", results=RESULTS):
        (tmp_path / "a" / "1.tar").write_text("x")
        (tmp_path / "a" / "begun").write_text("x")
        raise ValueError
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["1.tar", "begun"]


def test_two_jobs_at_once_are_refused_and_the_first_goes_on(tmp_path):
    with writing_to(tmp_path / "a", results=RESULTS):
        (tmp_path / "a" / "begun").write_text("x")
        with pytest.raises(HostError, match=rf"a: process {os.getpid()} on .* is writing to it"):
            with writing_to(tmp_path / "a", results=RESULTS):
                raise AssertionError
        assert (tmp_path / "a" / "begun").exists() and (tmp_path / "a" / ".lock").exists()
    with writing_to(tmp_path / "a", results=RESULTS):
        pass


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    killed = f"""
import os
from pathlib import Path
from tokenunify_scale.data.shards.target import writing_to
with writing_to(Path({str(tmp_path)!r}), results="*.tar"):
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", killed]).returncode == -9
    assert (tmp_path / ".lock").exists()
    with writing_to(tmp_path, results=RESULTS):
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()
    assert not any(tmp_path.iterdir())


def test_a_lock_that_was_removed_while_it_was_opened_is_not_taken(tmp_path, monkeypatch):
    lock, taken = fcntl.flock, []

    def removed_the_first_time(file, how):
        lock(file, how)
        if not taken:
            (tmp_path / ".lock").unlink()
        taken.append(file)

    monkeypatch.setattr(fcntl, "flock", removed_the_first_time)
    with writing_to(tmp_path, results=RESULTS):
        assert len(taken) == 2 and (tmp_path / ".lock").exists()


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, capsys):
    def none(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with writing_to(tmp_path / "a", results=RESULTS):
        (tmp_path / "a" / "1.tar").write_text("x")
    assert "has no file locks: start one job at a time" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["1.tar"]


def test_what_is_no_folder_or_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file is not a folder; choose another --out"):
        with writing_to(tmp_path / "file", results=RESULTS):
            raise AssertionError
    with pytest.raises(HostError, match="cannot write .*file.*: Not a directory"):
        with writing_to(tmp_path / "file" / "a" / "b", results=RESULTS):
            raise AssertionError

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(target, "_lock", full)
    with pytest.raises(HostError, match="cannot write .*No space left"):
        with writing_to(tmp_path / "a" / "b", results=RESULTS):
            raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_text_that_a_full_disk_cut_off_goes(tmp_path, monkeypatch):
    def full(self, other):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(other))

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(HostError, match="cannot write .*index.json: No space left"):
        with disk_errors(tmp_path):
            write_atomically(tmp_path / "index.json", "{}")
    assert not any(tmp_path.iterdir())


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    (tmp_path / "a.png").write_text("old")
    with pytest.raises(ValueError), whole_file(tmp_path / "a.png") as part:
        part.write_text("new")
        raise ValueError
    assert (tmp_path / "a.png").read_text() == "old"
    with whole_file(tmp_path / "a.png") as part:
        assert part.suffix == ".png" and part.write_text("new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


def test_a_run_folder_says_what_was_asked_for_and_belongs_to_prepare(tmp_path):
    words = {"config": {"crops": 3}, "results": RESULTS, "team": Team()}
    with run_folder(tmp_path / "a", **words) as folder:
        (tmp_path / "a" / "1.tar").write_text("x")
        folder.finish(samples=3)
    assert json.loads((tmp_path / "a" / "result.json").read_text())["samples"] == 3
    facts = json.loads((tmp_path / "a" / "environment.json").read_text())
    assert facts["verb"] == "prepare" and "crops: 3" in (tmp_path / "a/config.yaml").read_text()
    (tmp_path / "a" / "environment.json").write_text('{"verb": "pretrain"}')
    with pytest.raises(ConfigError, match="is a run of pretrain"):
        with run_folder(tmp_path / "a", **words):
            raise AssertionError
