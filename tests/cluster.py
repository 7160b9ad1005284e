"""Hosts on one machine, for tests: each has an address, a name, an ssh server, its own processes.

A host is a process in namespaces of its own (network, host name, processes, mounts, shared memory),
and a bridge in one more network namespace joins them. What it changes in ``/etc/ssh``,
``/etc/hosts`` and ``/run`` are mounts that it alone sees; file systems are otherwise shared, as on
a real cluster.

All of it lives as long as a pipe to this process is open, so it is gone however this process ends,
and as nothing in it has a name outside, any number of such clusters can be up at once.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tests.cluster_files import write
from tests.cluster_place import ROOT, Place, command_of, numbers

TOOLS = {
    "ip": "iproute2", "ssh": "openssh-client", "ssh-keygen": "openssh-client",
    "sshd": "openssh-server", "unshare": "util-linux", "nsenter": "util-linux",
}  # fmt: skip
STAND_IN = Path(__file__).with_name("cluster_sshd.py")
NETWORK = "10.219.57"
APART = ("--net", "--uts", "--pid", "--mount", "--ipc")

SWITCH = """
ip link set lo up && ip link add name bridge type bridge && ip link set bridge up || exit 1
echo up
exec cat
"""
# Process 1 of a host. It says that it is there, is given eth0, and stays until its input ends.
HOST = """
set -e
echo here
read given
hostname "$1"
ip link set lo up
ip addr add "$2/24" dev eth0
ip link set eth0 up
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount --bind "$3/ssh" /etc/ssh
mount --bind "$3/hosts" /etc/hosts
if [ -d ~root/.ssh ]; then mount -t tmpfs tmpfs ~root/.ssh; fi
log=$3/$1.log
shift 3
"$@" "$log"
echo up
exec cat
"""


@dataclass(frozen=True)
class Host:
    """One of them."""

    name: str
    address: str
    keeper: subprocess.Popen
    """It lives while this does, and this while its input is open."""

    first: int
    """Its process 1, by the number that it has outside."""

    def enter(self) -> list[str]:
        """The words before a command that is to run there."""
        return [_tool("nsenter"), f"--target={self.first}", *APART, f"--wd={ROOT}", "--"]

    def path(self, path: Path | str) -> Path:
        """A path as the host sees it, such as of what is mounted there alone."""
        return Path(f"/proc/{self.first}/root{path}")


class Cluster(Place):
    """Hosts that are up, and what can be done with them. Commands start on the first."""

    def __init__(self, hosts: tuple[Host, ...], *, folder: Path, switch: int) -> None:
        """Of hosts that answer."""
        self.hosts, self.folder, self._switch = hosts, folder, switch
        self.hostfile = folder / "hostfile"
        """DeepSpeed's, of all of them."""
        self.launcher = ["deepspeed", "--hostfile", str(self.hostfile)]
        self._own: set[int] = set()
        self._own |= set(self.processes())

    def enter(self) -> list[str]:
        """The words before a command that is to run on the first host."""
        return self.hosts[0].enter()

    def processes(self) -> dict[int, str]:
        """What runs on the hosts, less what makes them hosts; numbers are those outside."""
        spaces = {os.readlink(f"/proc/{host.first}/ns/pid") for host in self.hosts}
        found = {}
        for pid in numbers():
            with suppress(OSError):
                if os.readlink(f"/proc/{pid}/ns/pid") in spaces and (words := command_of(pid)):
                    found[pid] = words
        return {pid: words for pid, words in found.items() if pid not in self._own}

    def cut(self, host: int) -> None:
        """Pull the host's cable: what is sent is lost, and no side is told."""
        self._link(host, "down")

    def mend(self, host: int) -> None:
        """Put the cable back."""
        self._link(host, "up")

    def _link(self, host: int, state: str) -> None:
        _do("ip", "link", "set", f"port{host}", state, of=self._switch)


