"""Gather a study's results into one table, from what its runs wrote and nothing else."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenunify_scale.config import DataError
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.grid.study import RANDOM, STAGES
from tokenunify_scale.scaling.pages.tables import EMPTY, Table, latex, markdown
from tokenunify_scale.train.runlog import read_result, write_atomically

SCORES = ("voi_split", "voi_merge", "voi", "arand")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell of the grid; what has not been measured is None."""

    size: str
    init: str
    seed: int
    axes: Mapping[str, str] = field(default_factory=dict)
    """Its values on the study's own axes, by name; a column each in the tables."""
    parameters: int | None = None
    """Of the fine-tuned network."""
    pretrain_loss: float | None = None
    """Last loss of the pretraining; objectives differ, so compare it within one init only."""
    finetune_loss: float | None = None
    pretrain_crops: int | None = None
    """Crops that the pretraining has seen, repeated ones too: data D, where an axis changes it."""
    finetune_crops: int | None = None
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


CELL = ("size", "init", "seed")
MEASURED = tuple(f.name for f in dataclasses.fields(Row) if f.name not in (*CELL, "axes"))
COLUMNS = (*CELL, *MEASURED)
"""Of every table; no axis of a study can have one of these names."""


def axes_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """Names of the axes that rows have beyond size, init and seed, in the study's order."""
    return tuple(dict.fromkeys(name for row in rows for name in row.axes))


def values_of(row: Row) -> dict[str, str]:
    """Where a row stands on every axis, by name, as text."""
    return {name: str(getattr(row, name)) for name in CELL} | dict(row.axes)


def records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows as plain data with the same keys each: the columns, the study's axes after the seed."""
    rows = list(rows)
    axes = axes_of(rows)
    return [
        {name: getattr(row, name) for name in CELL}
        | {name: row.axes.get(name, "") for name in axes}
        | {name: getattr(row, name) for name in MEASURED}
        for row in rows
    ]


def collect(jobs: Iterable[Job], states: Mapping[str, str]) -> list[Row]:
    """One row a cell of the grid, each number read from the result.json of the run it describes.

    A cell is a run that no other needs, with all that it builds on; what cells share counts for
    each of them.

    Args:
        jobs: the plan of the study.
        states: what stands in each job's folder; results of other requests count as missing.

    Raises:
        DataError: a result lacks a number, or says it is of another model, seed or objective.
    """
    ran = {job.name: job for job in jobs if job.axes}
    needed = {need for job in ran.values() for need in job.needs}
    last = [job for name, job in ran.items() if name not in needed]
    return [_row(_chain(job, ran), states) for job in last]


def _chain(last: Job, jobs: Mapping[str, Job]) -> dict[str, Job]:
    """A run and all that it builds on, by verb in the order of the stages."""
    found, waiting = {}, [last]
    while waiting:
        job = waiting.pop()
        found[job.verb] = job
        waiting += [jobs[need] for need in job.needs if need in jobs]
    return {stage: found[stage] for stage in STAGES if stage in found}


def _row(chain: Mapping[str, Job], states: Mapping[str, str]) -> Row:
    stages = list(chain.values())
    pretrain = chain.get("pretrain")
    learned = pretrain.arguments["objective"]["name"] if pretrain else RANDOM
    finished = [job for job in stages if states[job.name] == "finished"]
    found = {job.verb: _result(job, learned=learned) for job in finished}
    axes = stages[-1].axes
    row: dict[str, Any] = {name: axes[name] for name in CELL}
    row["axes"] = {name: str(value) for name, value in axes.items() if name not in CELL}
    row["missing"] = next((job.name for job in stages if job.verb not in found), "")
    for stage in ("pretrain", "finetune"):
        if stage in found:
            row[f"{stage}_loss"] = _value(found[stage], chain[stage], "metrics", "loss")
            row[f"{stage}_crops"] = found[stage].get("crops_seen")
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
    lines = records(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def to_table(rows: Iterable[Row], *, caption: str = "") -> Table:
    """Rows as a table, numbers rounded for reading; what is missing is a dash.

    The last column, which names the first run without a result, is there where a row has one.
    """
    rows = list(rows)
    columns = [*CELL, *axes_of(rows), *MEASURED]
    if not any(row.missing for row in rows):
        columns.remove("missing")
    return Table(
        columns=tuple(columns),
        rows=tuple(tuple(_cell(c, line[c]) for c in columns) for line in records(rows)),
        words=frozenset({"size", "init", "missing", *axes_of(rows)}),
        caption=caption,
    )


def to_markdown(rows: Iterable[Row]) -> str:
    """Rows as a Markdown table."""
    return markdown(to_table(rows))


def to_latex(rows: Iterable[Row]) -> str:
    """Rows as a LaTeX table, its numbers as in Markdown."""
    return latex(to_table(rows))


def _cell(column: str, value: Any) -> str:
    if value is None or value == "":
        return EMPTY
    if column == "parameters":
        return f"{value:,}"
    if column == "seconds":
        return f"{value:.0f}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def write_tables(rows: Iterable[Row], out: Path) -> list[Path]:
    """Write table.csv, table.md, table.tex and table.json into a folder; returns their paths."""
    rows = list(rows)
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "table.csv": to_csv(rows),
        "table.md": to_markdown(rows),
        "table.tex": to_latex(rows),
        "table.json": json.dumps(records(rows), indent=1) + "\n",
    }
    for name, text in texts.items():
        write_atomically(out / name, text)
    return [out / name for name in texts]
