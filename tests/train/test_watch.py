import os
import signal
import subprocess
import sys
import time

import pytest

from tokenunify_scale.train.watch import FACTORS, Watch

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(script, *words):
    """A Python process of its own, with ``Watch``, ``time`` and ``os`` imported."""
    head = "import os, sys, time\nfrom tokenunify_scale.train.watch import Watch\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + script, *map(str, words)],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    """Exit code, stdout and stderr; a process that does not end in time is killed."""
    try:
        output, error = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, output, error


def test_a_process_in_which_nothing_moves_ends_with_place_and_stacks():
    script = """
def stuck():
    time.sleep(60)
with Watch(0.3, rank=3) as watch:
    print("on its way")
    watch.beat(41, "forward")
    watch.beat(41, "waiting for data")
    stuck()
"""
    code, output, error = finish(start(script))
    lines = error.splitlines()
    assert code == 3 and output == "on its way\n", error
    assert lines[0].startswith("[rank 3] step 41, waiting for data: nothing has moved for ")
    assert "in stuck" in error and "most recent call first" in error


def test_a_process_that_moves_or_has_left_is_let_alone():
    script = """
with Watch(0.4) as watch:
    for _ in range(20):
        watch.beat(1, "forward")  # the same step and phase are a beat too
        time.sleep(0.05)
time.sleep(0.8)
with Watch(0):
    time.sleep(0.3)
"""
    assert finish(start(script)) == (0, "", "")


def test_a_save_may_take_longer():
    script = """
with Watch(0.5) as watch:
    watch.beat(1, "save")
    time.sleep(1.2)
    print("saved")
    watch.beat(1, "forward")
    time.sleep(60)
"""
    code, output, error = finish(start(script))
    assert code == 3 and output == "saved\n" and "step 1, forward" in error
    assert FACTORS["save"] * 0.5 > 1.2


def test_the_line_goes_where_it_is_wanted_and_a_failing_listener_saves_no_process():
    script = """
def say(line):
    print("heard", line)
    raise OSError("disk full")
with Watch(0.3, say=say) as watch:
    watch.beat(7, "forward")
    time.sleep(60)
"""
    code, output, error = finish(start(script))
    assert code == 3 and output.startswith("heard [rank 0] step 7, forward")
    assert "most recent call first" in error


def test_a_process_that_was_suspended_is_not_blamed():
    script = """
with Watch(0.5) as watch:
    watch.beat(1, "forward")
    print("ready", flush=True)
    sys.stdin.readline()
    time.sleep(0.1)
"""
    head = "import os, sys, time\nfrom tokenunify_scale.train.watch import Watch\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + script], env=ENVIRONMENT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        process.send_signal(signal.SIGCONT)
        _, error = process.communicate("go on\n", timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, error


@pytest.mark.parametrize("limit", [-1.0, float("nan")])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match="limit_seconds must be >= 0"):
        Watch(limit)


# Two ranks sum a number over gloo, step by step, until rank 1 is frozen: its sockets stay open.
TWO = """
import signal, torch
from torch import distributed as dist
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
with Watch(1.0, rank=rank) as watch:
    for step in range(1000):
        if rank == 1 and step == 3:
            os.kill(os.getpid(), signal.SIGSTOP)
        watch.beat(step, "forward")
        print(step, time.time(), flush=True)
        dist.all_reduce(torch.ones(1))
"""


def test_a_rank_that_waits_in_a_collective_for_a_dead_one_ends_in_time(tmp_path):
    other, rank = (start(TWO, number, tmp_path / "meet") for number in (1, 0))
    try:
        code, output, error = finish(rank)
        ended = time.time()
    finally:
        other.kill()
        other.communicate()
    assert code == 3, error
    assert "[rank 0] step 3, forward: nothing has moved for 1 s" in error
    assert "all_reduce" in error, "the stack says in which collective"
    step, since = output.splitlines()[-1].split()
    assert step == "3" and 1.0 <= ended - float(since) < 3.0
