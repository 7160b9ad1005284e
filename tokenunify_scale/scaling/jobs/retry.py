"""Every start of a job, noted in its folder, and whether another start may help."""

import dataclasses
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenunify_scale.config import ConfigError, DataError, Stopped
from tokenunify_scale.train.runlog import write_atomically

FILE = "attempts.json"
STOPPED = Stopped.exit_code  # it is saved, and goes on when it is started again
HOPELESS = (ConfigError.exit_code, DataError.exit_code)  # the same request would fail again

Ending = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of a job."""

    began: float
    """Seconds since 1970."""

    host: str
    process: int
    """Of the harness that started it."""

    ended: float | None = None
    """None while it runs, and where nobody was left to see the end."""

    ending: Ending | None = None
    code: int | None = None
    """The exit code; negative: the signal that ended it."""

    @property
    def seconds(self) -> float | None:
        """How long it took, from the start of its process."""
        return None if self.ended is None else self.ended - self.began


def ending_of(code: int, *, finished: bool) -> Ending:
    """How a process ended: a result that is there counts, whatever came after it."""
    if finished:
        return "finished"
    return "stopped" if code == STOPPED else "failed"


def may_help(code: int, *, failures: int, retries: int) -> bool:
    """Whether a job that failed is started again.

    Args:
        code: its exit code.
        failures: of this job under this harness, this one among them.
        retries: starts beyond the first.
    """
    return failures <= retries and code not in HOPELESS


def attempts(folder: Path) -> list[Attempt]:
    """What was noted in a job's folder; nothing where no note is, or none that can be read."""
    try:
        records = json.loads((folder / FILE).read_text())
        return [Attempt(**record) for record in records]
    except (OSError, ValueError, TypeError):  # a note is no reason to refuse the work itself
        return []


def note_start(folder: Path) -> None:
    """Add an attempt that begins now, by this process."""
    new = Attempt(began=round(time.time(), 2), host=socket.gethostname(), process=os.getpid())
    _write(folder, [*attempts(folder), new])


def note_end(folder: Path, *, ending: Ending, code: int) -> None:
    """Say of the last attempt how it ended, now."""
    *before, last = attempts(folder) or [None]
    if last is not None:
        ended = {"ended": round(time.time(), 2), "ending": ending, "code": code}
        _write(folder, [*before, dataclasses.replace(last, **ended)])


def _write(folder: Path, records: list[Attempt]) -> None:
    lines = ",\n ".join(json.dumps(dataclasses.asdict(record)) for record in records)
    write_atomically(folder / FILE, f"[{lines}]\n")
