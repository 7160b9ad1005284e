"""A folder that one job at a time writes to; of a job that came to nothing, nothing stays."""

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.data.team import Team
from tokenunify_scale.train.runlog import RunFolder

LOCK = ".lock"
VERB = "prepare"


@contextmanager
def writing_to(folder: Path, *, results: str) -> Iterator[None]:
    """Make a folder and hold its lock; on failure remove what is new, unless a result is finished.

    What was in the folder before stays, whatever happens; and with one finished result, all that a
    later call needs to go on.

    Args:
        folder: where to write; missing parents are made too.
        results: pattern of the names that results have when they are finished.

    Raises:
        ConfigError: something of that name is no folder.
        HostError: another process writes to it, or it cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; choose another --out")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    before: set[Path] = set() if made else set(folder.iterdir())
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder)
    except HostError:
        _remove_empty(made)
        raise
    try:
        yield
    except BaseException:
        if not any(folder.glob(results)):
            for path in folder.iterdir():
                if path not in before and path.name != LOCK and path.is_file():
                    path.unlink(missing_ok=True)
        raise
    finally:
        if lock is not None:
            # In this order: who opened the file before it goes sees that it is no longer there.
            (folder / LOCK).unlink(missing_ok=True)
            os.close(lock)
        _remove_empty(made)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """What the system says against writing to a folder, as one line; no half-written text stays.

    Raises:
        HostError: the disk is full, or not writable.
    """
    try:
        yield
    except OSError as error:
        for rest in folder.glob(f".*.{os.getpid()}.tmp"):
            rest.unlink(missing_ok=True)
        if error.errno is None:  # a library's own, from reading a sample
            raise
        raise HostError(f"cannot write {error.filename or folder}: {error.strerror}") from error


@contextmanager
def run_folder(
    folder: Path, *, config: dict[str, Any], results: str, team: Team
) -> Iterator[RunFolder]:
    """The run folder of ``prepare``, while this job alone writes to it.

    Args:
        folder: where to write.
        config: what was asked for, as plain data.
        results: as in ``writing_to``.
        team: the processes of the job; all of them call this.

    Raises:
        ConfigError: it belongs to another verb, or is no folder.
        HostError: as ``writing_to``.
    """
    with ExitStack() as stack:
        run = RunFolder(folder, VERB, team.rank)
        with team.together():
            if team.leads:
                stack.enter_context(writing_to(folder, results=results))
                with disk_errors(folder):
                    run = RunFolder.create(folder, verb=VERB, config=config)
        yield run


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside ``path``, of the same suffix: what is written there gets its name at the end.

    Raises:
        HostError: as ``disk_errors``.
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with disk_errors(path.parent):
            yield part
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _lock(folder: Path) -> int | None:
    """The open, locked file; None where the file system has no locks."""
    path = folder / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), path.stat()):
                break
            os.close(file)
        except FileNotFoundError:
            os.close(file)  # its owner has just finished, and removed what we had opened
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            raise HostError(
                f"{folder}: {holder} is writing to it; wait for it, or choose another --out"
            ) from None
        except OSError as error:
            os.close(file)
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            path.unlink(missing_ok=True)
            print(f"{folder} has no file locks: start one job at a time for it", file=sys.stderr)
            return None
    with suppress(OSError):  # on a full disk it stays empty, and locks all the same
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return file


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, as far as they are empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
