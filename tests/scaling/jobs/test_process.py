import signal
import subprocess
import sys
import time

from tokenunify_scale.scaling.jobs import process

SLEEP = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(60)"]
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True)"
DEAF = [sys.executable, "-S", "-c", f"{DEAF}; time.sleep(60)"]


def start(tmp_path, words, **options):
    child = process.start(words, log=tmp_path / "log.txt", threads=1, **options)
    deadline = time.monotonic() + 10
    while "up" not in (tmp_path / "log.txt").read_text().split("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return child


def test_a_child_leads_a_group_of_its_own_and_ends_when_asked(tmp_path):
    child = start(tmp_path, SLEEP)
    process.end_groups([child], grace=10, hurry=lambda: False)
    assert child.returncode == -signal.SIGTERM


def test_a_child_that_will_not_end_is_ended_after_the_grace(tmp_path):
    child = start(tmp_path, DEAF)
    process.end_groups([child], grace=0.2, hurry=lambda: False)
    assert child.returncode == -signal.SIGKILL


def test_a_second_signal_ends_the_grace(tmp_path):
    child, began = start(tmp_path, DEAF), time.monotonic()
    process.end_groups([child], grace=30, hurry=lambda: True)
    assert child.returncode == -signal.SIGKILL and time.monotonic() - began < 5


def test_signals_are_collected_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with process.stop_signals() as received:
        signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is before


def test_a_child_is_told_nothing_of_a_launcher_around_the_study(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    words = [sys.executable, "-S", "-c", "import os; print(os.environ.get('RANK'), 'rank')"]
    process.start(words, log=tmp_path / "log.txt", threads=None).wait()
    assert (tmp_path / "log.txt").read_text().endswith("None rank\n")


def test_a_child_holds_the_lock_it_inherits(tmp_path):
    with process.hold(tmp_path, patience=0) as lock:
        child = start(tmp_path, SLEEP, locks=[lock])
    try:
        probe = f"import fcntl; fcntl.flock(open({str(tmp_path / '.lock')!r}), 2 | 4)"
        refused = subprocess.run([sys.executable, "-S", "-c", probe], capture_output=True)
        assert b"BlockingIOError" in refused.stderr
    finally:
        process.end_groups([child], grace=10, hurry=lambda: False)
    with process.hold(tmp_path, patience=5):
        pass


def test_tail_gives_the_last_lines_after_a_place(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("old\n" + "".join(f"{n}\n" for n in range(9)))
    assert process.tail(log, start=4, lines=3) == "6\n7\n8"
    assert process.tail(log, start=4, lines=30).split()[0] == "0"


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with process.stop_signals() as received:
            signal.raise_signal(signal.SIGHUP)
        assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_those_who_share_a_folder_keep_out_one_who_would_be_alone(tmp_path):
    with process.hold(tmp_path, patience=0, sharing="together"):
        with process.hold(tmp_path, patience=0, sharing="together"):
            assert process.take(tmp_path / process.LOCK, patience=0.0) is None


def test_a_lock_is_seen_as_held_without_being_taken(tmp_path):
    file = tmp_path / "lock"
    assert not process.is_held(file) and not file.exists()
    with process.take(file, patience=0):
        assert process.is_held(file)
    assert not process.is_held(file)
