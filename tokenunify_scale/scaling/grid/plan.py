"""From a study recipe to the graph of jobs that answers it, before anything starts."""

import hashlib
import importlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from tokenunify_scale.config import ConfigError, build, did_you_mean
from tokenunify_scale.scaling.grid.axes import merged
from tokenunify_scale.scaling.grid.rules import ruled
from tokenunify_scale.scaling.grid.study import RANDOM, STAGES, Study, objectives_of


@dataclass(frozen=True, kw_only=True)
class Job:
    """One process: a verb, what it is asked, what must be finished before, where it writes."""

    name: str
    verb: str
    arguments: Mapping[str, Any]
    needs: tuple[str, ...]
    folder: Path
    request: str
    """Fingerprint of the arguments and of the requests of all that this job builds on."""
    axes: Mapping[str, Any] = field(default_factory=dict)
    """size, init and seed, then the values of the study's own axes, without those whose values
    share this job; empty for data that all runs share."""


def plan(study: Study, out: Path | str) -> list[Job]:
    """All jobs of a study, each after those it needs, one cell of the grid after the other; pure.

    Args:
        study: the grid and the settings of its stages.
        out: folder of the whole study; the job pretrain/atto-mae-s0 writes to that folder in it.

    Raises:
        ConfigError: a setting that the grid decides, one that no objective has, or a {NAME} that
            stands for nothing.
    """
    out, learned, grid = Path(out), objectives_of(study), study.grid
    data = {
        name: _job(f"prepare/{name}", settings, sources={}, words=study.words, axes={}, out=out)
        for name, settings in study.prepare.items()
    }
    jobs = {job.name: job for job in data.values()}
    for size, seed, init, *values in product(study.sizes, study.seeds, study.inits, *grid.values()):
        if init in study.only.get(size, study.inits):
            axes = {
                "size": size,
                "init": init,
                "seed": seed,
                **dict(zip(grid, values, strict=True)),
            }
            chain = _cell(study, axes, objective=learned.get(init), data=data, out=out)
            jobs |= {job.name: job for job in chain}
    return list(jobs.values())


def _cell(
    study: Study,
    axes: dict[str, Any],
    *,
    objective: dict[str, Any] | None,
    data: dict[str, Job],
    out: Path,
) -> list[Job]:
    """The chain of one cell of the grid, from its pretraining, if any, to its scores."""
    words = {**study.words, **axes}
    words["model"] = _model(study, words)
    words |= {"pretrain": RANDOM} if objective is None else {}
    chain: dict[str, Job] = {}
    for stage, grid in STAGES.items():
        if stage in words:
            continue
        settings = _settings(study, stage, axes, words=words)
        if stage == "pretrain":
            settings["objective"] = objective
        for key, value in grid.items():
            options = settings.get(key, {})
            if not isinstance(options, Mapping) or (options and not isinstance(value, Mapping)):
                raise ConfigError(f"{stage}.{key} is decided by the grid, not by {options!r}")
            settings[key] = {**options, **value} if isinstance(value, Mapping) else value
        own = {name: axes[name] for name in axes if _changes(study, name, stage)}
        label = "-".join(f"s{v}" if k == "seed" else str(v) for k, v in own.items())
        name, sources = f"{stage}/{label}", {**data, **chain}
        chain[stage] = _job(name, settings, sources=sources, words=words, axes=own, out=out)
    return list(chain.values())


def _settings(
    study: Study, stage: str, axes: Mapping[str, Any], *, words: Mapping[str, Any]
) -> dict[str, Any]:
    """A stage's settings in one cell: those of all, by rule, of its size, of its other axes."""
    model, rule = words["model"], study.lr
    reference = _model(study, {**words, "size": rule.size}) if rule else ""
    settings = ruled(getattr(study, stage), rule, stage=stage, model=model, reference=reference)
    settings = merged(settings, study.by_size.get(axes["size"], {}).get(stage, {}))
    for name, values in study.grid.items():
        settings = merged(settings, values[axes[name]].get(stage, {}))
    budget = getattr(study.budget, stage, None)
    if budget is not None:
        settings["steps"] = budget.steps(settings, model=model, stage=stage)
    return settings


