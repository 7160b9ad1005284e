"""A thread that ends a process in which nothing moves: a hang is never silent, nor for ever.

A rank that is dead, or cut off, leaves the others waiting in a collective, where Python cannot
interrupt them. This thread runs beside them and needs the interpreter for an instant a tick, so it
works as long as the call that hangs releases the interpreter's lock, as those of gloo, NCCL and of
the file system do.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

EXIT_CODE = 3
TICKS = 20  # looks at the clock within the limit
LONGEST_TICK = 1.0  # seconds
REPORT_SECONDS = 5.0  # for the report: stderr may be a pipe that nobody reads
FACTORS: Mapping[str, float] = MappingProxyType(
    {"start": 4.0, "load": 4.0, "first step": 4.0, "save": 4.0}
)
"""Phases that may take longer, in limits: files are written, kernels compiled."""


def to_stderr(line: str) -> None:
    """Write a line past Python's buffers, whose lock a thread that hangs may hold."""
    os.write(2, f"{line}\n".encode())


class Watch:
    """Ends the process when no ``beat`` came for ``limit_seconds``, saying where it stood.

    One line (rank, step, phase, seconds) and the stacks of all threads go to stderr; then the
    process ends with exit code 3 and without cleaning up, which would hang too. The launcher ends
    the ranks beside it; those on other hosts have a watch of their own.

    Time counts only while this process runs: one that was suspended and goes on is not blamed.
    """

    def __init__(
        self, limit_seconds: float, *, rank: int = 0, say: Callable[[str], None] = to_stderr
    ) -> None:
        """Set the limit.

        Args:
            limit_seconds: longest time between two beats, times the phase's factor in ``FACTORS``;
                0 watches nothing.
            rank: who is named.
            say: gets the line.

        Raises:
            ValueError: the limit is negative or no number.
        """
        if not limit_seconds >= 0:
            raise ValueError(f"limit_seconds must be >= 0, got {limit_seconds}")
        self.limit, self.rank, self._say = limit_seconds, rank, say
        self._tick = min(LONGEST_TICK, limit_seconds / TICKS)
        self._at: tuple[int, str] = (0, "start")
        self._left = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watch":
        """Start watching, in phase "start"."""
        if self.limit:
            self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Watch no more."""
        self._left.set()
        if self._thread is not None:
            self._thread.join()

    def beat(self, step: int, phase: str) -> None:
        """Say that something moves, and what comes next; costs less than a microsecond.

        Args:
            step: optimizer steps done.
            phase: what begins now, as "waiting for data", "forward", "save". Ranks that wait for
                another rank's save are in that phase too.
        """
        self._at = (step, phase)  # a new tuple, so that the same step and phase count as well

    def _watch(self) -> None:
        seen, still, looked = self._at, 0.0, time.monotonic()
        while not self._left.wait(self._tick):
            before, looked = looked, time.monotonic()
            now, still = self._at, still + min(looked - before, 2 * self._tick)
            if now is not seen:
                seen, still = now, 0.0
            elif still >= self.limit * FACTORS.get(now[1], 1.0):
                self._end(*now, seconds=still)

    def _end(self, step: int, phase: str, *, seconds: float) -> None:
        line = (
            f"[rank {self.rank}] step {step}, {phase}: nothing has moved for {seconds:.0f} s; "
            f"ending this process (exit code {EXIT_CODE}). Stacks of all threads:"
        )
        report = threading.Thread(target=self._report, args=(line,), daemon=True)
        report.start()
        report.join(REPORT_SECONDS)
        os._exit(EXIT_CODE)

    def _report(self, line: str) -> None:
        try:
            self._say(line)
        finally:
            faulthandler.dump_traceback(file=2, all_threads=True)
            sys.stdout.flush()
