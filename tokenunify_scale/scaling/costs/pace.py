"""Seconds from work: by what was measured, between sizes that were, else by an assumed speed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean

import torch

from tokenunify_scale.scaling.costs.costs import Cost
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.train.peaks import peak_tflops
from tokenunify_scale.train.plan import Speeds

CPU_FLOPS = 15e9
"""FLOP/s of a CPU thread, assumed: what atto and femto got on cores with AVX-512."""

TIMES = ("seconds", "fixed")  # of a sample
START = 10.0  # seconds in which a process starts and loads, assumed


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one run took."""

    kind: str
    work: float
    """As ``Cost.work`` has it."""
    seconds: float
    """A step of a training; a whole job of any other kind."""
    fixed: float = 0.0
    """What a training took beside its steps."""


@dataclass(frozen=True)
class Pace:
    """How long jobs take here."""

    samples: Sequence[Sample]
    assumed: float
    """FLOP/s of a job, where nothing of its kind was measured."""
    measured_on: str = ""
    known: Mapping[str, list[Sample]] = field(init=False)

    def __post_init__(self) -> None:
        """Sort samples by kind and work; those of one work are one, their mean.

        More work takes no less time: a small network that was slower than a larger one, as the
        first run of all is, for it compiles kernels for those that follow, counts as fast as that.
        """
        ordered = sorted(self.samples, key=lambda one: (one.kind, one.work))
        found: dict[str, list[Sample]] = {}
        for (kind, work), same in groupby(ordered, key=lambda one: (one.kind, one.work)):
            alike = list(same)
            means = {name: fmean(getattr(s, name) for s in alike) for name in TIMES}
            found.setdefault(kind, []).append(Sample(kind=kind, work=work, **means))
        for some in found.values():
            for i in range(len(some) - 2, -1, -1):
                least = {n: min(getattr(some[i], n), getattr(some[i + 1], n)) for n in TIMES}
                some[i] = dataclasses.replace(some[i], **least)
        object.__setattr__(self, "known", found)

    def seconds(self, cost: Cost) -> float | None:
        """Of a job, from its process's start to its end; None where nothing tells."""
        alike = self.known.get(cost.kind)
        if alike is None:
            return None if cost.flops is None else START + cost.flops / self.assumed
        if cost.work is None:
            return fmean(one.seconds for one in alike)
        unit = _between([(one.work, one.seconds) for one in alike], cost.work)
        if cost.steps is None:
            return unit
        return cost.steps * unit + _between_plainly([(s.work, s.fixed) for s in alike], cost.work)

    def is_measured(self, cost: Cost) -> bool:
        """Whether a job's kind was measured."""
        return cost.kind in self.known


def assumed_flops(
    *, threads: int, world: int = 1, tflops: float | None = None
) -> tuple[float, str]:
    """FLOP/s of a job that nothing is known of, and what they are taken from.

    Args:
        threads: of a job on a CPU.
        world: ranks of a training on GPUs.
        tflops: peak TFLOP/s of a device, where the study will run on others than this machine's.
    """
    speeds = Speeds()
    if tflops is not None:
        words = f"{speeds.share:.0%} of {tflops:g} TFLOP/s a device"
        return 1e12 * tflops * speeds.share * world, words
    if not torch.cuda.is_available():
        return CPU_FLOPS * threads, f"{CPU_FLOPS / 1e9:g} GFLOP/s a thread, {threads} a job"
    name = torch.cuda.get_device_name()
    peak = peak_tflops(name, "bf16") or speeds.peak_tflops
    return 1e12 * peak * speeds.share * world, f"{speeds.share:.0%} of {peak:g} TFLOP/s ({name})"


def makespan(jobs: Sequence[Job], seconds: Mapping[str, float], *, slots: int) -> float:
    """Seconds until all jobs are done, started as the pool starts them.

    Args:
        jobs: those to do, each after those it needs.
        seconds: of each, by name.
        slots: jobs side by side.
    """
    waiting, running, done, now = list(jobs), [], set(), 0.0
    open_jobs = {job.name for job in jobs}
    while waiting or running:
        for job in list(waiting):
            ready = all(need in done or need not in open_jobs for need in job.needs)
            if ready and len(running) < slots:
                waiting.remove(job)
                running.append((now + seconds[job.name], job.name))
        now, name = min(running)
        running.remove((now, name))
        done.add(name)
    return now


def _between(points: Sequence[tuple[float, float]], work: float) -> float:
    """Seconds on a line between measured points, both on logarithmic scales; beyond, as fast as
    the nearest."""
    (least, _), (most, _) = points[0], points[-1]
    if work <= least or work >= most:
        nearest = points[0] if work <= least else points[-1]
        return nearest[1] * work / nearest[0]
    logs = [(math.log(x), math.log(y)) for x, y in points]
    return math.exp(_between_plainly(logs, math.log(work)))


def _between_plainly(points: Sequence[tuple[float, float]], x: float) -> float:
    """On lines between points whose x rise; beyond, as at the nearest."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]
