"""The numbers of a comparison: means for result.json, a table to read, a row for each crop."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokenunify_scale.objectives.reconstruction import TASKS
from tokenunify_scale.objectives.rollout import psnr

FLOOR = "mean of the visible"
HEADS = ("run", "objective", "patch", "path", "fill", "random", "next", "next-all", "")


class Found(NamedTuple):
    """What was measured of one run: mean squared errors by task, one a crop or photograph."""

    errors: dict[str, np.ndarray]
    """[N] each; NaN where nothing is claimed."""

    floor: dict[str, np.ndarray]
    """The same of no network at all: the mean of what is visible."""

    def mean_psnr(self) -> dict[str, float]:
        """By task, the mean over crops or photographs of each one's PSNR in dB."""
        return {task: float(psnr(self.errors[task]).mean()) for task in TASKS}


def metrics_of(found: Found) -> dict[str, float | None]:
    """Means over crops or photographs; None for what does not exist, as JSON has no infinity.

    The mean PSNR is the mean of each crop's dB, as published tables average it; it is not the PSNR
    of the mean error.
    """
    metrics = {}
    for prefix, errors in (("", found.errors), ("floor_", found.floor)):
        for task in TASKS:
            metrics[f"{prefix}{task}_mse"] = errors[task].mean()
            metrics[f"{prefix}{task}_psnr"] = psnr(errors[task]).mean()
    return {name: float(v) if math.isfinite(v) else None for name, v in metrics.items()}


def summary(result: Mapping[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    """Heads and rows of the table that is printed: PSNR in dB, a floor for each kind of masks.

    Args:
        result: as ``Study.run`` returns it.
    """
    rows, floors = [], {}
    for name, about in result["runs"].items():
        hiding = ["x".join(map(str, about["patch"])), about["path"], about["fill"]]
        metrics = result["metrics"][name]
        cells = [_db(metrics[f"{task}_psnr"]) for task in TASKS]
        rows.append([name, about["objective"], *hiding, *cells, about["note"]])
        cells = [_db(metrics[f"floor_{task}_psnr"]) for task in TASKS]
        floors.setdefault(tuple(hiding[:2]), [FLOOR, "", *hiding[:2], "", *cells, ""])
    for column, value in result.get("paper", {}).items():
        objective, side = column.split("_")
        patch = f"1x{side}x{side}"
        floors[column] = ["the paper's", objective, patch, "", "", "", _db(value), "", ""]
    return HEADS, rows + list(floors.values())


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def write_csv(
    path: Path,
    founds: Mapping[str, Found],
    *,
    names: Sequence[str],
    about: Mapping[str, Mapping[str, Any]],
    paper: Mapping[str, Sequence[float]],
) -> None:
    """A row for each run and crop or photograph; what is not claimed, or infinite, is empty.

    Args:
        path: the file.
        founds: by run.
        names: of the crops or photographs.
        about: of each run its objective, patch, path and fill.
        paper: its PSNR of each photograph, by column.
    """
    rows = []
    for run, found in founds.items():
        facts = about[run]
        patch = "x".join(map(str, facts["patch"]))
        for i, name in enumerate(names):
            row = {"run": run, "objective": facts["objective"], "patch": patch}
            row |= {"path": facts["path"], "fill": facts["fill"], "crop": name}
            for prefix, errors in (("", found.errors), ("floor_", found.floor)):
                row |= {f"{prefix}{task}_mse": errors[task][i] for task in TASKS}
                row |= {f"{prefix}{task}_psnr": psnr(errors[task][i]) for task in TASKS}
            row |= {f"paper_{column}": values[i] for column, values in paper.items()}
            rows.append({k: _plain(v) for k, v in row.items()})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return float(value) if math.isfinite(value) else ""
