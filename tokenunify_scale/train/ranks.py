"""Which rank a process is, and where the ranks meet, by what its launcher says.

Nothing here touches a device, a network or torch: it can be asked before all of them.
"""

import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tokenunify_scale.config import HostError

EXPECT = "TOKENUNIFY_EXPECT_WORLD"
PORT = 29500  # where a launcher names a host and no port
PORTS = range(15000, 30000)  # those derived from a job: below what systems give to clients
TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # DeepSpeed's launcher and torchrun
OPEN_MPI = tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK"))
MPICH = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")
# Not SLURM_NTASKS: it stands in the shells of sbatch and salloc too, which are one process.
SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
NUMBERS = r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*"
NODES = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
HERE = {OPEN_MPI: "OMPI_COMM_WORLD_LOCAL_SIZE", MPICH: "MPI_LOCALNRANKS"}
"""Where it is written how many ranks a host has."""
REMEDY = {
    TORCH: "start it by deepspeed, torchrun or tokenunify launch, or unset {names}",
    OPEN_MPI: "mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500, HOST being that of rank 0",
    MPICH: "mpirun -genv MASTER_ADDR HOST -genv MASTER_PORT 29500, HOST being that of rank 0",
    SLURM: "start it by srun in a job of its own",
}


@dataclass(frozen=True)
class Seat:
    """A process's place in a job."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str | None = None
    """Rank 0's host; None in a world of one."""
    port: int | None = None
    own_gpus: bool = False
    """Whether the launcher may show each rank its own GPUs alone."""

    def variables(self) -> dict[str, str]:
        """What torch.distributed reads; nothing for a world of one, which starts no ranks."""
        if self.size == 1:
            return {}
        values = (self.rank, self.size, self.local_rank, self.address, self.port)
        names = (*TORCH, "MASTER_ADDR", "MASTER_PORT")
        return {name: str(value) for name, value in zip(names, values, strict=True)}


def seat_of(environment: Mapping[str, str]) -> Seat:
    """The place that a launcher gave this process; a world of one where none started it.

    DeepSpeed and torchrun come first, as they may themselves be started by one of the others, then
    Open MPI and MPICH, whose helpers srun may have started, then a step of Slurm.

    Raises:
        HostError: the variables are incomplete, no numbers, or contradict each other.
    """
    names = _launcher(environment)
    if names is None:
        return Seat()
    rank, size, local_rank = (_number(environment, name, names) for name in names)
    for name, value in ((names[0], rank), (names[2], local_rank)):
        if value >= size:
            raise _wrong(names, f"{name} is {value}, which is not below {names[1]}, {size}")
    if size == 1:
        return Seat()
    own_gpus = names is SLURM
    return Seat(rank, size, local_rank, *_meeting(environment, names, size), own_gpus=own_gpus)


def world_size(expected: int | None = None) -> int:
    """How many ranks this job has.

    Args:
        expected: how many were promised; ``TOKENUNIFY_EXPECT_WORLD`` promises too.

    Raises:
        HostError: other than promised; or as ``seat_of``.
    """
    seat = seat_of(os.environ)
    promises = {"--expect-world": expected}
    if EXPECT in os.environ:
        promises[EXPECT] = _number(os.environ, EXPECT, (EXPECT,))
    for name, count in promises.items():
        if count is not None and count != seat.size:
            error = HostError(
                f"{name} is {count}, and this job has {seat.size} rank{'s' * (seat.size > 1)}: is "
                "the hostfile mistyped? (DeepSpeed only warns of a missing one, and trains on this "
                "machine alone)"
            )
            error.of_main = seat.rank > 0  # all ranks find it; one says it
            raise error
    return seat.size


def nodes_of(text: str) -> list[str]:
    """The hosts of a Slurm node list, in order: ``gpu[01-03,07],login1``.

    Raises:
        HostError: it is no node list.
    """
    one = rf"[^,\[\]]*(?:\[{NUMBERS}\][^,\[\]]*)*"
    if not text or not re.fullmatch(rf"{one}(?:,{one})*", text):
        raise HostError(f"{text!r} is no node list of Slurm: set MASTER_ADDR to the first node")
    return [name for each in re.findall(one, text) if each for name in _expand(each)]


def _expand(name: str) -> Iterator[str]:
    """``rack[1-2]n[01,07]`` as rack1n01, rack1n07, rack2n01, rack2n07."""
    match = re.fullmatch(rf"([^\[]*)\[({NUMBERS})\](.*)", name)
    if match is None:
        yield name
        return
    before, numbers, after = match.groups()
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            yield from _expand(f"{before}{number:0{len(first)}}{after}")


def _launcher(environment: Mapping[str, str]) -> tuple[str, str, str] | None:
    """The names of the variables that count."""
    if "RANK" in environment or "LOCAL_RANK" in environment:
        return TORCH
    if OPEN_MPI[0] in environment:
        return OPEN_MPI
    # srun's own PMI gives no rank on the host; Slurm's variables do.
    step = "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment
    if MPICH[0] in environment and (MPICH[2] in environment or not step):
        return MPICH
    if step:
        return SLURM if SLURM[1] in environment else (SLURM[0], "SLURM_NTASKS", SLURM[2])
    return TORCH if environment.get("WORLD_SIZE", "1") != "1" else None


def _number(environment: Mapping[str, str], name: str, names: tuple[str, ...]) -> int:
    text = environment.get(name)
    if text is None and name in TORCH and environment.get("WORLD_SIZE", "1") == "1":
        return int(name == "WORLD_SIZE")
    if text is None:
        raise _wrong(names, f"{name} is not set, and the launcher's other variables are")
    if not text.isdecimal():
        raise _wrong(names, f"{name} is {text!r}, expected a number from 0")
    return int(text)


def _meeting(environment: Mapping[str, str], names: tuple[str, ...], size: int) -> tuple[str, int]:
    """Address and port at which the ranks of a job meet."""
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if port is not None and not (port.isdecimal() and 0 < int(port) < 65536):
        raise _wrong(names, f"MASTER_PORT is {port!r}, expected a port")
    if not address and names[0] == SLURM[0]:
        text = next((environment[name] for name in NODES if name in environment), "")
        address = nodes_of(text)[0]
    elif not address and environment.get(HERE.get(names, "")) == str(size):
        address = "127.0.0.1"  # all of them are here
    if not address or (names is TORCH and port is None):
        missing = "MASTER_ADDR" if not address else "MASTER_PORT"
        raise _wrong(names, f"{names[1]} is {size}, and {missing} is not set")
    return address, int(port) if port else _port(environment, names)


def _port(environment: Mapping[str, str], names: tuple[str, ...]) -> int:
    """The same for all ranks of a job, and most likely another for another job."""
    if names[0] == SLURM[0]:
        job = f"{environment.get('SLURM_JOB_ID', '')}.{environment.get('SLURM_STEP_ID', '')}"
    elif names is OPEN_MPI:
        job = environment.get("PMIX_NAMESPACE", "")
    else:
        job = ""
    return PORTS[zlib.crc32(job.encode()) % len(PORTS)] if job else PORT


def _wrong(names: tuple[str, ...], what: str) -> HostError:
    remedy = REMEDY.get(names, REMEDY[SLURM] if names[0] == SLURM[0] else "correct or unset it")
    return HostError(f"{what}: {remedy.format(names=', '.join(names))}")
