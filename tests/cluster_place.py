"""Where the jobs of a test run, and what of them still does; this machine is such a place.

Nothing is ended by its name: only what a place knows for its own.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Place(ABC):
    """Jobs that were started here, and their processes."""

    folder: Path
    """For outputs."""

    launcher: list[str]
    """DeepSpeed's command, for all ranks of this place."""

    @abstractmethod
    def processes(self) -> dict[int, str]:
        """What runs here: command lines by the process's number, less what has ended."""

    def enter(self) -> list[str]:
        """The words before a command that is to run here."""
        return []

    def environment(self) -> dict[str, str]:
        """Variables of a command: this Python's commands are found, one thread each."""
        path = [str(Path(sys.executable).parent), *map(str, self.folder.glob("bin"))]
        variables = {"OMP_NUM_THREADS": "1", "DS_ENV_FILE": str(self.folder / "travels")}
        return {**os.environ, "PATH": os.pathsep.join([*path, os.environ["PATH"]]), **variables}

    def start(self, *command: object) -> tuple[subprocess.Popen, Path]:
        """Start a command in a session of its own; the process, and the file with its output.

        A file, as what outlives the command would keep a pipe open.
        """
        output = self.folder / f"output-{len(list(self.folder.glob('output-*')))}.txt"
        with output.open("w") as file:
            process = subprocess.Popen(
                [*self.enter(), *map(str, command)], cwd=ROOT, env=self.environment(),
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        return process, output

    def run(self, *command: object, timeout: float = 300) -> tuple[int, str]:
        """Run a command to its end: exit code and output.

        Raises:
            TimeoutError: it took longer; all that runs here is ended then.
        """
        process, output = self.start(*command)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.clear()
            process.wait(30)
            told = output.read_text()
            raise TimeoutError(f"{command} took more than {timeout} s:\n{told}") from None
        return code, output.read_text()

    def ranks(self) -> dict[int, int]:
        """The ranks that run here, and their processes' numbers."""
        found = {}
        for pid in self.processes():
            with suppress(OSError):  # it has ended meanwhile
                entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                found |= {int(entry[5:]): pid for entry in entries if entry.startswith(b"RANK=")}
        return found

    def idle(self, *, timeout: float, of: str = "processes") -> float:
        """Wait until no ``of`` (processes, or ranks) is left; how many seconds that took.

        Raises:
            TimeoutError: some are.
        """
        started = time.monotonic()
        while left := getattr(self, of)():
            if time.monotonic() - started > timeout:
                raise TimeoutError(f"still there after {timeout} s: {left}")
            time.sleep(0.05)
        return time.monotonic() - started

    def clear(self) -> None:
        """End all that runs here, at once."""
        while left := self.processes():
            for pid in left:
                kill(pid)
            time.sleep(0.05)


class Machine(Place):
    """This machine; its jobs are known by the sessions in which they were started."""

    def __init__(self, folder: Path, *, ranks: int = 2) -> None:
        """A port is taken that is free now."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.folder = folder
        self.launcher = ["deepspeed", "--num_accelerators", str(ranks), "--master_port", str(port)]
        self._sessions: set[int] = set()

    def start(self, *command: object) -> tuple[subprocess.Popen, Path]:
        """As of any place."""
        process, output = super().start(*command)
        self._sessions.add(process.pid)
        return process, output

    def processes(self) -> dict[int, str]:
        """What runs in these sessions."""
        found = {}
        for pid in numbers():
            with suppress(OSError):
                if os.getsid(pid) in self._sessions and (words := command_of(pid)):
                    found[pid] = words
        return found


def numbers() -> list[int]:
    """The numbers of all processes that this one sees."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_of(pid: int) -> str:
    """A process's words; none where it has ended, and nobody has waited for it.

    Raises:
        OSError: it is gone.
    """
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def kill(pid: int) -> None:
    """SIGKILL, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
