"""Starting ranks, and again: by scripted outcomes, and with real launchers on two CPU ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tokenunify_scale import launch
from tokenunify_scale.cli import main
from tokenunify_scale.config import ConfigError, HostError, Stopped, build
from tokenunify_scale.train.launchers import Places
from tokenunify_scale.train.runlog import read_metrics, read_result
from tokenunify_scale.train.supervise import Outcome

CRASHED = Outcome("crashed", 1, "rank 1 was lost")
DONE = Outcome("done", 0, "")


def config(*words, **options):
    command = words or ("--", "pretrain", "--size", "atto", "--global-batch", "4")
    given = {"ranks": 2, "backoff": 0, **options}
    return build(launch.Config, {"command": list(command), **given}, where="launch")


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """Attempts that end as scripted: an outcome, and the step of the newest save it leaves."""
    worlds = []

    def play(*ends, **options):
        script = iter(ends)

        class Attempt:
            hold = type("Hold", (), {"text": lambda self: "leash"})()

            def __init__(self, door, *, world, address, grace, asked):
                worlds.append(world)

            def run(self, commands):
                outcome, step = next(script)
                if "SIGTERM" in outcome.why:
                    os.kill(os.getpid(), signal.SIGTERM)
                (tmp_path / "run" / "checkpoints" / f"step-{step:08d}").mkdir(
                    parents=True, exist_ok=True
                )
                return outcome

        monkeypatch.setattr(launch, "Attempt", Attempt)
        words = ["pretrain", "--size", "atto", "--global-batch", "4", "--out", tmp_path / "run"]
        return launch.run(config(*map(str, words), **options))

    play.worlds = worlds
    return play


def test_a_crash_is_answered_by_another_start_from_the_newest_save(scripted, capsys):
    assert scripted((CRASHED, 4), (DONE, 8)) == {}
    assert scripted.worlds == [2, 2]
    line = capsys.readouterr().err
    assert line.startswith("launch: rank 1 was lost") and "start 2 in 0 s" in line
    assert "the save of step 4" in line


def test_crashes_without_progress_end_it_and_a_newer_save_begins_a_new_row(scripted):
    with pytest.raises(launch.JobFailed, match="2 crashes in a row.*the save of step 4") as caught:
        scripted((CRASHED, 4), (CRASHED, 4), max_restarts=1)
    assert caught.value.exit_code == 1 and len(scripted.worlds) == 2
    assert scripted(*[(CRASHED, step) for step in range(10, 16)], (DONE, 16), max_restarts=1) == {}


@pytest.mark.parametrize("code", [2, 3, 4, 5])
def test_what_ranks_refuse_is_not_tried_again_and_its_code_stays(code, scripted):
    with pytest.raises(launch.JobFailed, match="rank 0 said so") as caught:
        scripted((Outcome("refused", code, "rank 0 said so"), 1))
    assert caught.value.exit_code == code and len(scripted.worlds) == 1


def test_a_stop_that_was_not_asked_for_here_is_followed_by_another_start(scripted):
    stopped = Outcome("stopped", 75, "rank 0 was told to stop")
    assert scripted((stopped, 1), (DONE, 2)) == {}
    with pytest.raises(Stopped) as caught:
        scripted((stopped, 3), max_restarts=0)
    assert caught.value.exit_code == 75


def test_a_signal_to_it_ends_it_and_the_same_command_goes_on(scripted):
    stopped = Outcome("stopped", 75, "stopped by SIGTERM")
    with pytest.raises(Stopped, match="stopped by SIGTERM; .*goes on from the save of step 5"):
        scripted((stopped, 5))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """A hostfile of two hosts of two ranks, and what asking them finds, in turn."""
    path = tmp_path / "hosts"
    path.write_text("a slots=2\nb slots=2\n")
    found = []
    monkeypatch.setattr(launch, "ask", lambda slots, *, timeout: found.pop(0))
    monkeypatch.setattr(launch, "own_address", lambda other: "127.0.0.1")
    whole, half = {"a": 2, "b": 2}, {"a": 2}
    found += [(whole, "10.0.0.1", []), (half, "10.0.0.1", ["b (ssh: no route to host)"])]
    found += [({}, "", ["a (silent)", "b (silent)"]), (whole, "10.0.0.1", [])]
    return {"hostfile": path, "ranks": None}


def test_lost_hosts_are_left_out_until_they_are_back(hosts, scripted, capsys):
    ends = [(CRASHED, 2), (CRASHED, 2), (DONE, 8)]
    assert scripted(*ends, **hosts) == {}
    assert scripted.worlds == [4, 2, 4], "the third time nobody answers, which counts as a crash"
    told = capsys.readouterr().err
    assert "2 of 4 ranks go on (lost: b (ssh: no route to host)): a slots=2" in told
    assert "0 of 4 ranks are left" in told


def test_with_fewer_ranks_than_allowed_it_waits_for_the_others(hosts, scripted):
    with pytest.raises(launch.JobFailed, match="2 of 4 ranks are left, min_ranks is 3") as caught:
        scripted((CRASHED, 2), min_ranks=3, max_restarts=1, **hosts)
    assert caught.value.exit_code == 3


def test_at_the_first_start_all_hosts_must_be_there(hosts, monkeypatch):
    lost = ["b (ssh: no route to host)"]
    monkeypatch.setattr(launch, "ask", lambda slots, *, timeout: ({"a": 2}, "10.0.0.1", lost))
    with pytest.raises(HostError, match="b .ssh: no route to host.*tokenunify doctor --hostfile"):
        launch.run(config(**hosts))


def test_fewer_ranks_share_what_is_measured_too():
    words = ["pretrain", "--size", "atto", "--global-batch", "12", "--held-out", "other"]
    job = launch._job(config(*words, "--held-out-crops", "8"))
    assert [world for world in range(1, 13) if job.fits(world)] == [1, 2, 4]


@pytest.mark.parametrize(
    "words, options, message",
    [
        (["predict"], {}, "launch: what"),
        (["--"], {}, "launch: what"),
        (["pretrain", "--size", "hgue"], {}, "did you mean 'emmamba_huge'"),
        (["pretrain", "--dry-run"], {}, "--dry-run starts no ranks"),
        (["pretrain", "--expect-world", "2"], {}, "no --expect-world"),
        (["pretrain", "--global-batch", "3"], {}, "global_batch 3 is not a multiple of 2 ranks"),
        ([], {"ranks": None}, "one of hostfile and ranks"),
        ([], {"hostfile": "hosts"}, "one of hostfile and ranks"),
        ([], {"ranks": 0}, "ranks must be >= 1, got 0"),
        ([], {"grace": 0}, "grace must be > 0"),
        ([], {"ranks": None, "hostfile": "no/hosts"}, "hostfile no/hosts: No such file"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words, options, message):
    with pytest.raises(ConfigError, match=message):
        launch.run(config(*words, **options))


def test_a_plan_shows_the_commands_and_starts_nothing(capsys, tmp_path):
    path = tmp_path / "hosts"
    path.write_text("me@a slots=2\nb slots=2\n")
    words = ["--hostfile", str(path), "--dry-run", "--", "pretrain", "--size", "atto"]
    assert main("launch", words) == 0
    told = capsys.readouterr().out
    assert "ranks: 4" in told and "--node_rank=1" in told and "--master_addr=a" in told
    assert "TOKENUNIFY_EXPECT_WORLD=4" in told and "crops_per_rank" in told


def test_a_batch_script_has_the_same_command_without_slurms_words(capsys, tmp_path):
    file = tmp_path / "job.sbatch"
    words = ["--size", "atto", "--slurm", str(file), "--nodes", "2", "--gpus-per-node=4"]
    words += ["--sbatch=--partition=a100", "--out", "runs/one"]
    assert main("pretrain", words) == 0 and str(file) in capsys.readouterr().out
    text = file.read_text()
    assert "pretrain --size atto --out runs/one\n" in text and "#SBATCH --partition=a100" in text
    assert "TOKENUNIFY_EXPECT_WORLD=8" in text
    assert main("pretrain", ["--slurm", str(file), "--nodes", "0"]) == 2


def processes(out):
    """Of ranks and launchers that have ``out`` among their words."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(out) in (path / "cmdline").read_text():
                found[int(path.name)] = (path / "environ").read_text().split("\0")
    return found


