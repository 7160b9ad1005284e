import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tokenunify_scale.config import HostError
from tokenunify_scale.train.leash import VARIABLE, Hold, take_leash

# A rank that notes SIGTERM and SIGUSR2, and ends with code 7 once it has.
RANK = """
import os, signal, sys, time
from tokenunify_scale.train.leash import take_leash
noted = []
for each in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(each, lambda number, frame: noted.append(number))
leash = take_leash(os.environ, rank=3)
while not noted or "deaf" in sys.argv:
    time.sleep(0.01)
print(signal.Signals(noted[0]).name)
leash.tell(7)
"""


@pytest.fixture
def door():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        yield listening


@pytest.fixture
def rank(door):
    """Start a rank; its process, and its connection."""
    started = []

    def start(*words, grace=30.0):
        hold = Hold("127.0.0.1", door.getsockname()[1], "secret", grace)
        process = subprocess.Popen(
            [sys.executable, "-c", RANK, *words], env={**os.environ, VARIABLE: hold.text()},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        connection, _ = door.accept()
        connection.settimeout(30)
        started.append(process)
        return process, connection

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_rank_tells_who_it_is_and_how_it_ends_and_gets_signals(rank):
    process, connection = rank()
    text = connection.makefile("r")
    host = socket.gethostname()
    assert text.readline().split() == ["secret", "3", host, str(process.pid)]
    connection.sendall(b"signal SIGUSR2\n")
    assert text.readline() == "exit 7\n"
    assert process.communicate(timeout=30)[0] == "SIGUSR2\n"


def test_a_rank_that_is_told_to_end_ends_at_once(rank):
    process, connection = rank("deaf")
    connection.sendall(b"end\n")
    assert process.wait(30) == -signal.SIGKILL


def test_a_rank_whose_launch_is_gone_stops_with_a_save(rank):
    process, connection = rank()
    connection.close()
    told, errors = process.communicate(timeout=30)
    assert told == "SIGTERM\n" and "launch is gone" in errors


def test_a_rank_that_does_not_stop_in_time_is_killed(rank):
    process, connection = rank("deaf", grace=0.3)
    began = time.monotonic()
    connection.close()
    assert process.wait(30) == -signal.SIGKILL and time.monotonic() - began > 0.25


def test_without_a_launch_there_is_no_leash_and_children_inherit_none(door):
    assert take_leash({}, rank=0) is None
    port = door.getsockname()[1]
    environment = {VARIABLE: Hold("127.0.0.1", port, "secret", 1.0).text()}
    leash = take_leash(environment, rank=0)
    assert environment == {}
    leash.tell(0)
    door.close()
    with pytest.raises(
        HostError, match=f"rank 1 on .* does not reach tokenunify launch at .*{port}"
    ):
        take_leash({VARIABLE: Hold("127.0.0.1", port, "secret", 1.0).text()}, rank=1)
