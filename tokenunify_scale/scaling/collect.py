"""Gather a study's results into one table, from what its runs wrote and nothing else."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenunify_scale.config import DataError
from tokenunify_scale.scaling.plan import Job
from tokenunify_scale.scaling.study import RANDOM, STAGES
from tokenunify_scale.train.runlog import read_result, write_atomically

SCORES = ("voi_split", "voi_merge", "voi", "arand")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell of the grid; what has not been measured is None."""

    size: str
    init: str
    seed: int
    variant: str = ""
    """Of the study's own axis, where it has one."""
    parameters: int | None = None
    """Of the fine-tuned network."""
    pretrain_loss: float | None = None
    """Last loss of the pretraining; objectives differ, so compare it within one init only."""
    finetune_loss: float | None = None
    voi_split: float | None = None
    voi_merge: float | None = None
    voi: float | None = None
    """Variation of information in bits; lower is better."""
    arand: float | None = None
    """Adapted Rand error; lower is better."""
    seconds: float | None = None
    """Sum over the row's own runs; data that all rows share are not counted."""
    missing: str = ""
    """The first run that has no valid result; empty where the row is complete."""


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


def collect(jobs: Iterable[Job], states: Mapping[str, str]) -> list[Row]:
    """One row a cell of the grid, each number read from the result.json of the run it describes.

    Args:
        jobs: the plan of the study.
        states: what stands in each job's folder; results of other requests count as missing.

    Raises:
        DataError: a result lacks a number, or says it is of another model, seed or objective.
    """
    ran = [job for job in jobs if job.axes]
    cells: dict[tuple, dict[str, Job]] = {}
    for job in ran:
        cells.setdefault(tuple(job.axes.values()), {})[job.verb] = job
    # A pretraining that variants share has no cell of its own.
    shared = {key: chain for key, chain in cells.items() if [*chain] == ["pretrain"]}
    rows = {key: chain for key, chain in cells.items() if key not in shared}
    return [_row({**shared.get(key[:3], {}), **chain}, states) for key, chain in rows.items()]


def _row(chain: Mapping[str, Job], states: Mapping[str, str]) -> Row:
    stages = [chain[stage] for stage in STAGES if stage in chain]
    pretrain = chain.get("pretrain")
    learned = pretrain.arguments["objective"]["name"] if pretrain else RANDOM
    finished = [job for job in stages if states[job.name] == "finished"]
    found = {job.verb: _result(job, learned=learned) for job in finished}
    row: dict[str, Any] = dict(stages[-1].axes)
    row["missing"] = next((job.name for job in stages if job.verb not in found), "")
    for stage in ("pretrain", "finetune"):
        if stage in found:
            row[f"{stage}_loss"] = _value(found[stage], chain[stage], "metrics", "loss")
    if "finetune" in found:
        row["parameters"] = _value(found["finetune"], chain["finetune"], "model", "parameters")
    if "evaluate" in found:
        for score in SCORES:
            row[score] = _value(found["evaluate"], chain["evaluate"], "metrics", score)
    if not row["missing"]:
        times = [_value(found[job.verb], job, "seconds") for job in stages]
        row["seconds"] = round(sum(times), 2)
    return Row(**row)


def _result(job: Job, *, learned: str) -> dict[str, Any]:
    """A job's result, if it agrees with the plan on what was run, and learned before."""
    result = read_result(job.folder) or {}
    planned = {"verb": job.verb}
    if job.verb in ("pretrain", "finetune"):
        planned |= {"model": job.arguments["model"]["name"], "seed": job.axes["seed"]}
    if job.verb == "pretrain":
        planned["objective"] = learned
    if job.verb == "finetune":
        planned["init"] = learned
    for key, value in planned.items():
        said = result.get(key)
        said = said.get("name") if isinstance(said, Mapping) else said
        if said != value:
            raise DataError(f"{job.folder / 'result.json'}: {key} is {said!r}, planned: {value!r}")
    return result


def _value(result: Mapping[str, Any], job: Job, *keys: str) -> float:
    """A number of a result, which must be there."""
    value: Any = result
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        place = ".".join(keys)
        raise DataError(f"{job.folder / 'result.json'}: {place} is {value!r}, not a number")
    return value


def to_csv(rows: Iterable[Row]) -> str:
    """Rows as CSV, numbers in full; what is missing is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    return text.getvalue()


def to_markdown(rows: Iterable[Row]) -> str:
    """Rows as a Markdown table, numbers rounded for reading; what is missing is a dash."""
    rows = list(rows)
    optional = [c for c in ("variant", "missing") if not any(getattr(row, c) for row in rows)]
    columns = [c for c in COLUMNS if c not in optional]
    cells = [[_cell(column, getattr(row, column)) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    text = [name in ("size", "init", "variant", "missing") for name in columns]
    rule = ["-" * w if t else "-" * (w - 1) + ":" for w, t in zip(widths, text, strict=True)]
    lines = []
    for line in (columns, rule, *cells):
        aligned = [
            cell.ljust(width) if is_text else cell.rjust(width)
            for cell, width, is_text in zip(line, widths, text, strict=True)
        ]
        lines.append(f"| {' | '.join(aligned)} |\n")
    return "".join(lines)


def _cell(column: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if column == "parameters":
        return f"{value:,}"
    if column == "seconds":
        return f"{value:.0f}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def write_tables(rows: Iterable[Row], out: Path) -> list[Path]:
    """Write table.csv, table.md and table.json into a folder; returns their paths."""
    rows = list(rows)
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "table.csv": to_csv(rows),
        "table.md": to_markdown(rows),
        "table.json": json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n",
    }
    for name, text in texts.items():
        write_atomically(out / name, text)
    return [out / name for name in texts]