def wait_for(condition, *, seconds=240):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


@pytest.fixture
def start(demo, tmp_path):
    """Launch a training of two ranks and wait for a step; the process, its folder and output."""
    out, told = tmp_path / "run", tmp_path / "told"

    def begin(launcher, *, at=3, steps=10):
        words = ["--ranks", 2, "--launcher", launcher, "--backoff", 0, "--", "pretrain"]
        words += ["--size", "atto", "--shards", demo / "shards", "--global-batch", 2]
        words += ["--steps", steps, "--log-every", 1, "--save-every", 2, "--out", out]
        words += ["--set", "objective.patch=[4,8,8]"]
        command = [sys.executable, "-m", "tokenunify_scale", "launch", *map(str, words)]
        with told.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        wait_for(lambda: process.poll() is not None or any(r["step"] >= at for r in logged(out)))
        return process, out, told

    yield begin
    for pid in processes(out):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def logged(out):
    return read_metrics(out) if out.is_dir() else []


def rank(out, number):
    return next(pid for pid, names in processes(out).items() if f"RANK={number}" in names)


@pytest.mark.slow
def test_a_killed_rank_brings_another_start_that_learns_the_same(start, pretrained):
    process, out, told = start("deepspeed", at=4, steps=6)
    os.kill(rank(out, 1), signal.SIGKILL)
    assert process.wait(240) == 0, told.read_text()
    assert "launch: rank 1 (" in told.read_text() and "was lost" in told.read_text()
    assert read_result(out)["world"] == 2
    alone = [record["loss"] for record in read_metrics(pretrained)]
    assert [record["loss"] for record in read_metrics(out)] == pytest.approx(alone, rel=1e-4)
    assert not processes(out)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
def test_a_stop_is_saved_and_nothing_is_left(launcher, start):
    process, out, told = start(launcher, steps=500)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 75, told.read_text()
    step = max(record["step"] for record in read_metrics(out))
    assert (out / "latest").read_text() == f"step-{step:08d}\n"
    assert json.loads((out / "ended.json").read_text())["exit_code"] == 75
    assert not processes(out)


@pytest.mark.slow
def test_ranks_whose_launch_is_killed_save_and_end(start):
    process, out, _ = start("deepspeed", steps=500)
    process.kill()
    process.wait(30)
    wait_for(lambda: not processes(out), seconds=120)
    step = max(record["step"] for record in read_metrics(out))
    assert (out / "latest").read_text() == f"step-{step:08d}\n"


def test_places_count_their_ranks():
    assert Places({"a": 2, "b": 3}).world == 5 and not Places({"a": 2}).local
