"""What a step of each objective costs beside mae's, and the report of next-all's growth."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tokenunify_scale.measure.clock import own_clock, seconds_of
from tokenunify_scale.measure.growth import ATTENTION, DEPTH, LARGER, OURS, PATCH
from tokenunify_scale.measure.picture import draw_growth
from tokenunify_scale.measure.report import Finding, milliseconds, table
from tokenunify_scale.models.perceiver import PerceiverConfig
from tokenunify_scale.volumes.geometry import Triple

BASE, THREE_WAY = "mae", "tokenunify"  # names of objectives: the second is held against the first
BATCH = 2  # crops: one at an even position of the stream, one at an odd, which has a prefix
PROGRESS = 0.5  # of training; every term is computed at any
LIMIT = 240.0  # seconds after which no turn begins, but for the second
MEBI = 2.0**20
Measured = Mapping[str, Any]


def steps(
    objectives: Mapping[str, nn.Module], *, crop: Triple, repeats: int, device: str
) -> dict[str, float]:
    """Median seconds of forward and backward of each objective on one batch, in turns.

    A first turn warms up and does not count. For the clock see ``own_clock``.

    Args:
        objectives: by name; they may share a backbone.
        crop: size (z, y, x) in voxels of the batch's crops.
        repeats: turns of each, fewer where they take minutes.
        device: where the objectives are.
    """
    batch = {
        "crops": torch.rand(BATCH, 1, *crop, device=device),
        "positions": torch.arange(BATCH, device=device),
    }

    def step(objective: nn.Module) -> None:
        objective.zero_grad(set_to_none=True)
        objective(batch, progress=PROGRESS).loss.backward()

    def turn() -> dict[str, float]:
        works = {name: partial(step, objective) for name, objective in objectives.items()}
        return {name: seconds_of(work, clock=clock) for name, work in works.items()}

    clock, end = own_clock(device), time.monotonic() + LIMIT
    turn()  # compiles and loads kernels
    turns: list[dict[str, float]] = []
    while len(turns) < min(repeats, 2) or len(turns) < repeats and time.monotonic() < end:
        turns.append(turn())
    return {name: statistics.median(taken[name] for taken in turns) for name in objectives}


def tables(measured: Measured) -> str:
    """The tables of ``benchmark objectives``."""
    grown, crops = measured["growth"], f"{BATCH} crops of {_times(measured['crop'])}"
    seconds = measured["steps"]
    lines = [
        [name, milliseconds(spent), f"{spent / seconds[BASE]:.2f}"]
        for name, spent in seconds.items()
    ]
    return "\n\n".join(
        [
            f"{_fixed(grown['sizes'][0])}\ntimes, steps too, by Python's {grown['clock']}",
            _growth(grown, "seconds", "forward and backward, s", unit=1.0),
            _growth(grown, "bytes", "peak extra memory, MiB", unit=MEBI),
            table([f"a step, {crops}", "ms", f"/ {BASE}"], lines),
        ]
    )


def findings(measured: Measured) -> list[Finding]:
    """What of ``benchmark objectives`` has a target, and pairwise attention beside it."""
    ways, seconds = measured["growth"]["ways"], measured["steps"]
    found = []
    for kind, what in (("seconds", "time"), ("bytes", "peak memory")):
        for way in (OURS, ATTENTION):
            value = ways[way]["exponents"][kind]
            if value is not None:
                judged = way == OURS
                found.append(Finding(f"exponent of {what}, {way}", value, "growth", judged))
    what = f"step of {THREE_WAY} / of {BASE}"
    return [*found, Finding(what, seconds[THREE_WAY] / seconds[BASE], "three-way step")]


def draw(path: Path, grown: Measured) -> None:
    """The PNG of ``benchmark objectives``: time and memory of next-all against K."""
    axes = {"seconds": ("seconds", 1.0), "bytes": ("peak extra memory, MiB", MEBI)}
    panels = {
        name: {
            way: ([value / unit for value in found[kind]], found["exponents"][kind])
            for way, found in grown["ways"].items()
        }
        for kind, (name, unit) in axes.items()
        if all(found["exponents"][kind] is not None for found in grown["ways"].values())
    }
    draw_growth(
        path,
        panels,
        counts=[size["patches"] for size in grown["sizes"]],
        label=f"patches K (exponents of the last {_fitted(grown)})",
        title="Next-all from half of the patches: forward and backward of one crop",
    )


def _fixed(size: Measured) -> str:
    """What does not grow with the patches."""
    config, cells = PerceiverConfig(), math.prod(size["cells"]) / size["patches"]
    return (
        f"next-all of one crop of {DEPTH * PATCH[0]} sections, half of its patches visible. Fixed: "
        f"patches of {_times(PATCH)},\n{cells:g} feature cells of {size['width']} channels a "
        f"patch, width {config.width}, layers: {config.layers}, latents: {config.latents}"
    )


def _growth(grown: Measured, kind: str, what: str, *, unit: float) -> str:
    heads = [f"K = {size['patches']}" for size in grown["sizes"]]
    lines = [
        [
            way,
            *("?" if value is None else f"{value / unit:.3g}" for value in found[kind]),
            "?" if found["exponents"][kind] is None else f"{found['exponents'][kind]:.2f}",
        ]
        for way, found in grown["ways"].items()
    ]
    return table([what, *heads, f"exponent of the last {_fitted(grown)}"], lines)


def _fitted(grown: Measured) -> int:
    return min(LARGER, len(grown["sizes"]))


def _times(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))
