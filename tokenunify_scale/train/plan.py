"""What a training will need, from numbers alone: memory a rank, work a step."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.train.hostfile import read_hostfile
from tokenunify_scale.train.live import Peak, peak_of_step
from tokenunify_scale.train.memory import GIB, Inventory, inventory, memory_of_rank
from tokenunify_scale.train.strategy import MICRO, computed_in
from tokenunify_scale.train.traffic import traffic

BACKWARD = 3  # a training step computes about three forward passes
GPU_GIB = (24, 40, 48, 80, 141)
MOST = 4096  # crops of a micro-batch that are looked at


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """What a step's time is reckoned from: assumed, all of it, and said."""

    peak_tflops: float = 312.0
    """Of a rank's device: an A100's in bf16."""
    share: float = 0.3
    """Of the peak that convolutions and scans reach."""
    link_GBps: float = 200.0
    """What a rank sends within a host."""
    host_GBps: float = 25.0
    """What all ranks of a host send to others together."""


def job_size(hostfile: Path | str | None, *, expected: int | None, started: int) -> tuple[int, int]:
    """Ranks and hosts of the job that is planned.

    Args:
        hostfile: the job's, as DeepSpeed's launcher would read it; None for one host.
        expected: ranks that are promised, if any are.
        started: ranks of the job that this process belongs to.

    Raises:
        ConfigError: the hostfile is wrong, or has other than the promised number of slots.
    """
    hosts = read_hostfile(hostfile) if hostfile else ()
    ranks = sum(host.slots for host in hosts)
    if hosts and expected not in (None, ranks):
        raise ConfigError(f"expect_world is {expected}, and {hostfile} has {ranks} slots")
    return ranks or expected or started, len(hosts) or 1


def training_plan(
    config: dict[str, Any],
    *,
    objective: nn.Module,
    crop: tuple[int, ...],
    world: int,
    hosts: int = 1,
    steps: int,
    parameters: int,
    gmac: float,
    speeds: Speeds | None = None,
) -> dict[str, Any]:
    """What a run will need of each rank: memory by state, traffic, time, and what would fit.

    Args:
        config: what ``ds_config`` returned.
        objective: on the meta device, blocks computed again or not as in training.
        crop: (C, D, H, W).
        world: number of ranks.
        hosts: that they are spread over evenly.
        steps: optimizer steps of the run.
        parameters: of the network.
        gmac: multiply-accumulates of one crop's forward pass, in 1e9.
        speeds: by default, those of ``Speeds``.

    Returns:
        Plain data for the screen.
    """
    speeds, micro = speeds or Speeds(), config[MICRO]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    counted = inventory(objective, config)
    peaks = _peaks(config, objective, crop=crop)
    memory = memory_of_rank(config, counted=counted, peak=peaks(micro), world=world, device=device)
    sent = traffic(config, counted=counted, world=world)
    teraflop = 2e-3 * gmac * BACKWARD * config["train_batch_size"]
    return {
        "parameters": f"{parameters:,}",
        "ranks": world,
        "hosts": hosts,
        "memory_per_rank_GiB": {
            **{name: round(size / GIB, 3) for name, size in memory.rows.items()},
            "total": round(memory.total / GIB, 3),
        },
        "memory_is_of": f"a {device} rank at its peak, in the {memory.moment}"
        + (f"; {memory.offloaded / GIB:.2f} GiB are offloaded" if memory.offloaded else ""),
        "largest_micro_batch_by_GPU_GiB": {
            str(size): _largest(config, counted, peaks, world=world, limit=size * GIB)
            for size in GPU_GIB
        },
        "sent_per_rank_and_step_GiB": {
            **{name: round(size / GIB, 3) for name, size in sent.items()},
            "total": round(sum(sent.values()) / GIB, 3),
        },
        "TFLOP_per_step": round(teraflop, 4),
        "time_estimate": _time(teraflop, sent, speeds, world=world, hosts=hosts, steps=steps),
    }


def _peaks(
    config: dict[str, Any], objective: nn.Module, *, crop: tuple[int, ...]
) -> Callable[[int], Peak]:
    """The peak of any micro-batch: counted for the run's own, and on a line through it."""
    micro, kind = config[MICRO], computed_in(config)
    cast = None if kind == "float32" else getattr(torch, kind)
    other = micro // 2 or 2
    here, there = (
        peak_of_step(objective, crop=crop, micro=count, cast=cast) for count in (micro, other)
    )
    slope = (here.activations - there.activations) / (micro - other)

    def peak(count: int) -> Peak:
        more = slope * (count - micro)
        return Peak(here.activations + more, here.together + more)

    return peak


def _largest(
    config: dict[str, Any],
    counted: Inventory,
    peaks: Callable[[int], Peak],
    *,
    world: int,
    limit: int,
) -> int:
    """The largest micro-batch whose memory is within a limit on a GPU; 0 if none is."""

    def total(count: int) -> float:
        known = {"counted": counted, "world": world, "device": "cuda"}
        return memory_of_rank(config, peak=peaks(count), **known).total

    return bisect_right(range(1, MOST + 1), limit, key=total)


def _time(
    teraflop: float, sent: dict[str, float], speeds: Speeds, *, world: int, hosts: int, steps: int
) -> str:
    """Seconds of a step and hours of a run, with every number that was assumed."""
    computing = teraflop / (speeds.peak_tflops * speeds.share * world)
    if hosts > 1:
        rate, over = speeds.host_GBps * hosts / world, f"{speeds.host_GBps:g} GB/s a host"
    else:
        rate, over = speeds.link_GBps, f"{speeds.link_GBps:g} GB/s a rank"
    sending = sum(sent.values()) / (1e9 * rate)
    seconds = computing + sending
    return (
        f"{seconds:.3g} s a step, {seconds * steps / 3600:.3g} h in all: {computing:.3g} s to "
        f"compute, at {speeds.share:.0%} of {speeds.peak_tflops:g} TFLOP/s a rank, and "
        f"{sending:.3g} s to send, at {over}, beside nothing else (assumed, not measured)"
    )
