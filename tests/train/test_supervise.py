import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tokenunify_scale.train import supervise
from tokenunify_scale.train.launchers import Command
from tokenunify_scale.train.leash import VARIABLE
from tokenunify_scale.train.supervise import Attempt, listening, noting

# Plays a launcher, in a Python without torch: of its words, each plays one rank.
LAUNCHER = """
import os, subprocess, sys, time
ranks = [subprocess.Popen([sys.executable, "-c", os.environ["PLAY"], word, str(number)])
         for number, word in enumerate(sys.argv[2:])]
while sys.argv[1] == "leaves" and len(open(os.environ["PIDS"]).readlines()) < len(ranks):
    time.sleep(0.01)
codes = [rank.wait() for rank in ranks] if sys.argv[1] != "leaves" else []
sys.exit({"mangles": 0, "leaves": 9}.get(sys.argv[1], max(codes, default=0)))
"""
RANK = """
import os, signal, sys, time
from tokenunify_scale.train.leash import take_leash
word, number = sys.argv[1], int(sys.argv[2])
if word == "absent":
    sys.exit(4)
noted = []
if word != "deaf":
    signal.signal(signal.SIGUSR2, lambda *_: noted.append(1))
leash = take_leash(os.environ, rank=number)
with open(os.environ["PIDS"], "a") as file:
    file.write(f"{os.getpid()}\\n")
while word in ("waits", "deaf", "stops") and not noted:
    time.sleep(0.01)
if word == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
code = 75 if noted else int(word) if word.isdigit() else 0
leash.tell(code)
sys.exit(code)
"""


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Play a job: how the launcher behaves, and each rank; the outcome, and that nothing stays."""
    monkeypatch.setattr(supervise, "SETTLE", 1.0)
    monkeypatch.setattr(supervise, "END_SECONDS", 2.0)
    pids = tmp_path / "pids"
    pids.touch()

    def run(launcher, *ranks, asked=(), at=None, grace=20.0, world=None):
        asked = list(asked)
        with listening("127.0.0.1") as door:
            attempt = Attempt(
                door, world=world or len(ranks), address="127.0.0.1", grace=grace, asked=asked
            )
            environment = {**os.environ, "PLAY": RANK, "PIDS": str(pids)}
            environment[VARIABLE] = attempt.hold.text()
            words = (sys.executable, "-c", LAUNCHER, launcher, *ranks)
            if at:
                timer = threading.Thread(target=_when_there, args=(pids, len(ranks), asked, at))
                timer.start()
            outcome = attempt.run([Command(words, environment, "the launcher")])
        until = time.monotonic() + 5
        while left := [pid for pid in pids.read_text().split() if runs(pid)]:
            assert time.monotonic() < until, left
            time.sleep(0.01)
        pids.write_text("")
        return outcome

    return run


def _when_there(pids, count, asked, signals):
    while len(pids.read_text().split()) < count:
        time.sleep(0.01)
    asked.extend(signals)


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_all_ranks_done_is_done_whatever_the_launcher_makes_of_it(play):
    assert play("honest", "0", "0").kind == "done"
    assert play("leaves", "0", "0").kind == "done"


def test_an_exit_code_that_a_rank_tells_passes_through_any_launcher(play):
    outcome = play("mangles", "5", "5")
    assert (outcome.kind, outcome.code) == ("refused", 5)
    assert play("honest", "absent", "absent").kind == "refused", "told by the launcher alone"
    assert play("mangles", "1", "waits").kind == "crashed"


def test_a_rank_that_dies_is_named_and_the_others_are_ended(play):
    outcome = play("honest", "waits", "dies")
    assert outcome.kind == "crashed" and "rank 1 (" in outcome.why and "lost" in outcome.why


def test_ranks_that_a_launcher_left_behind_are_ended(play):
    outcome = play("leaves", "waits", "waits")
    assert outcome.kind == "crashed" and "the launcher ended with exit code 9" in outcome.why


def test_a_launcher_that_ends_well_without_its_ranks_has_crashed(play):
    outcome = play("mangles", "0", "0", world=3)
    assert outcome.kind == "crashed" and "2 of 3 ranks said that they are done" in outcome.why


def test_a_signal_is_passed_on_once_and_the_save_awaited(play):
    outcome = play("honest", "stops", "stops", at=[signal.SIGUSR2])
    assert outcome == supervise.Outcome("stopped", 75, "stopped by SIGUSR2")
    early = play("honest", "stops", "stops", asked=[signal.SIGUSR2])
    assert early.kind == "stopped", "also by ranks that come after it"


def test_who_does_not_stop_within_the_grace_time_or_is_asked_twice_is_ended(play):
    late = play("honest", "waits", at=[signal.SIGTERM], grace=0.5)
    assert late.kind == "stopped" and late.why == "stopped by SIGTERM, without a save"
    began = time.monotonic()
    asked_twice = play("honest", "deaf", at=[signal.SIGINT, signal.SIGINT], grace=60)
    assert asked_twice.kind == "stopped" and time.monotonic() - began < 20


def test_ranks_that_stop_unasked_have_stopped(play, tmp_path):
    assert play("honest", "75", "75").kind == "stopped"


def test_a_stranger_at_the_door_is_sent_away(play, monkeypatch):
    monkeypatch.setattr(supervise.secrets, "token_hex", lambda count: "new")
    begin = supervise._start

    def with_stranger(command):
        process = begin(command)
        port = int(command.environment[VARIABLE].split(",")[1])
        told = supervise.socket.create_connection(("127.0.0.1", port))
        told.sendall(b"old 0 node 1\nexit 5\n")
        monkeypatch.setattr(supervise, "stranger", told, raising=False)
        return process

    monkeypatch.setattr(supervise, "_start", with_stranger)
    assert play("honest", "0").kind == "done"


def test_signals_are_noted_while_a_job_runs_and_then_as_before():
    before = signal.getsignal(signal.SIGUSR2)
    with noting() as asked:
        os.kill(os.getpid(), signal.SIGUSR2)
        while not asked:
            time.sleep(0.01)
    assert asked == [signal.SIGUSR2] and signal.getsignal(signal.SIGUSR2) == before


def test_a_launcher_leads_a_group_of_its_own():
    process = supervise._start(Command(("sleep", "30"), dict(os.environ), "sleep"))
    assert os.getpgid(process.pid) == process.pid
    supervise._signal([process], signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL and isinstance(process, subprocess.Popen)
