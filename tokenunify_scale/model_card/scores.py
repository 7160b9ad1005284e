"""What was measured of a model: a table with intervals, and the hub's record of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy import stats

from tokenunify_scale.config import DataError
from tokenunify_scale.model_card.procedure import UNKNOWN
from tokenunify_scale.model_card.records import Lineage, Record, read
from tokenunify_scale.model_card.sources import describe, told

SCORES = {
    "voi_split": "VOI split (bits)",
    "voi_merge": "VOI merge (bits)",
    "voi": "VOI (bits)",
    "arand": "adapted Rand error",
}
LEVEL = 0.95  # of intervals


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation of a segmentation."""

    record: Record

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured of ``SCORES``."""
        found = self.record.result.get("metrics") or {}
        return {key: found[key] for key in SCORES if key in found}

    @property
    def labels(self) -> str:
        """Name of the ground truth."""
        labels = self.record.result.get("labels")
        return told(labels) if labels else UNKNOWN

    @property
    def convention(self) -> dict[str, Any]:
        """What the scores mean."""
        return self.record.result.get("convention") or {}

    @property
    def units(self) -> str:
        """Of variation of information."""
        return self.convention.get("units", "bits")

    @property
    def box(self) -> tuple[list[int], list[int]] | None:
        """Start and stop (z, y, x) of what was scored, in voxels of the ground truth."""
        start, stop = (self.record.result.get(key) for key in ("start", "stop"))
        return (start, stop) if start and stop else None


def open_evaluation(folder: Path) -> Evaluation:
    """Read a finished evaluation.

    Raises:
        DataError: it has not finished, or measured no scores of a segmentation.
    """
    record = read(folder)
    if record is None or not record.result:
        raise DataError(f"{folder} is not a finished evaluation")
    evaluation = Evaluation(record)
    if not evaluation.metrics:
        raise DataError(f"{folder} has no scores of a segmentation ({', '.join(SCORES)})")
    return evaluation


def results(
    evaluations: Sequence[Evaluation],
    line: Lineage,
    *,
    postprocessing: Mapping[str, Any] | None = None,
) -> str:
    """Scores of all evaluations, with their spread, and what they are of."""
    count = len(evaluations)
    heads = [_head(each) for each in evaluations] or ["value"]
    heads = ["score, lower is better", *heads]
    heads += ["mean", "sd", "95 % interval"] if count > 1 else ["95 % interval"]
    rows = [[_name(key, evaluations), *_cells(key, evaluations)] for key in SCORES]
    lines = [heads, ["---"] * len(heads), *rows]
    parts = ["\n".join(f"| {' | '.join(words)} |" for words in lines)]
    if count == 1:
        parts.append("One evaluation of one training: its interval is not measured.")
    elif count > 1:
        parts.append(
            f"Mean, standard deviation and 95 % t-interval of the mean over n = {count} "
            "evaluations of these weights, taken as independent. What another training would give "
            "is not measured."
        )
    if evaluations:
        parts.append("\n".join(_told(each, line) for each in evaluations))
    if postprocessing:
        options = [f"{k} {v}" for k, v in postprocessing.items() if k != "name" and v is not None]
        parts.append(f"Segmented with `{postprocessing.get('name', '?')}`: {', '.join(options)}.")
    return "\n\n".join(parts)


def index(model: str, evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """The hub's record of measured scores, ``model-index``."""
    found = []
    for each in evaluations:
        source = describe(each.record.result.get("labels") or UNKNOWN, each.record)
        kind = source.repository or "electron-microscopy"
        dataset: dict[str, Any] = {"type": kind, "name": each.labels}
        if each.box:
            dataset["args"] = dict(zip(("start", "stop"), each.box, strict=True))
        values = [
            {"type": key, "name": _name(key, [each]), "value": value}
            for key, value in each.metrics.items()
        ]
        task = {"type": "image-segmentation", "name": "neuron segmentation"}
        found.append({"task": task, "dataset": dataset, "metrics": values})
    return [{"name": model, "results": found}]


def seen(evaluation: Evaluation, line: Lineage) -> bool:
    """Whether a training has read, or judged its weights by, some of what a model was scored on."""
    labels, box = evaluation.record.result.get("labels"), evaluation.box
    if not labels:
        return False
    place = evaluation.record.find(labels)
    start, stop = (box[0][0], box[1][0]) if box else (0, math.inf)
    return any(
        spot == place and max(first, start) < min(last, stop)
        for stage in line.stages
        for spot, first, last in _read(stage)
    )


def _read(stage: Record) -> list[tuple[Path, float, float]]:
    """Labels that a training has read, and which of their sections."""
    labels = stage.listed("labels")
    found = [(each, stage.config.get("sections")) for each in labels]
    if validated := stage.config.get("validate"):
        other = (stage.config.get("validation") or {}).get("labels")
        found += [(each, validated) for each in ([other] if other else labels[:1])]
    return [(stage.find(each), *(part or (0, math.inf))) for each, part in found]


def _head(evaluation: Evaluation) -> str:
    """The head of a column."""
    box = evaluation.box
    return f"`{evaluation.labels}`" + (f", sections {box[0][0]}:{box[1][0]}" if box else "")


def _name(key: str, evaluations: Sequence[Evaluation]) -> str:
    units = {each.units for each in evaluations} or {"bits"}
    return SCORES[key].replace("bits", " or ".join(sorted(units)))


def _cells(key: str, evaluations: Sequence[Evaluation]) -> list[str]:
    """The cells of a row: a value each, then mean, spread and interval."""
    values = [each.metrics.get(key) for each in evaluations]
    cells = [UNKNOWN if value is None else f"{value:.4f}" for value in values] or [UNKNOWN]
    if len(values) < 2:
        return [*cells, UNKNOWN]
    units = {each.units for each in evaluations}
    if None in values or (len(units) > 1 and "bits" in SCORES[key]):
        return [*cells, UNKNOWN, UNKNOWN, UNKNOWN]
    low, high = interval(values)
    return [*cells, f"{mean(values):.4f}", f"{stdev(values):.4f}", f"{low:.4f} to {high:.4f}"]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % t-interval of the mean of two values or more."""
    count = len(values)
    reach = stats.t.ppf((1 + LEVEL) / 2, count - 1) * stdev(values) / math.sqrt(count)
    return mean(values) - float(reach), mean(values) + float(reach)


def _told(evaluation: Evaluation, line: Lineage) -> str:
    """What was scored, and how."""
    words = [f"- `{evaluation.labels}`"]
    if evaluation.box:
        start, stop = evaluation.box
        words.append(f"voxels {start} to {stop} (z, y, x; the stop is not included)")
    known = evaluation.convention
    if "voxels_scored" in known:
        words.append(f"{known['voxels_scored']:,} of them with labels that count")
    if "border" in known:
        words.append(f"{known['border']} borders")
    if "ignore_label" in known:
        label, segment = known["ignore_label"], known.get("ignore_segment")
        words.append("no label ignored" if label is None else f"label {label} ignored")
        words.append("no segment ignored" if segment is None else f"segment {segment} ignored")
    text = ", ".join(words) + "."
    if choice := evaluation.record.result.get("choice"):
        first, last = choice["sections"]
        text += (
            f" The threshold was chosen among {len(choice['voi'])} on sections {first}:{last}, "
            "which are not scored."
        )
    if seen(evaluation, line):
        text += " **Training has read some of these sections: the scores flatter.**"
    return text
