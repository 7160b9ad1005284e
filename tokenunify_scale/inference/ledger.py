"""What of a prediction is written: so that a killed one goes on, and rank 0 knows of the others."""

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenunify_scale.config import ConfigError, DataError, HostError
from tokenunify_scale.train.runlog import write_atomically
from tokenunify_scale.volumes.geometry import Box

QUIET = 1800.0
"""Seconds after which ranks that write nothing are taken for lost."""
TURN = 0.2  # seconds between two looks


@dataclass(frozen=True)
class Mark:
    """How far a task is."""

    until: int
    """The first section that is not written, in the volume."""

    total: float = 0.0
    """Sum of all that is written, to tell the mean."""


class Ledger:
    """A folder with the request, its tasks, and a mark for each task that has begun."""

    def __init__(self, path: Path) -> None:
        """Look at nothing yet; the folder may be missing."""
        self.path = path

    def check(self, request: Mapping[str, Any]) -> bool:
        """Whether this request has begun here.

        Raises:
            ConfigError: another one has; says in what it differs.
            DataError: the ledger is damaged.
        """
        if not (self.path / "plan.json").is_file():
            return False
        before, now = self._plan()["request"], json.loads(json.dumps(request))
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if keys:
            key = keys[0]
            raise ConfigError(
                f"{self.path.parent} holds an unfinished prediction with {key} {before.get(key)}, "
                f"this one has {now.get(key)}: give another --out, or delete the folder"
            )
        return True

    def begin(self, request: Mapping[str, Any], tasks: Sequence[Box]) -> None:
        """Start anew: forget what is there, and write down the tasks."""
        self.forget()
        self.path.mkdir(parents=True)
        plan = {"request": request, "tasks": [[task.start, task.stop] for task in tasks]}
        write_atomically(self.path / "plan.json", json.dumps(plan))

    def tasks(self) -> list[Box]:
        """The tasks that were written down, whatever the ranks were then."""
        return [Box(tuple(a), tuple(b)) for a, b in self._plan()["tasks"]]

    def mark(self, number: int, mark: Mark) -> None:
        """Note how far a task is; what is noted has been written."""
        text = json.dumps({"until": mark.until, "total": mark.total})
        write_atomically(self._file(number), text)

    def read(self, number: int, task: Box) -> Mark:
        """How far a task is; its first section if it has not begun."""
        try:
            return Mark(**json.loads(self._file(number).read_text()))
        except FileNotFoundError:
            return Mark(task.start[0])
        except (ValueError, TypeError) as error:
            raise DataError(f"{self._file(number)}: damaged ({error}): delete it") from None

    def wait(self, tasks: Sequence[Box], *, quiet: float = QUIET) -> float:
        """Wait until all tasks are done, by whichever rank.

        Returns:
            The sum of all that was written.

        Raises:
            HostError: nothing was written for ``quiet`` seconds.
        """
        waiting, known = dict(enumerate(tasks)), {}
        moved = time.monotonic()
        while waiting:
            for number, task in list(waiting.items()):
                mark = self.read(number, task)
                if known.get(number) != mark:
                    known[number], moved = mark, time.monotonic()
                if mark.until >= task.stop[0]:
                    del waiting[number]
            if waiting and time.monotonic() - moved > quiet:
                number, task = next(iter(waiting.items()))
                raise HostError(
                    f"task {number} of {len(tasks)} stands at section {known[number].until} of "
                    f"{task.stop[0]}, and no rank wrote anything for {quiet:.0f} s: end the job "
                    "and start it again, it goes on"
                )
            if waiting:
                time.sleep(TURN)
        return math.fsum(mark.total for mark in known.values())

    def forget(self) -> None:
        """Remove the ledger."""
        if self.path.exists():
            (self.path / "plan.json").unlink(missing_ok=True)  # first: half a ledger is none
            shutil.rmtree(self.path)

    def _file(self, number: int) -> Path:
        return self.path / f"task-{number:06d}.json"

    def _plan(self) -> dict[str, Any]:
        file = self.path / "plan.json"
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise DataError(f"{file}: damaged ({error}): delete the folder") from None
