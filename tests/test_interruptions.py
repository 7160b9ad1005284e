"""Whatever ends a run, the same command goes on, and learns what it would have learned."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.kill_matrix import WAYS, Bench
from tokenunify_scale.train.runlog import read_metrics, read_result

STEPS = 12


@pytest.fixture(scope="module")
def command(demo):
    """The words of one training, but for its folder."""
    words = ["pretrain", "--size", "atto", "--shards", demo / "shards", "--global-batch", 2]
    words += ["--steps", STEPS, "--log-every", 1, "--save-every", 2]
    return [*words, "--set", "objective.patch=[4,8,8]"]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory, tokenunify):
    """Losses of the training that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert tokenunify(*command, "--out", out).returncode == 0
    return losses(out)


def losses(run):
    return {record["step"]: record["loss"] for record in read_metrics(run)}


def interrupted(command, out, *, at, by):
    """Start the training, send it a signal once it has logged a step, and wait for its end."""
    words = [sys.executable, "-m", "tokenunify_scale", *map(str, command), "--out", str(out)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if out.is_dir() and any(step >= at for step in losses(out)):
            process.send_signal(by)
            break
        time.sleep(0.01)
    _, errors = process.communicate(timeout=240)
    return process.returncode, errors


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_saves_and_ends_with_75(by, command, whole, tmp_path, tokenunify):
    out = tmp_path / "run"
    code, errors = interrupted(command, out, at=3, by=by)
    assert code == 75, errors
    assert f"error: {by.name}: stopped after step" in errors and "Traceback" not in errors
    done = max(losses(out))
    assert (out / "latest").read_text() == f"step-{done:08d}\n" and read_result(out) is None
    assert json.loads((out / "ended.json").read_text())["exit_code"] == 75
    assert tokenunify(*command, "--out", out).returncode == 0
    assert losses(out) == whole


def test_a_run_that_nobody_listens_to_any_more_stops_with_a_save(command, tmp_path):
    # As the ranks of other hosts, when DeepSpeed is told to stop: it ends their connections first.
    out = tmp_path / "run"
    speaking = "from tokenunify_scale.train import runlog; runlog.LINE_SECONDS = 0.0; "
    words = [sys.executable, "-c", f"{speaking}from tokenunify_scale.cli import main; exit(main())"]
    words += [*map(str, command), "--out", str(out)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 240
    while not losses(out) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.stdout.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 75
    assert (out / "latest").read_text() == f"step-{max(losses(out)):08d}\n"


def test_a_killed_run_loses_no_more_than_the_steps_since_its_save(
    command, whole, tmp_path, tokenunify
):
    out = tmp_path / "run"
    for at in (2, 5, 9):
        interrupted(command, out, at=at, by=signal.SIGKILL)
    assert tokenunify(*command, "--out", out).returncode == 0
    assert losses(out) == whole


def test_a_damaged_save_gives_way_to_the_one_before(command, whole, tmp_path, tokenunify):
    out = tmp_path / "run"
    assert tokenunify(*command, "--out", out).returncode == 0
    (out / "result.json").unlink()
    newest = out / "checkpoints" / f"step-{STEPS:08d}"
    states = next(newest.glob("*optim_states.pt"), None) or next(newest.glob("*.pt"))
    content = bytearray(states.read_bytes())
    content[len(content) // 2] ^= 1
    states.write_bytes(content)
    again = tokenunify(*command, "--out", out)
    assert again.returncode == 0, again.stderr
    assert f"step-{STEPS:08d}: {states.name} has checksum" in again.stderr
    assert f"going on from step-{STEPS - 2:08d}" in again.stderr
    assert losses(out) == whole


@pytest.fixture(scope="module")
def two_ranks(demo, tmp_path_factory):
    """Where runs of two ranks are ended, and compared with one that is not."""
    return Bench(tmp_path_factory.mktemp("two-ranks"), demo / "shards", rounds=2)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["sigkill-rank", "sigkill-save"])
def test_two_ranks_end_together_and_go_on_with_the_same_crops_and_losses(way, two_ranks):
    row = WAYS[way](two_ranks)
    assert not row.wrong, f"{row.wrong}\n{row.told}"