def _model(study: Study, words: Mapping[str, Any]) -> str:
    """The registry's name of a cell's model."""
    name = _fill(study.model, words, where="model")
    return study.models.get(name, name)


def _changes(study: Study, axis: str, stage: str) -> bool:
    """Whether a stage's run differs along an axis, or one that it builds on does."""
    if axis not in study.grid or axis in placeholders(study.model):
        return True
    until = list(STAGES)[: list(STAGES).index(stage) + 1]
    return any(
        axis in placeholders(dict(getattr(study, each)))
        or any(each in changes for changes in study.grid[axis].values())
        for each in until
    )


def _job(
    name: str,
    settings: Mapping[str, Any],
    *,
    sources: Mapping[str, Job],
    words: Mapping[str, Any],
    axes: Mapping[str, Any],
    out: Path,
) -> Job:
    """A job from settings whose {NAME}s stand for the folders of ``sources`` or for ``words``."""
    verb = name.split("/")[0]
    used = dict.fromkeys(n for n in placeholders(settings) if n in sources)
    needs = [sources[n] for n in used]

    def arguments(root: Path) -> dict[str, Any]:
        folders = {n: str(root / job.name) for n, job in sources.items()}
        return _fill(settings, {**folders, **words}, where=verb)

    # The fingerprint holds folders relative to the study's own, so that a study may be moved.
    portable = json.dumps([verb, arguments(Path()), [n.request for n in needs]], sort_keys=True)
    return Job(
        name=name,
        verb=verb,
        arguments=arguments(out),
        needs=tuple(job.name for job in needs),
        folder=out / name,
        request=hashlib.sha256(portable.encode()).hexdigest()[:16],
        axes=axes,
    )


def placeholders(value: Any) -> list[str]:
    """Every NAME that stands as {NAME} in the texts of nested plain data, in reading order."""
    if isinstance(value, str):
        return re.findall(r"\{(\w+)\}", value)
    if isinstance(value, Mapping):
        value = list(value.values())
    return [n for item in value for n in placeholders(item)] if isinstance(value, list) else []


def _fill(value: Any, words: Mapping[str, Any], *, where: str) -> Any:
    """Nested plain data with each {NAME} replaced, by the word itself where it is all the text."""
    if isinstance(value, Mapping):
        return {key: _fill(item, words, where=f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, words, where=where) for item in value]
    for name in placeholders(value):
        if name not in words:
            valid = did_you_mean(name, list(words))
            raise ConfigError(f"{where} is {value!r}, but {name} is no prepared data: {valid}")
        mark, word = f"{{{name}}}", words[name]
        value = word if value == mark else value.replace(mark, str(word))
    return value


def check(jobs: Iterable[Job]) -> None:
    """Build the config of every job as its verb will, so that mistakes show before work is done.

    Raises:
        ConfigError: all mistakes of all stages, each told once.
    """
    errors: dict[str, None] = {}
    for job in jobs:
        config = importlib.import_module(f"tokenunify_scale.{job.verb}").Config
        try:
            build(config, {**job.arguments, "out": str(job.folder)}, where=job.verb)
        except ConfigError as error:
            errors |= dict.fromkeys(str(error).split("; "))
    if errors:
        raise ConfigError("; ".join(errors))


def without(jobs: Iterable[Job], names: Iterable[str]) -> list[Job]:
    """The graph without some jobs, without what needs them, and without what only these needed."""
    jobs, gone = list(jobs), set(names)
    for job in jobs:
        if gone.intersection(job.needs):
            gone.add(job.name)
    inner, kept = {need for job in jobs for need in job.needs}, set()
    for job in reversed(jobs):
        if job.name not in gone and (job.name in kept or job.name not in inner):
            kept |= {job.name, *job.needs}
    return [job for job in jobs if job.name in kept]
