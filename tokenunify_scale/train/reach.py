"""Ask all hosts of a job at once, over ssh: what they have, and whether they reach each other."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tokenunify_scale.config import HostError
from tokenunify_scale.train import host

SOURCE = Path(host.__file__)
MEET_SECONDS = 2 * host.CONNECT_SECONDS + 2
# Reads the program, and leaves what follows on its standard input to the program.
LOADER = "import sys; exec(sys.stdin.read({}))"
FAILURES = {
    "could not resolve hostname": "unknown",
    "host key verification failed": "host key",
    "permission denied": "denied",
    "connection refused": "refused",
    "timed out": "silent",
    "no route to host": "silent",
    "network is unreachable": "silent",
}


class Visit:
    """One session on a host, from the start of ssh until ``close``."""

    def __init__(self, name: str | None, *, exports: Mapping[str, str], timeout: float) -> None:
        """Prepare a session.

        Args:
            name: as in the hostfile; None is this machine, asked without ssh.
            exports: variables that are set there first, as DeepSpeed's launcher sets them.
            timeout: seconds until the facts must have come.
        """
        self.name, self._exports, self._timeout = name, exports, timeout
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+")
        self._expired = False
        self.facts: dict[str, Any] | None = None
        self.failure = ""
        """Why there are no facts: unknown, host key, denied, refused, silent, python or failed."""
        self.told = ""
        """What ssh, or the host, said last."""
        self.asked = self.answered = 0.0
        self.unreached: list[list[Any]] | None = None
        """Those it cannot reach, as ``host.meet`` tells; None where it did not answer."""

    def ask(self, request: Mapping[str, Any]) -> None:
        """Start the program there and wait for the facts; see ``host.look``."""
        source = SOURCE.read_text()
        self.asked = time.time()
        self._process = subprocess.Popen(
            self._command(LOADER.format(len(source)), json.dumps(request)), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            start_new_session=True,  # its children hold the pipes, and must end with it
        )  # fmt: skip
        self.facts = self._exchange(source, self._timeout)
        self.answered = time.time()
        if self.facts is None:
            self.failure = self._why()
            self.close()

    def meet(self, peers: Sequence[Sequence[Any]]) -> None:
        """Have it connect to others, (host, address, port) each."""
        if self.facts is not None:
            self.unreached = self._exchange(json.dumps(peers) + "\n", MEET_SECONDS)

    def close(self) -> None:
        """End the session, and the program there."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.communicate(timeout=1)
        except (subprocess.TimeoutExpired, OSError):
            _end(process)
            process.wait()
        self._errors.close()

    def _command(self, program: str, request: str) -> list[str]:
        words = ["-c", program, request]
        if self.name is None:
            return [sys.executable, *words]
        here, python = shlex.quote(os.getcwd()), shlex.quote(sys.executable)
        # As DeepSpeed's launcher does it: variables, folder, the Python of the same path. Another
        # folder, or another Python, is found out by what it answers.
        steps = [
            *(f'export {key}="{value}"' for key, value in self._exports.items()),
            f"cd {here} 2>/dev/null",
            f"p={python}",
            '[ -x "$p" ] || p=python3',
            f'exec "$p" {shlex.join(words)}',
        ]
        return ["ssh", *_options(self._timeout), self.name, "; ".join(steps)]

    def _exchange(self, text: str, seconds: float) -> Any:
        """Send a text, and wait for a line of JSON; None where none comes."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return None
        alarm = threading.Timer(seconds, self._expire)
        alarm.start()
        try:
            process.stdin.write(text)
            process.stdin.flush()
            # A login script may have printed something first.
            return next(found for line in process.stdout if (found := _json(line)) is not None)
        except (OSError, ValueError, StopIteration):
            return None  # it went away; what it said is in its errors
        finally:
            alarm.cancel()

    def _expire(self) -> None:
        self._expired = True
        if self._process is not None:
            _end(self._process)

    def _why(self) -> str:
        code = self._process.wait() if self._process else 0
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        self.told = lines[-1].strip() if lines else f"exit code {code}"
        if self._expired:
            return "silent"
        if code == 127:
            return "python"
        text = "\n".join(lines).lower()
        found = (kind for words, kind in FAILURES.items() if words in text)
        return next(found, "failed") if code == 255 else "failed"


def _options(timeout: float) -> list[str]:
    """Options of ssh: never ask, give up in time, and leave no shared connection behind."""
    seconds = max(1, int(timeout / 2))
    options = ("BatchMode=yes", f"ConnectTimeout={seconds}", "ControlMaster=no")
    return [word for option in options for word in ("-o", option)]


def _json(line: str) -> Any:
    """What a line holds; None where it is not an object or a list in JSON."""
    try:
        return json.loads(line) if line.startswith(("{", "[")) else None
    except json.JSONDecodeError:
        return None


def _end(process: subprocess.Popen[str]) -> None:
    """End a process with its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def visit_all(
    names: Sequence[str],
    request: Mapping[str, Any],
    *,
    exports: Mapping[str, str],
    timeout: float,
) -> list[Visit]:
    """Ask all hosts side by side; then each tries to reach each of the others.

    Args:
        names: as in the hostfile, the first host first.
        request: see ``host.look``.
        exports: variables that the launcher would set there.
        timeout: seconds until a host counts as silent.

    Returns:
        The visits in order, closed.

    Raises:
        HostError: there is no ssh here.
    """
    if not shutil.which("ssh"):
        raise HostError("there is no ssh on this machine: apt-get install openssh-client")
    visits = [Visit(name, exports=exports, timeout=timeout) for name in names]
    with ThreadPoolExecutor(len(visits)) as pool:
        try:
            list(pool.map(lambda visit: visit.ask(request), visits))
            list(pool.map(lambda visit: visit.meet(_peers(visit, visits)), visits))
        finally:
            list(pool.map(Visit.close, visits))
    return visits


def addresses_of(facts: Mapping[str, Any], *, first: bool) -> list[str]:
    """Where the other ranks will look for those of this host.

    Args:
        facts: the host's, see ``host.look``.
        first: whether it is the job's first host, whose first address is the master's.
    """
    name = facts["environment"].get("GLOO_SOCKET_IFNAME", "").split(",")[0]
    own = facts["interfaces"].get(name)
    found = [own] if own else facts["addresses"].get(facts["name"], [])[:1]
    master = [facts["first_address"]] if first and facts["first_address"] else []
    return list(dict.fromkeys([*master, *(a for a in found if not is_loopback(a))]))


def is_loopback(address: str) -> bool:
    """Whether an address means the machine itself."""
    return address.startswith("127.") or address == "::1"


def _peers(visit: Visit, visits: Sequence[Visit]) -> list[list[Any]]:
    """Whom a host is to reach: (host, address, port) of all others that answered."""
    return [
        [other.name, address, other.facts["port"]]
        for other in visits
        if other is not visit and other.facts is not None
        for address in addresses_of(other.facts, first=other is visits[0])
    ]
