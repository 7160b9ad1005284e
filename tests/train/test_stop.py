import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tokenunify_scale.train.distributed import World
from tokenunify_scale.train.stop import SIGNALS, Stop, name_of

ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(autouse=True)
def ctrl_c_as_in_a_terminal():
    """In the background of a shell, where these tests may run, SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number):
    """A signal to this process, whose handler has run when this returns."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_ends_nothing(number, capfd):
    with Stop(rank=7) as stop:
        assert stop.asked(ALONE) is None
        send(number)
        assert stop.asked(ALONE) == number.name
        assert stop.asked(ALONE) == number.name, "it stays asked"
    told = capfd.readouterr().err
    assert told == f"[rank 7] {number.name}: stopping after this step, with a save\n"


def test_nothing_is_asked_before_a_signal_or_after_it_was_left():
    before = [signal.getsignal(each) for each in SIGNALS]
    with Stop() as stop:
        assert [signal.getsignal(each) for each in SIGNALS] != before
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert stop.asked(ALONE) is None


def test_handlers_are_put_back_after_an_error_too():
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(KeyError), Stop():
        raise KeyError
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_the_second_ctrl_c_is_an_interrupt_at_once():
    with Stop() as stop:
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert stop.asked(ALONE) == "SIGINT"


def test_a_scheduler_that_repeats_itself_is_patiently_noted_once(capfd):
    with Stop() as stop:
        for number in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
            send(number)
        assert stop.asked(ALONE) == "SIGTERM", "the more pressing of both"
    assert len(capfd.readouterr().err.splitlines()) == 2


def test_ctrl_c_stays_ignored_where_it_was():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop() as stop:
            send(signal.SIGINT)
            assert stop.asked(ALONE) is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_votes_can_be_summed_with_other_numbers():
    with Stop() as stop:
        send(signal.SIGUSR2)
        assert stop.votes(torch.device("cpu")).tolist() == [0, 1, 0]
    assert name_of([0.0, 3.0, 1.0]) == "SIGUSR2" and name_of([0, 0, 0]) is None


# Rank 1 of two is told once; both leave the loop at the same step.
TWO = """
import os, signal, sys, time, torch
from torch import distributed as dist
from tokenunify_scale.train.distributed import World
from tokenunify_scale.train.stop import Stop
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
world = World(rank, 2, rank, torch.device("cpu"))
with Stop(rank=rank) as stop:
    for step in range(1000):
        if rank == 1 and step == 5:
            os.kill(os.getpid(), signal.SIGUSR2)
        if name := stop.asked(world):
            break
    began = time.perf_counter()
    for _ in range(100):
        stop.asked(world)
    cost = (time.perf_counter() - began) / 100
print(name, step, cost)
dist.destroy_process_group()
"""


def test_one_rank_that_is_told_is_enough_for_all(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(rank), str(tmp_path / "meet")],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], told
    (name, step, cost), (other, at, _) = (output.split() for output, _ in told)
    assert (name, step) == (other, at) == ("SIGUSR2", "5")
    assert "stopping" not in told[0][1] and "[rank 1] SIGUSR2: stopping" in told[1][1]
    assert float(cost) < 0.05
