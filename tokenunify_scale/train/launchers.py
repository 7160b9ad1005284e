"""The command lines by which the ranks of a job are started, for each launcher.

DeepSpeed's runner is not among them: it starts the same program on each host as is done here, over
pdsh, passes few variables on, and ends a job by ending every launcher of that Python on a host.
"""

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.train.hostfile import travelling

PACKAGE = "tokenunify_scale"
LOCAL = "localhost"
# A host that is cut off is noticed within a minute; nothing is ever asked.
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3")
TRAVELS = re.compile(
    r"PATH|LD_LIBRARY_PATH|DS_ACCELERATOR|MASTER_ADDR|MASTER_PORT"
    r"|(OMP|MKL|NUMBA|NCCL|GLOO|UCX|FI|MALLOC|TORCH|CUDA|HF|WANDB|TOKENUNIFY)_\w+"
)
# Devices are shown to each rank by its host's launcher; secrets would stand in lists of processes.
STAYS = re.compile(r"CUDA_VISIBLE_DEVICES|\w+_(KEY|TOKEN|SECRET|PASSWORD)")
# Of a launcher that started this process.
RANKS = re.compile(
    r"((LOCAL_|CROSS_|GROUP_|ROLE_)?(RANK|SIZE|WORLD_SIZE))|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+"
    r"|OMPI_COMM_WORLD_\w+|PMI_\w+|PMIX_(RANK|NAMESPACE|SERVER_\w+)|MPI_LOCAL\w+"
)


@dataclass(frozen=True)
class Command:
    """One process to start here."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    name: str
    """What it is called in a message."""


@dataclass(frozen=True)
class Places:
    """Hosts, in the order of their ranks, and how many each has."""

    slots: Mapping[str, int]
    """By name, user and all; this machine alone is ``localhost``."""
    address: str = "127.0.0.1"
    """Where the ranks meet: the first host's."""
    port: int = 29500

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return sum(self.slots.values())

    @property
    def local(self) -> bool:
        """Whether ssh is not needed."""
        return list(self.slots) == [LOCAL]


def commands(
    launcher: str, places: Places, words: Sequence[str], *, variables: Mapping[str, str]
) -> list[Command]:
    """What to start for a job.

    Args:
        launcher: a name of ``LAUNCHERS``.
        places: hosts and ranks.
        words: the verb of this package and its own words.
        variables: what every rank is to be told beside this process's environment.

    Raises:
        ConfigError: hosts that this launcher cannot be given.
        HostError: the launcher is not installed.
    """
    here = {name: value for name, value in os.environ.items() if not RANKS.fullmatch(name)}
    return LAUNCHERS[launcher](places, ("-u", "-m", PACKAGE, *words), {**here, **variables})


def deepspeed(
    places: Places, python: Sequence[str], environment: Mapping[str, str]
) -> list[Command]:
    """DeepSpeed's program for one host, on each of them."""
    _, _, _, *words = python
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    world: dict[str, list] = {host: list(range(slots)) for host, slots in places.slots.items()}
    if places.local and len(visible) >= places.world and visible[0]:
        chosen = visible[: places.world]
        world = {LOCAL: [int(each) if each.isdecimal() else each for each in chosen]}
    info = base64.urlsafe_b64encode(json.dumps(world).encode()).decode()
    common = [f"--world_info={info}", f"--master_addr={places.address}"]
    common += [f"--master_port={places.port}", "--no_local_rank", "--module", "--log_level=warning"]
    each = [
        ["-u", "-m", "deepspeed.launcher.launch", f"--node_rank={number}", *common, PACKAGE, *words]
        for number in range(len(places.slots))
    ]
    return _on_hosts(places, each, environment, name="DeepSpeed's launcher")


