"""What a run left of itself, and the runs before it whose weights it began with."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenunify_scale.config import DataError, load_yaml
from tokenunify_scale.train.runlog import read_metrics, read_result
from tokenunify_scale.train.saves import step_of

NONE = (None, "random")  # in the place of a folder to start from


@dataclass(frozen=True, kw_only=True)
class Record:
    """The records of one run folder; what a run that has not finished lacks is empty."""

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    result: dict[str, Any]
    tag: str | None = None
    """The checkpoint whose weights are meant; None for those with which the run finished."""

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name

    @property
    def verb(self) -> str:
        """Whose run it is; "unknown" where nothing says it."""
        return self.environment.get("verb") or self.result.get("verb") or "unknown"

    @property
    def objective(self) -> str | None:
        """What was learned."""
        asked = self.config.get("objective") or {}
        return self.result.get("objective") or asked.get("name")

    @property
    def steps(self) -> int | None:
        """Optimizer steps behind the weights; None where nothing says it."""
        if self.tag is not None:
            return step_of(self.tag)
        best = self.result.get("best") or {}
        return best.get("step", self.result.get("steps"))

    @property
    def crops(self) -> int | None:
        """Crops that the weights have seen."""
        batch = self.config.get("global_batch")
        return None if self.steps is None or batch is None else self.steps * batch

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl."""
        return read_metrics(self.folder)

    @cached_property
    def root(self) -> Path:
        """Where the run was started, which its relative paths count from, as far as ``out`` tells.

        So a folder of runs can be moved as a whole.
        """
        here, out = self.folder.resolve(), Path(str(self.config.get("out", "")))
        parts = out.parts
        if parts and not out.is_absolute() and here.parts[-len(parts) :] == parts:
            return Path(*here.parts[: -len(parts)])
        return Path.cwd()

    def find(self, place: str) -> Path:
        """The path of a file, a folder or a FILE:DATASET that the run's config names."""
        return self.root / place

    def listed(self, key: str) -> list[str]:
        """The words of a list in the config; runs of earlier versions have one word there."""
        value = self.config.get(key) or []
        return [value] if isinstance(value, str) else [str(each) for each in value]


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The runs whose weights became these, the first one first."""

    stages: Sequence[Record] = ()
    lost: str | None = None
    """The folder that the first of them began with, where it has no records any more."""
    base: str | None = None
    """The last repository of the hub that one of them began with, where that is known."""

    @property
    def last(self) -> Record | None:
        """The run that left the weights."""
        return self.stages[-1] if self.stages else None


def read(folder: Path, *, tag: str | None = None) -> Record | None:
    """The records of a folder; None where there are none.

    Raises:
        DataError: one is damaged.
    """
    config = load_yaml(folder / "config.yaml") if (folder / "config.yaml").is_file() else {}
    result = read_result(folder) or {}
    file = folder / "environment.json"
    try:
        environment = json.loads(file.read_text()) if file.is_file() else {}
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: not valid JSON ({error})") from None
    if not (config or result):
        return None
    return Record(folder=folder, config=config, environment=environment, result=result, tag=tag)


def lineage(run: Path | None, *, tag: str | None = None) -> Lineage:
    """A run and all before it, as far as their folders are still there.

    Exported folders lead on to the runs that they were made of.

    Args:
        run: a run's or an exported folder; None for weights that no run left.
        tag: the checkpoint of it that is meant.

    Raises:
        DataError: a record is damaged.
    """
    stages: list[Record] = []
    base, folder, seen = None, run, set()
    while folder is not None and folder.resolve() not in seen:
        seen.add(folder.resolve())
        record = read(folder, tag=tag)
        if record is None:
            return Lineage(stages=stages[::-1], lost=folder.resolve().name, base=base)
        if record.verb == "export":
            pushed = (record.result.get("metrics") or {}).get("pushed")
            if stages and pushed and base is None:
                base = record.config.get("push")
            place, tag = record.config.get("run"), record.result.get("checkpoint")
        else:
            stages.append(record)
            place, tag = record.config.get("init"), None
        folder = None if place in NONE else record.find(str(place))
    return Lineage(stages=stages[::-1], base=base)
