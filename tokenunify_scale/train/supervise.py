"""Start a job's launchers, hear how its ranks end, and leave nothing of it behind."""

import os
import secrets
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Literal

from tokenunify_scale.config import ConfigError, DataError, DivergedError, HostError, Stopped
from tokenunify_scale.train.launchers import Command
from tokenunify_scale.train.leash import Hold, keep_alive
from tokenunify_scale.train.stop import SIGNALS

POLL = 0.2  # seconds
SETTLE = 10.0  # seconds that ranks get to end by themselves, once one of them has failed
START_SECONDS = 900.0  # in which all ranks must have come
END_SECONDS = 5.0  # that launchers get to end after their ranks, and again after SIGTERM
STOPPED = Stopped.exit_code
REFUSED = [kind.exit_code for kind in (ConfigError, HostError, DataError, DivergedError)]


Kind = Literal["done", "stopped", "refused", "crashed"]


@dataclass(frozen=True)
class Outcome:
    """How one start of a job ended."""

    kind: Kind
    code: int
    why: str


@dataclass
class Rank:
    """One connection."""

    connection: socket.socket
    text: str = ""
    name: str = ""
    """Rank, host and process; empty until they were told."""
    code: int | None = None
    open: bool = True

    def send(self, line: str) -> None:
        """Say something to it; it may be gone."""
        with suppress(OSError):
            self.connection.sendall(f"{line}\n".encode())