@cache
def missing() -> str | None:
    """Why there can be no such hosts here; None where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts as namespaces need root on Linux"
    found = {tool: _server() if tool == "sshd" else _find(tool) for tool in TOOLS}
    if absent := {package: None for tool, package in TOOLS.items() if not found[tool]}:
        return f"hosts as namespaces need {', '.join(absent)}: apt-get install {' '.join(absent)}"
    probe = "ip link add name bridge type bridge && mount -t tmpfs tmpfs /run"
    words = [_tool("unshare"), *APART, "--fork", "--mount-proc", "sh", "-c", probe]
    done = subprocess.run(words, capture_output=True, text=True, env=_environment(), timeout=60)
    return None if done.returncode == 0 else f"namespaces are not permitted: {done.stderr.strip()}"


@contextmanager
def hosts(count: int, *, slots: int = 1) -> Iterator[Cluster]:
    """Bring up ``count`` hosts, node1 and on, for as long as the context lasts.

    Each runs ``sshd``. Where that is not installed, or the variable TOKENUNIFY_TEST_SSHD is
    ``stand-in``, it runs ``cluster_sshd.py`` instead, a server written with the package asyncssh.
    The client is always ``ssh``.

    Args:
        count: how many.
        slots: ranks of each, in the hostfile.

    Raises:
        RuntimeError: they do not come up; what they said is in it.
    """
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    keepers: list[subprocess.Popen] = []
    made: list[Host] = []
    try:
        names = [(f"node{n}", f"{NETWORK}.{n}") for n in range(1, count + 1)]
        write(folder, names, slots=slots, keygen=_tool("ssh-keygen"))
        switch = _keeper(["--net"], SWITCH, keepers=keepers, says="up")
        for number, (name, address) in enumerate(names):
            words = [name, address, str(folder), *_server()]
            first = _keeper([*APART, "--mount-proc"], HOST, *words, keepers=keepers, says="here")
            port = f"port{number}"
            pair = ["link", "add", "name", port, "type", "veth", "peer", "name", "eth0"]
            _do("ip", *pair, "netns", str(first), of=switch)
            _do("ip", "link", "set", port, "master", "bridge", "up", of=switch)
            _say(keepers[-1], "given")
            _hear(keepers[-1], "up")
            made.append(Host(name, address, keepers[-1], first))
        _await_ssh(made, folder=folder)
        cluster = Cluster(tuple(made), folder=folder, switch=switch)
        yield cluster
    finally:
        for keeper in keepers:
            keeper.stdin.close()  # process 1 ends, and with it all of the host
        for keeper in keepers:
            with suppress(subprocess.TimeoutExpired):
                keeper.wait(20)
            keeper.kill()  # then process 1 is killed too
            keeper.wait(20)
            keeper.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def _keeper(
    apart: list[str], script: str, *words: str, keepers: list[subprocess.Popen], says: str
) -> int:
    """Start process 1 of namespaces, wait for its word; its number outside."""
    shell = ["sh", "-c", script, "sh", *words]
    keeper = subprocess.Popen(
        [_tool("unshare"), *apart, "--fork", "--kill-child", *shell], env=_environment(),
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    keepers.append(keeper)
    _hear(keeper, says)
    return int(Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()[0])


def _say(keeper: subprocess.Popen, word: str) -> None:
    keeper.stdin.write(word + "\n")
    keeper.stdin.flush()


def _hear(keeper: subprocess.Popen, word: str) -> None:
    heard = keeper.stdout.readline().strip()
    if heard != word:
        raise RuntimeError(f"a host does not come up: {heard or 'it ended'} where {word} should be")


def _await_ssh(made: list[Host], *, folder: Path) -> None:
    """Wait until the first host reaches all of them."""
    for host in made:
        for _ in range(100):
            words = [*made[0].enter(), _tool("ssh"), host.name, "true"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60)
            if done.returncode == 0:
                break
            time.sleep(0.1)
        else:
            log = (folder / f"{host.name}.log").read_text()
            raise RuntimeError(f"{host.name} cannot be reached by ssh: {done.stderr}\n{log}")


def _do(tool: str, *words: str, of: int) -> None:
    """Run a command in another process's network."""
    command = [_tool("nsenter"), f"--target={of}", "--net", "--", _tool(tool), *words]
    subprocess.run(command, check=True, timeout=60)


def _server() -> list[str]:
    """The command of a host's ssh server, less its log; no words where there can be none."""
    if os.environ.get("TOKENUNIFY_TEST_SSHD") != "stand-in" and (sshd := _find("sshd")):
        return [sshd, "-E"]
    return [sys.executable, str(STAND_IN)] if find_spec("asyncssh") else []


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


def _find(tool: str) -> str | None:
    return shutil.which(tool, path=_environment()["PATH"])


def _tool(tool: str) -> str:
    return _find(tool) or tool