def torchrun(
    places: Places, python: Sequence[str], environment: Mapping[str, str]
) -> list[Command]:
    """PyTorch's program for one host, on each of them; restarts are not left to it."""
    _, *words = python
    # Shared, its store now and then hangs.
    environment = {**environment, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    meeting = [f"--master_addr={places.address}", f"--master_port={places.port}"]
    each = [
        ["-m", "torch.distributed.run", f"--nnodes={len(places.slots)}", f"--node_rank={number}",
         f"--nproc_per_node={slots}", *meeting, "--max_restarts=0", *words]
        for number, slots in enumerate(places.slots.values())
    ]  # fmt: skip
    return _on_hosts(places, each, environment, name="torchrun")


def openmpi(places: Places, python: Sequence[str], environment: Mapping[str, str]) -> list[Command]:
    """Open MPI's mpirun, which starts all hosts."""
    environment = _with_meeting(places, environment)
    passed = travellers(environment)
    words = [find_mpi("Open MPI"), "-n", str(places.world), "--bind-to", "none"]
    words += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    words += ["--host", ",".join(f"{host}:{slots}" for host, slots in _plain(places).items())]
    for name in passed:
        words += ["-x", name]  # with the value that mpirun itself has
    return [Command((*words, sys.executable, *python), {**environment, **passed}, "mpirun")]


def mpich(places: Places, python: Sequence[str], environment: Mapping[str, str]) -> list[Command]:
    """MPICH's mpirun, which starts all hosts and gives them the whole environment."""
    words = [find_mpi("MPICH"), "-n", str(places.world), "-genvall"]
    words += ["-hosts", ",".join(f"{host}:{slots}" for host, slots in _plain(places).items())]
    environment = _with_meeting(places, environment)
    return [Command((*words, sys.executable, *python), environment, "mpirun")]


Launch = Callable[[Places, Sequence[str], Mapping[str, str]], list[Command]]
LAUNCHERS: Mapping[str, Launch] = MappingProxyType(
    {"deepspeed": deepspeed, "openmpi": openmpi, "mpich": mpich, "torchrun": torchrun}
)


def travellers(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment is passed on to other hosts.

    What a job's behaviour can hang on, and what DeepSpeed would take: Python's own variables, and
    above all those of ``.deepspeed_env``, or of the file that ``DS_ENV_FILE`` names.

    Raises:
        ConfigError: such a file has mistakes.
    """
    exports, mistakes = travelling(environment, gpus=True)
    if mistakes:
        raise ConfigError("; ".join(mistakes))
    names = (name for name in environment if TRAVELS.fullmatch(name) and not STAYS.fullmatch(name))
    return {**{name: environment[name] for name in names}, **exports}


def find_mpi(kind: str) -> str:
    """The mpirun of an MPI, ``Open MPI`` or ``MPICH``.

    Raises:
        HostError: there is none, or it is the other one's.
    """
    told = []
    for name in ("mpirun", "mpiexec.hydra", "mpiexec"):
        beside = Path(sys.executable).with_name(name)
        for path in filter(None, [shutil.which(name), str(beside) if beside.exists() else None]):
            done = subprocess.run(
                [path, "--version"], capture_output=True, text=True, timeout=60, check=False
            )
            version = f"{done.stdout}{done.stderr}"
            if kind in version or (kind == "MPICH" and "HYDRA" in version):
                return path
            told.append(f"{path} is {(version.splitlines() or ['silent'])[0]}")
    raise HostError(f"no mpirun of {kind} ({'; '.join(told) or 'none at all'}): put it into PATH")


def _with_meeting(places: Places, environment: Mapping[str, str]) -> dict[str, str]:
    meeting = {"MASTER_ADDR": places.address, "MASTER_PORT": str(places.port)}
    return {**environment, **meeting}


def _plain(places: Places) -> Mapping[str, int]:
    """Hosts as MPI takes them."""
    for host in places.slots:
        if "@" in host:
            raise ConfigError(f"mpirun takes no user as in {host}: put it into ~/.ssh/config")
    return places.slots


def _on_hosts(
    places: Places, each: Sequence[Sequence[str]], environment: Mapping[str, str], *, name: str
) -> list[Command]:
    """Python with words of its own on each host; over ssh, in this folder, but for this machine."""
    if places.local:
        return [Command((sys.executable, *each[0]), environment, name)]
    exports = shlex.join(f"{key}={value}" for key, value in travellers(environment).items())
    folder, python = shlex.quote(os.getcwd()), shlex.quote(sys.executable)
    found = []
    for host, words in zip(places.slots, each, strict=True):
        remote = (*SSH, host, f"cd {folder} && exec env {exports} {python} {shlex.join(words)}")
        found.append(Command(remote, environment, f"{name} on {host}"))
    return found