class Attempt:
    """One start of a job, from its launchers to the end of all that they started.

    What ends it first decides: a rank that tells an exit code other than 0, one whose connection
    ends before it told any, a launcher that fails, or a signal. The others then have some seconds
    to end by themselves; those on other hosts, which no launcher ends, are told to.
    """

    def __init__(
        self, door: socket.socket, *, world: int, address: str, grace: float,
        asked: Sequence[signal.Signals],
    ) -> None:  # fmt: skip
        """Start nothing yet.

        Args:
            door: listens; for connections of ranks.
            world: how many ranks there will be.
            address: at which ranks reach ``door``.
            grace: seconds for a stop with a save.
            asked: signals that this process got, as they come; the first is passed on.
        """
        self._door, self._world, self._asked = door, world, asked
        self.hold = Hold(address, door.getsockname()[1], secrets.token_hex(8), grace)
        """What ranks are told."""
        self._selector = selectors.DefaultSelector()
        self._selector.register(door, selectors.EVENT_READ, None)
        self._ranks: list[Rank] = []
        self._processes: list[tuple[Command, subprocess.Popen]] = []
        self._first: Outcome | None = None
        self._passed_on: signal.Signals | None = None
        self._deadline = float("inf")

    def run(self, commands: Sequence[Command]) -> Outcome:
        """Start the launchers and wait for the end; nothing of the job runs when this returns."""
        late = time.monotonic() + START_SECONDS
        try:
            for command in commands:
                self._processes.append((command, _start(command)))
            while time.monotonic() < self._deadline:
                ended = [process.poll() for _, process in self._processes]
                if not self._hear():
                    self._judge_launchers(ended)
                    if None not in ended and not any(rank.open for rank in self._named()):
                        break
                if time.monotonic() > late and len(self._named()) < self._world:
                    came = f"{len(self._named())} of {self._world} ranks came"
                    self._decide("crashed", 1, f"{came} within {START_SECONDS:.0f} s", patience=0)
                self._pass_on()
        finally:
            self._end()
        return self._outcome()

    def _named(self) -> list[Rank]:
        return [rank for rank in self._ranks if rank.name]

    def _hear(self) -> bool:
        """Take what ranks say within a moment; whether there was anything."""
        events = self._selector.select(POLL)
        for key, _ in events:
            if key.data is None:
                connection, _ = self._door.accept()
                keep_alive(connection)
                rank = Rank(connection)
                self._selector.register(connection, selectors.EVENT_READ, rank)
                self._ranks.append(rank)
            else:
                self._take(key.data)
        return bool(events)

    def _take(self, rank: Rank) -> None:
        try:
            received = rank.connection.recv(4096)
        except OSError:
            received = b""
        *lines, rank.text = (rank.text + received.decode(errors="replace")).split("\n")
        for line in lines:
            self._read(rank, line.split())
        if not received:
            self._drop(rank)
            if rank.name and rank.code is None:
                self._decide("crashed", 1, f"{rank.name} was lost", patience=SETTLE)

    def _read(self, rank: Rank, words: list[str]) -> None:
        if not rank.name:
            if len(words) != 4 or words[0] != self.hold.token:
                self._drop(rank)  # a rank of an earlier start, or a stranger
                return
            rank.name = f"rank {words[1]} ({words[2]}, process {words[3]})"
            if self._passed_on:
                rank.send(f"signal {self._passed_on.name}")
            return
        rank.code = int(words[1])
        if rank.code == STOPPED:
            why = f"{rank.name} was told to stop"
            self._decide("stopped", STOPPED, why, patience=self.hold.grace)
        elif rank.code:
            kind = "refused" if rank.code in REFUSED else "crashed"
            why = f"{rank.name} ended with exit code {rank.code}"
            self._decide(kind, rank.code, why, patience=SETTLE)
        if all(r.code is not None for r in self._named()) and len(self._named()) == self._world:
            self._hurry(SETTLE)

    def _drop(self, rank: Rank) -> None:
        if rank.open:
            self._selector.unregister(rank.connection)
            rank.connection.close()
            rank.open = False

    def _judge_launchers(self, codes: Sequence[int | None]) -> None:
        """A launcher that failed, where no rank said anything else."""
        for (command, _), code in zip(self._processes, codes, strict=True):
            if code:
                kind = "refused" if code in REFUSED else "crashed"
                why = f"{command.name} ended with exit code {code}"
                self._decide(kind, code if code > 0 else 1, why, patience=SETTLE)

    def _decide(self, kind: Kind, code: int, why: str, *, patience: float) -> None:
        """What ended the job, unless something did before."""
        if self._first is None:
            self._first = Outcome(kind, code, why)
            self._hurry(patience)

    def _hurry(self, seconds: float) -> None:
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def _pass_on(self) -> None:
        """The first signal to all ranks; a second one ends them at once."""
        if self._asked and self._passed_on is None:
            self._passed_on = self._asked[0]
            for rank in self._named():
                rank.send(f"signal {self._passed_on.name}")
            self._hurry(self.hold.grace)
        if len(self._asked) > 1 and self._asked[-1] != signal.SIGUSR2:
            self._hurry(0)

    def _end(self) -> None:
        """End what is left: first ranks, wherever they are; then launchers."""
        for rank in self._named():
            if rank.code is None:
                rank.send("end")
        processes = [process for _, process in self._processes]
        for each in (None, signal.SIGTERM):
            _signal(processes, each)
            if _wait(processes, END_SECONDS):
                break
        _signal(processes, signal.SIGKILL)  # also what a launcher that died has left behind
        _wait(processes, END_SECONDS)
        for rank in self._ranks:
            rank.connection.close()
        self._selector.close()

    def _outcome(self) -> Outcome:
        codes = [rank.code for rank in self._named()]
        done = codes.count(0) == self._world
        if done:
            return Outcome("done", 0, "")
        if self._passed_on and not (self._first and self._first.kind == "refused"):
            saved = STOPPED in codes
            why = f"stopped by {self._passed_on.name}" + ("" if saved else ", without a save")
            return Outcome("stopped", STOPPED, why)
        said = f"{codes.count(0)} of {self._world} ranks said that they are done"
        return self._first or Outcome("crashed", 1, f"the launcher ended, but only {said}")


def _start(command: Command) -> subprocess.Popen:
    return subprocess.Popen(
        command.words, env=command.environment, stdin=subprocess.DEVNULL, start_new_session=True
    )


def _signal(processes: Sequence[subprocess.Popen], number: signal.Signals | None) -> None:
    """Send a signal to the groups that launchers lead; None sends nothing."""
    for process in processes if number else ():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _wait(processes: Sequence[subprocess.Popen], seconds: float) -> bool:
    """Whether all of them end in time."""
    until = time.monotonic() + seconds
    while any(process.poll() is None for process in processes):
        if time.monotonic() > until:
            return False
        time.sleep(POLL / 4)
    return True


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """A door for the ranks' connections: at this machine's ``address``, at a free port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family, backlog=1024) as door:
        yield door


@contextmanager
def noting() -> Iterator[list[signal.Signals]]:
    """Note signals that ask to stop, instead of being ended by them."""
    noted: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(signal.Signals(number))

    before: dict[signal.Signals, Callable | int | None] = {
        each: signal.signal(each, note)
        for each in SIGNALS
        if each != signal.SIGINT or signal.getsignal(each) is not signal.SIG_IGN
    }
    try:
        yield noted
    finally:
        for each, handler in before.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
