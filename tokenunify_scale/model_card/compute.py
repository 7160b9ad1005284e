"""What the training of weights took: a table with a column for each training."""

from datetime import datetime

from tokenunify_scale.model_card.procedure import CELLS, UNKNOWN, Cell, kind, table, world_of
from tokenunify_scale.model_card.records import Lineage, Record

HOUR = 3600
TERA = 10**12


def compute(line: Lineage) -> str:
    """What the training took: a table, and what its figures are."""
    trained = [stage for stage in line.stages if stage.verb != "import_official"]
    if not trained:
        return UNKNOWN.capitalize() + "."
    notes = [
        "FLOPs are those of the network, counted from its layers (a step as three forward passes, "
        "a multiply-add as two), not of heads and teachers."
    ]
    notes += [
        f"The {kind(stage)} was stopped and went on: the wall time is that of its last part."
        for stage in trained
        if _went_on(stage)
    ]
    return "\n\n".join([table(trained, COSTS), *notes])


def _device(stage: Record) -> str | None:
    """What the ranks ran on; the records have no names of devices."""
    scan = stage.environment.get("scan") or {}
    return {"cpu": "CPU", "cuda": "GPU"}.get(scan.get("device"), scan.get("device"))


def _wall(stage: Record) -> str | None:
    seconds = stage.result.get("seconds")
    return None if seconds is None else f"{seconds:,.0f} s ({seconds / HOUR:.3g} hours)"


def _hours(stage: Record) -> str | None:
    seconds, world, device = stage.result.get("seconds"), world_of(stage), _device(stage)
    if None in (seconds, world, device):
        return None
    hours = f"{seconds * world / HOUR:.3g}"
    if device == "GPU":
        return f"{hours} GPU-hours"
    return f"{hours} rank-hours on the CPU; core-hours: {UNKNOWN}"


def _flops(stage: Record) -> str | None:
    """Of the whole training: those of a crop, by the last line that has them, times the crops."""
    line = next((m for m in reversed(stage.metrics) if m.get("tflop_per_s")), None)
    crops = stage.result.get("crops_seen") or stage.crops
    if line is None or not crops:
        return None
    return f"{line['tflop_per_s'] * TERA / line['crops_per_s'] * crops:.3g}"


def _peak(key: str) -> Cell:
    def cell(stage: Record) -> str | None:
        found = [line[key] for line in stage.metrics if key in line]
        return f"{max(found):.3g} GiB" if found else None

    return cell


def _went_on(stage: Record) -> bool:
    """Whether the process that finished a run was not the one that began it."""
    lines, result = stage.metrics, stage.result
    if not lines or "finished" not in result:
        return False
    began = datetime.fromisoformat(result["finished"]).timestamp() - result["seconds"]
    return lines[0].get("time", began) < began - 1  # finished is in whole seconds


COSTS: dict[str, Cell] = {
    "wall time": _wall,
    "ranks": CELLS["ranks"],
    "device of a rank": _device,
    "device time": _hours,
    "FLOPs of the training": _flops,
    "largest memory of a rank": _peak("peak_rss_gib"),
    "largest GPU memory of a rank": _peak("peak_gpu_gib"),
}
