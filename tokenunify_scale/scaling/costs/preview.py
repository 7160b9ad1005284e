"""The plan of a study as a table: what each run costs, in all, and whether it can be at all."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tokenunify_scale.config import ConfigError
from tokenunify_scale.scaling.costs.calibrate import device_name, read_rates, samples
from tokenunify_scale.scaling.costs.costs import Cost
from tokenunify_scale.scaling.costs.pace import Pace, assumed_flops, makespan
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.grid.study import STAGES
from tokenunify_scale.scaling.jobs.states import STATES, State
from tokenunify_scale.train.memory import GIB

HEADS = ("run", "parameters", "steps", "TFLOP", "GiB/rank", "disk GiB", "time", "dev-h", "cost")
NOTHING = "-"


@dataclass(frozen=True, kw_only=True)
class Money:
    """What a device costs."""

    rate: float
    """Of an hour of one device."""
    currency: str = "USD"

    def __post_init__(self) -> None:
        """Refuse a negative rate."""
        if not self.rate >= 0:
            raise ConfigError(f"--rate must be >= 0 {self.currency} an hour, got {self.rate}")


@dataclass(frozen=True, kw_only=True)
class Room:
    """What there is to run in."""

    memory: float
    """Bytes that a rank may hold."""
    host: float
    """Bytes that all jobs of a host may hold together, where they are in one memory; else inf."""
    device: str
    disk: float
    """Free bytes."""
    folder: Path
    """Where they are free."""


def room_of(out: Path, *, device_memory: float | None = None) -> Room:
    """This machine, and the file system of a study's folder.

    Args:
        out: folder of the study; need not be there.
        device_memory: GiB of a rank, where the study will run on other devices than this machine's.
    """
    folder = next(each for each in (out, *out.absolute().parents) if each.is_dir())
    disk = shutil.disk_usage(folder).free
    if device_memory is not None:
        what, memory, host = "a device", device_memory * GIB, float("inf")
    elif torch.cuda.is_available():
        what, host = device_name(), float("inf")
        memory = float(torch.cuda.get_device_properties(0).total_memory)
    else:
        what = "this host"
        memory = host = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return Room(memory=memory, host=host, device=what, disk=disk, folder=folder)


def check_fits(
    jobs: Iterable[Job],
    costs: Mapping[str, Cost],
    states: Mapping[str, State],
    *,
    room: Room,
    slots: int,
) -> None:
    """Refuse a study that cannot be run to its end here; what is finished does not count.

    Raises:
        ConfigError: every reason, a line each.
    """
    todo = [job for job in jobs if states[job.name] != "finished"]
    held = {job.name: costs[job.name].memory or 0.0 for job in todo}
    reasons = [
        f"{name} needs {size / GIB:.3g} GiB of memory a rank, {room.device} has "
        f"{room.memory / GIB:.3g}: a smaller micro batch, recompute, or a higher ZeRO stage"
        for name, size in held.items()
        if size > room.memory
    ]
    together = sum(sorted(held.values())[-slots:])
    if not reasons and together > room.host:
        reasons.append(
            f"the {slots} largest jobs side by side need {together / GIB:.3g} GiB of memory, "
            f"{room.device} has {room.host / GIB:.3g}: --jobs {_most(held.values(), room.host)}"
        )
    disk = sum(costs[job.name].disk for job in todo)
    if disk > room.disk:
        reasons.append(
            f"the study needs {disk / GIB:.3g} GiB of disk, {room.disk / GIB:.3g} are free at "
            f"{room.folder}: fewer checkpoints (saves.keep), or another --out"
        )
    if reasons:
        raise ConfigError("\n".join(reasons))


def _most(sizes: Iterable[float], limit: float) -> int:
    """How many of the largest fit side by side; at least 1."""
    ordered, count = sorted(sizes, reverse=True), 1
    while sum(ordered[: count + 1]) <= limit and count < len(ordered):
        count += 1
    return count


def pace_of(
    jobs: Sequence[Job],
    costs: Mapping[str, Cost],
    states: Mapping[str, State],
    out: Path,
    *,
    threads: int,
    world: int = 1,
    tflops: float | None = None,
) -> tuple[Pace, str]:
    """How long jobs take by all that is known, and where that is from, in words.

    Args:
        jobs: of the study.
        costs: of each, by name.
        states: of each, by name.
        out: folder of the study, with rates.json after a calibration.
        threads: of a job.
        world: ranks of a training.
        tflops: as ``assumed_flops`` has it.
    """
    learned = samples(jobs, costs, states)
    short, place = read_rates(out)
    own = {(one.kind, one.work) for one in learned}
    used = [one for one in short if (one.kind, one.work) not in own]
    flops, words = assumed_flops(threads=threads, world=world, tflops=tflops)
    sources = [f"{len(learned)} finished runs"] if learned else []
    sources += [f"{len(used)} runs of the calibration on {place}"] if used else []
    pace = Pace(samples=[*learned, *used], assumed=flops)
    if not sources:
        return pace, f"assumed: {words}; measure it with --calibrate"
    assumed = any(costs[job.name].flops and not pace.is_measured(costs[job.name]) for job in jobs)
    rest = f"; where nothing of its kind was, assumed: {words}" if assumed else ""
    return pace, f"measured: {' and '.join(sources)}{rest}"


def table(
    jobs: Sequence[Job],
    costs: Mapping[str, Cost],
    states: Mapping[str, State],
    *,
    pace: Pace,
    source: str,
    slots: int,
    world: int = 1,
    money: Money | None = None,
) -> str:
    """The plan as text: a line a run, a line a stage, the whole, and where times are from.

    Args:
        jobs: of the study.
        costs: of each, by name.
        states: of each, by name.
        pace: how long jobs take.
        source: of the times, as ``pace_of`` words it.
        slots: jobs side by side.
        world: devices of a training.
        money: what a device costs; no costs without.
    """
    seconds = {job.name: pace.seconds(costs[job.name]) for job in jobs}
    devices = {job.name: world if job.verb in ("pretrain", "finetune") else 1 for job in jobs}

    def known(job: Job) -> bool:
        return seconds[job.name] is not None

    def line(name: str, some: Sequence[Job], steps: int | None, state: str) -> tuple[str, ...]:
        parts = [costs[job.name] for job in some]
        hours = [seconds[job.name] / 3600 * devices[job.name] for job in some if known(job)]
        return (
            name,
            f"{parts[0].parameters:,}" if name in costs and parts[0].parameters else "",
            str(steps or ""),
            _number([part.flops for part in parts], unit=1e12),
            _number([part.memory for part in parts], unit=GIB, of=max),
            _number([part.disk or None for part in parts], unit=GIB),
            duration(sum(seconds[job.name] for job in some if known(job))) if hours else NOTHING,
            f"{sum(hours):.3g}" if hours else NOTHING,
            f"{sum(hours) * money.rate:,.2f}" if hours and money else NOTHING,
            state,
        )

    rows = [(*HEADS[:-1], f"cost, {money.currency}" if money else HEADS[-1], "state")]
    rows += [line(job.name, [job], costs[job.name].steps, states[job.name]) for job in jobs]
    rows.append(("",) * len(rows[0]))
    for verb in dict.fromkeys(["prepare", *STAGES]):
        if some := [job for job in jobs if job.verb == verb]:
            rows.append(line(f"all {verb}", some, None, ""))
    todo = [job for job in jobs if states[job.name] != "finished"]
    rows.append(line("all", jobs, None, ""))
    rows += [line("to do", todo, None, "")] if 0 < len(todo) < len(jobs) else []
    kept = [i for i in range(len(rows[0])) if money or i != HEADS.index("cost")]
    text = aligned([[row[i] for i in kept] for row in rows], words=(0, len(kept) - 1))
    return f"{text}\n\n{summary(jobs, costs, states, pace=pace, source=source, slots=slots)}"


def summary(
    jobs: Sequence[Job],
    costs: Mapping[str, Cost],
    states: Mapping[str, State],
    *,
    pace: Pace,
    source: str,
    slots: int,
) -> str:
    """How many jobs are in which state, and how long the rest will take; as ``table``, shorter."""
    todo = [job for job in jobs if states[job.name] != "finished"]
    seconds = {job.name: pace.seconds(costs[job.name]) for job in jobs}
    end = makespan(todo, {name: value or 0.0 for name, value in seconds.items()}, slots=slots)
    counted = {state: sum(states[job.name] == state for job in jobs) for state in STATES}
    told = ", ".join(f"{count} {state}" for state, count in counted.items() if count)
    unknown = sorted({job.verb for job in todo if seconds[job.name] is None})
    without = f", without {', '.join(unknown)}, of which nothing is known" if unknown else ""
    ends = f"about {duration(end)} with {slots} at a time" if end or not todo else "not known"
    return f"{len(jobs)} jobs: {told}\ntime: {ends}{without}\ntimes are {source}"


def aligned(rows: Sequence[Sequence[str]], *, words: Iterable[int]) -> str:
    """Rows as columns: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = set(words)
    lines = (
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds in the units that a reader thinks in: 45 s, 12 min, 3.4 h, 2.1 d."""
    for unit, size, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def _number(
    values: Iterable[float | None], *, unit: float, of: Callable[[list[float]], float] = sum
) -> str:
    known = [value for value in values if value is not None]
    value = of(known) / unit if known else 0.0
    return (f"{value:.3g}" if value < 1000 else f"{value:,.0f}") if known else NOTHING
