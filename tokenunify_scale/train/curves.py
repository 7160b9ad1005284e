"""Names of a logged line's values: which group each is of, and what a line says in short."""

from collections.abc import Mapping
from typing import Any

from tokenunify_scale.train.held_out import PREFIX as HELD_OUT

WEIGHT = "weight_"
# Names by their group; what is in none is a loss, and what is in "" is no curve.
GROUPS = {
    "optim": ("lr", "grad_norm", "skipped", "steps_skipped", "rollbacks"),
    "rate": (
        "crops_per_s", "tokens_per_s", "voxels_per_s", "tflop_per_s", "mfu", "data_wait",
        "communication", "seconds_left",
    ),
    "memory": ("peak_rss_gib", "peak_gpu_gib"),
    "": ("step", "time", "peak_tflops"),
}  # fmt: skip
GROUP = {name: group for group, names in GROUPS.items() for name in names}


def group_of(name: str) -> str:
    """The group of a value: held_out, weight, one of ``GROUPS``, or loss."""
    for prefix, group in ((HELD_OUT, "held_out"), (WEIGHT, "weight")):
        if name.startswith(prefix):
            return group
    return GROUP.get(name, "loss")


def of_groups(line: Mapping[str, Any], *groups: str) -> dict[str, Any]:
    """The part of a line that is of some groups."""
    return {name: value for name, value in line.items() if group_of(name) in groups}


def losses_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """What a line says of the learning: losses, terms and gradient norm, but no rates."""
    norm = {name: line[name] for name in ("grad_norm",) if name in line}
    return of_groups(line, "loss", "held_out") | norm


def points(line: Mapping[str, Any]) -> dict[str, float]:
    """The values of a line that are known, under the names they have on a board: group/name."""
    return {
        f"{group}/{name.removeprefix(HELD_OUT).removeprefix(WEIGHT)}": value
        for name, value in line.items()
        if (group := group_of(name)) and value is not None
    }


def in_short(line: Mapping[str, Any]) -> str:
    """A line in a few words, for a progress bar."""
    loss, rate = line.get("loss"), line.get("crops_per_s")
    words = [f"loss {loss:.4g}"] if loss is not None else []
    words += [f"{rate:.3g} crops/s"] if rate is not None else []
    return ", ".join(words)
