"""A run folder has one writer: a second job is refused for as long as the first one lives."""

import fcntl
import os
import socket
import sys
import time
from pathlib import Path

from tokenunify_scale.config import HostError

HELD = ".held"
PATIENCE = 120.0  # seconds: a file server lets go of what a lost host held after a minute or two
_mine: dict[Path, int] = {}


def hold(folder: Path, *, patience: float = PATIENCE) -> None:
    """Be the only process that writes to a run, until this process ends, however it does.

    The system lets go of the lock, on other hosts too where the file system is shared. Where it
    knows no locks, nobody is refused.

    Args:
        folder: of the run; it is there.
        patience: seconds to wait for another process to end.

    Raises:
        HostError: another process holds the folder; which.
    """
    path = (folder / HELD).resolve()
    if path in _mine:
        return
    handle, deadline = os.open(path, os.O_RDWR | os.O_CREAT, 0o644), time.monotonic() + patience
    said = False
    while not _lock(handle):
        holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
        if time.monotonic() >= deadline:
            os.close(handle)
            raise HostError(
                f"{folder} is being written by {holder}: end that job first, by ending the "
                "process, or give another --out"
            )
        if not said:
            told = f"{folder} is being written by {holder}: waiting {patience:.0f} s for its end"
            print(told, file=sys.stderr, flush=True)
            said = True
        time.sleep(min(1.0, patience))
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    _mine[path] = handle  # to close it, or any other handle of this file, would be to let go


def _lock(handle: int) -> bool:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # no locks here
        return True
    return True
