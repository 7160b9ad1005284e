"""Child processes that never outlive their study: groups, signals, and the lock on the folder."""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from tokenunify_scale.config import HostError
from tokenunify_scale.train.ranks import EXPECT

Sharing = Literal["alone", "together"]
LOCK = ".lock"  # of a study's folder
POLL = 0.1  # seconds between looks
PR_SET_PDEATHSIG = 1  # prctl: the signal that a process gets when its parent dies
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", EXPECT)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start(
    words: Sequence[str], *, log: Path, threads: int | None, locks: Sequence[int] = ()
) -> subprocess.Popen:
    """Start a command in its own process group.

    Args:
        words: the command and its arguments.
        log: file its output is appended to, after a line that tells the command.
        threads: threads it may use; None leaves that to the environment.
        locks: file descriptors of locks, kept open by the child as long as it lives.
    """
    with log.open("a") as file:
        file.write(f"$ {' '.join(words)}\n")
        file.flush()
        return subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment(threads),
            start_new_session=True,
            pass_fds=tuple(locks),
            preexec_fn=_follow_parent(),
        )


def _environment(threads: int | None) -> dict[str, str]:
    """A child's environment: its share of the cores, a live log, and no launcher's ranks."""
    inherited = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    share = {name: str(threads) for name in THREADS} if threads else {}
    return {**inherited, **share, "PYTHONUNBUFFERED": "1"}


def _follow_parent() -> Callable[[], None] | None:
    """What a child does first: ask to be ended should this process be killed outright (Linux)."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def follow() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return follow


def signal_group(process: subprocess.Popen, number: int) -> None:
    """Send a signal to all that is left of a child's process group."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # the whole group has ended


def end_groups(
    processes: Sequence[subprocess.Popen], *, grace: float, hurry: Callable[[], bool]
) -> None:
    """End process groups: SIGTERM, and SIGKILL after ``grace`` seconds or once ``hurry()``."""
    for process in processes:
        signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while any(process.poll() is None for process in processes):
        if time.monotonic() > deadline or hurry():
            break
        time.sleep(POLL)
    for process in processes:
        signal_group(process, signal.SIGKILL)
        process.wait()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP in a list, in place of being ended by them.

    Signals that are ignored, as under nohup, stay so. Outside the main thread, where Python sets no
    handlers, the list stays empty.
    """
    received: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if main else ()
    numbers = tuple(n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN)
    before = {n: signal.signal(n, lambda number, _: received.append(number)) for n in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def hold(folder: Path, *, patience: float, sharing: Sharing = "alone") -> Iterator[int]:
    """Lock a folder; yields the lock's file descriptor.

    Children that inherit it hold the lock too, so this also waits for jobs whose study was killed.

    Args:
        folder: made if it is missing.
        patience: seconds to wait for others.
        sharing: ``together``: with others that say so too, each of whom runs jobs of its own.

    Raises:
        HostError: another process holds the folder for longer than ``patience`` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = take(folder / LOCK, patience=patience, sharing=sharing)
    if lock is None:
        raise HostError(f"{folder}: another run of this study goes on")
    with lock:
        os.utime(folder / LOCK)  # when this run began
        yield lock.fileno()


def take(file: Path, *, patience: float, sharing: Sharing = "alone") -> IO[str] | None:
    """Lock a file, made if it is missing; to close what is returned lets go, but for children.

    Returns:
        None if another process held it for all of ``patience`` seconds.

    Raises:
        HostError: the file system has no locks.
    """
    how = fcntl.LOCK_EX if sharing == "alone" else fcntl.LOCK_SH
    deadline, lock = time.monotonic() + patience, file.open("a+")
    while True:
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                return None
            time.sleep(POLL)
        except OSError as error:
            lock.close()
            raise HostError(
                f"{file} cannot be locked ({error.strerror}): give the study a folder on a file "
                "system with locks (Lustre: mounted with flock)"
            ) from None


def is_held(file: Path) -> bool:
    """Whether another process holds a lock; False where the file is not there."""
    if not file.is_file():
        return False
    lock = take(file, patience=-1.0, sharing="together")
    if lock is None:
        return True
    lock.close()
    return False


def tail(log: Path, *, start: int, lines: int) -> str:
    """The last lines of a log, from byte ``start`` on."""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])
