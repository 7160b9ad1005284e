"""Start a training on many ranks, and again when it crashes, on the hosts that are left."""

import importlib
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

from tokenunify_scale.config import ConfigError, DataError, HostError, Stopped, build
from tokenunify_scale.flags import parser_of, request
from tokenunify_scale.train.elastic import ask, free_port, own_address, share
from tokenunify_scale.train.hostfile import read_hostfile
from tokenunify_scale.train.launchers import LOCAL, Places, commands
from tokenunify_scale.train.leash import VARIABLE
from tokenunify_scale.train.ranks import EXPECT, PORT
from tokenunify_scale.train.runlog import read_metrics
from tokenunify_scale.train.saves import candidates, step_of
from tokenunify_scale.train.supervise import Attempt, Outcome, listening, noting

LAUNCHED = ("pretrain", "finetune")
LONGEST_WAIT = 300.0  # seconds between two starts


@dataclass(frozen=True, kw_only=True)
class Config:
    """One job, over all its starts."""

    command: tuple[str, ...] = field(metadata={"word": True})
    """What is launched, with all its words: -- pretrain --size huge --out runs/huge."""

    hostfile: Path | None = None
    """DeepSpeed's hostfile, lines 'host slots=N'."""

    ranks: int | None = None
    """Without a hostfile: how many ranks on this machine."""

    launcher: Literal["deepspeed", "openmpi", "mpich", "torchrun"] = "deepspeed"
    """What starts the ranks: DeepSpeed's or PyTorch's launcher on each host, over ssh, or the
    mpirun of an MPI."""

    max_restarts: int = 3
    """Crashes in a row that are answered by another start from the newest save; a crash with a
    newer save than the one before begins a new row."""

    min_ranks: int = 1
    """Fewest ranks with which the job goes on when hosts are lost."""

    grace: float = 240.0
    """Seconds that ranks have for the end of a step and a save after SIGTERM, SIGUSR2 or Ctrl-C."""

    backoff: float = 5.0
    """Seconds before the second start; twice as long before each that follows, up to 300."""

    timeout: float = 20.0
    """Seconds after which a host counts as lost, when all are asked before a start."""

    port: int | None = None
    """Where ranks meet, on the first host: by default 29500, or a free port of this machine."""

    def __post_init__(self) -> None:
        """Refuse counts that cannot be, and a job of nowhere."""
        if (self.hostfile is None) == (self.ranks is None):
            raise ValueError("one of hostfile and ranks says where it runs: give it")
        for name, least in (("ranks", 1), ("min_ranks", 1), ("max_restarts", 0), ("port", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        for name in ("grace", "timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0 s, got {getattr(self, name)}")
        if not self.backoff >= 0:
            raise ValueError(f"backoff must be >= 0 s, got {self.backoff}")


class JobFailed(RuntimeError):
    """A job that is not started again, with the exit code of what ended it."""

    def __init__(self, message: str, *, code: int) -> None:
        """``code``: as its ranks told it."""
        super().__init__(message)
        self.exit_code = code


@dataclass(frozen=True)
class Job:
    """What is launched."""

    words: tuple[str, ...]
    out: Path
    batches: Mapping[str, int]
    """Numbers of crops that all ranks must be able to share equally."""

    def fits(self, world: int) -> bool:
        """Whether so many ranks can share the work."""
        return not any(crops % world for crops in self.batches.values())

    def saved(self) -> int:
        """The step of the newest save, 0 without one."""
        return next((step_of(tag) for tag in candidates(self.out)), 0)

    def seen(self) -> int:
        """The last step that was logged."""
        with suppress(DataError, OSError, IndexError):
            return int(read_metrics(self.out)[-1]["step"])
        return 0


def plan(config: Config) -> dict[str, Any]:
    """Where ranks would be started, and by which commands.

    Raises:
        ConfigError: the hostfile or the command is wrong, or the ranks cannot share the batch.
        HostError: the launcher is not installed.
    """
    job, slots = _job(config), _slots(config)
    first = next(iter(slots)).rpartition("@")[2]
    places = Places(slots, "127.0.0.1" if config.ranks else first, config.port or PORT)
    _check_world(job, places.world)
    told = {EXPECT: str(places.world), VARIABLE: "..."}
    started = commands(config.launcher, places, job.words, variables=told)
    return {
        "hosts": dict(slots),
        "ranks": places.world,
        "out": str(job.out),
        "crops_per_rank": {name: crops // places.world for name, crops in job.batches.items()},
        "commands": [shlex.join(command.words) for command in started],
    }


def run(config: Config) -> dict[str, Any]:
    """Start the job, and again from its newest save until it is done, asked to stop, or refused.

    Returns:
        Nothing: the run folder has it.

    Raises:
        ConfigError: the hostfile or the command is wrong, or the ranks cannot share the batch.
        HostError: a host does not answer at the first start, or the launcher is not installed.
        JobFailed: the ranks refused, or crashed too often.
        Stopped: a signal asked for it; the same command goes on.
    """
    job, slots = _job(config), _slots(config)
    _check_world(job, sum(slots.values()))
    row = 0
    with noting() as asked:
        for number in count():
            before = job.saved()
            outcome = _start(config, job, slots, asked=asked, number=number)
            if outcome.kind == "done":
                return {}
            if outcome.kind == "refused":
                raise JobFailed(f"not started again: {outcome.why}", code=outcome.code)
            row = 1 if job.saved() > before else row + 1
            if asked or row > config.max_restarts:
                break
            seconds = min(config.backoff * 2 ** (row - 1), LONGEST_WAIT)
            _say(
                f"{outcome.why}, after step {job.seen()} (exit code {outcome.code}); start "
                f"{number + 2} in {seconds:.0f} s from {_point(job)}; crashes in a row: {row}, "
                f"max_restarts {config.max_restarts}"
            )
            _wait(seconds, asked)
    if asked or outcome.kind == "stopped":
        raise Stopped(f"{outcome.why}; the same command goes on from {_point(job)}")
    raise JobFailed(
        f"{outcome.why}: {row} crashes in a row, max_restarts {config.max_restarts}; the same "
        f"command goes on from {_point(job)}",
        code=outcome.code,
    )


def _start(
    config: Config,
    job: Job,
    slots: Mapping[str, int],
    *,
    asked: Sequence[signal.Signals],
    number: int,
) -> Outcome:
    """Start the job once; hosts lost since the first start, ``number`` 0, are left out."""
    try:
        places = _places(config, job, slots, promised=number == 0)
    except HostError as error:
        if number == 0:
            raise
        return Outcome("crashed", error.exit_code, str(error))
    if asked:
        return Outcome("stopped", Stopped.exit_code, f"stopped by {asked[0].name}")
    with listening(own_address(places.address)) as door:
        attempt = Attempt(
            door, world=places.world, address=door.getsockname()[0], grace=config.grace, asked=asked
        )
        told = {EXPECT: str(places.world), VARIABLE: attempt.hold.text()}
        return attempt.run(commands(config.launcher, places, job.words, variables=told))


def _job(config: Config) -> Job:
    """The command that is launched, checked as its ranks will."""
    words = config.command[1:] if config.command[:1] == ("--",) else config.command
    if not words or words[0] not in LAUNCHED:
        raise ConfigError(f"launch: what? give it last: launch ... -- {'|'.join(LAUNCHED)} ...")
    verb, *rest = words
    module = importlib.import_module(f"tokenunify_scale.{verb}")
    options = parser_of(verb, module.Config, purpose=verb).parse_args(rest)
    for name in ("dry_run", "list", "slurm"):
        if getattr(options, name):
            raise ConfigError(f"launch: --{name.replace('_', '-')} starts no ranks: give it alone")
    training = build(module.Config, request(module.Config, options), where=verb)
    if training.expect_world is not None:
        raise ConfigError("launch: it promises the number of ranks itself: no --expect-world")
    batches = {"global_batch": training.global_batch}
    if getattr(training, "held_out", None):
        batches["held_out_crops"] = training.held_out_crops
    return Job(tuple(words), training.out, batches)


def _slots(config: Config) -> dict[str, int]:
    """Hosts, as ssh takes them, and how many ranks each is to have."""
    if config.hostfile is None:
        return {LOCAL: config.ranks or 1}
    return {host.name: host.slots for host in read_hostfile(config.hostfile)}


def _check_world(job: Job, world: int) -> None:
    for name, crops in job.batches.items():
        if crops % world:
            raise ConfigError(f"launch: {name} {crops} is not a multiple of {world} ranks")


def _places(config: Config, job: Job, slots: Mapping[str, int], *, promised: bool) -> Places:
    """Where ranks can be started now; hosts that are lost, or slots, are left out and said.

    Raises:
        HostError: not all are there, and all were ``promised``; or too few are left.
    """
    if config.hostfile is None:
        return Places(slots, port=config.port or free_port())
    there, address, lost = ask(slots, timeout=config.timeout)
    if lost and promised:
        doctor = f"tokenunify doctor --hostfile {config.hostfile}"
        raise HostError(f"{config.hostfile} names what is not there: {'; '.join(lost)}: {doctor}")
    there = share(there, fits=job.fits)
    world, wanted = sum(there.values()), sum(slots.values())
    if world < config.min_ranks or not world:
        raise HostError(f"{world} of {wanted} ranks are left, min_ranks is {config.min_ranks}")
    if world < wanted:
        hosts = ", ".join(f"{host} slots={ranks}" for host, ranks in there.items())
        why = f"lost: {'; '.join(lost)}" if lost else "as the batch can be shared"
        _say(f"{world} of {wanted} ranks go on ({why}): {hosts}")
    return Places(there, address, config.port or PORT)


def _point(job: Job) -> str:
    """From where a start would go on."""
    step = job.saved()
    return f"the save of step {step}" if step else "the beginning"


def _say(line: str) -> None:
    print(f"launch: {line}", file=sys.stderr, flush=True)


def _wait(seconds: float, asked: Sequence[signal.Signals]) -> None:
    until = time.monotonic() + seconds
    while not asked and time.monotonic() < until:
        time.sleep(min(0.2, seconds))
