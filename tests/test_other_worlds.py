"""A run that goes on with other ranks learns what it would have learned without."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tokenunify_scale.train.runlog import read_metrics, read_result

STEPS = 12
WORDS = ["--size", "atto", "--global-batch", 6, "--steps", STEPS, "--log-every", 1]
WORDS += ["--save-every", 100, "--set", "objective.patch=[4,8,8]"]
# Shares of other sizes round differently, which AdamW makes grow: slowly at a low rate.
WORDS += ["--set", "objective.head=dense", "--set", "optim.lr=1e-4"]


def losses(run):
    return {record["step"]: record["loss"] for record in read_metrics(run)}


def start(words, *, ranks):
    """Processes of a job, as any launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    command = [sys.executable, "-m", "tokenunify_scale", "pretrain", *map(str, words)]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip


def run(words, out, *, ranks, until=STEPS):
    """Train until a step is logged, then let one rank be told to stop; exit codes, and errors."""
    processes = start([*words, "--out", out], ranks=ranks)
    deadline = time.monotonic() + 240
    while until < STEPS and processes[0].poll() is None and time.monotonic() < deadline:
        if out.is_dir() and max(losses(out), default=0) >= until:
            processes[-1].send_signal(signal.SIGTERM)
            break
        time.sleep(0.02)
    try:
        errors = "".join(process.communicate(timeout=240)[1] for process in processes)
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], errors


@pytest.mark.slow
def test_two_ranks_then_one_then_three_learn_what_two_learn(demo, tmp_path):
    words, out = [*WORDS, "--shards", demo / "shards"], tmp_path / "moved"
    assert run([*words, "--zero", 3], tmp_path / "stayed", ranks=2)[0] == [0, 0]
    codes, errors = run([*words, "--zero", 3], out, ranks=2, until=4)
    assert codes == [75, 75], errors
    codes, errors = run([*words, "--zero", 0], out, ranks=1, until=8)
    assert codes == [75], errors
    assert "world 2 -> 1, stage 3 -> 0" in errors
    codes, errors = run([*words, "--zero", 2], out, ranks=3)
    assert codes == [0, 0, 0] and "world 1 -> 3, stage 0 -> 2" in errors, errors
    stayed, moved = losses(tmp_path / "stayed"), losses(out)
    assert list(moved) == list(range(1, STEPS + 1))
    assert moved == pytest.approx(stayed, rel=1e-4)
    assert read_result(out)["world"] == 3 and read_result(out)["crops_seen"] == 6 * STEPS
