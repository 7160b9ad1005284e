"""How long jobs take: measured by short runs of the smallest and the largest size, or by real ones.

What is measured is not a speed alone. A training takes its steps, and beside them what does not
grow with them: a process that starts, kernels that compile, validations, saves. Short runs of the
very same commands show both; finished runs of the study replace them where there are some.
"""

import dataclasses
import hashlib
import json
import platform
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tokenunify_scale.scaling.costs.costs import Cost
from tokenunify_scale.scaling.costs.pace import Sample
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.grid.study import RANDOM, STAGES, TRAINS
from tokenunify_scale.scaling.jobs.retry import attempts
from tokenunify_scale.scaling.jobs.states import State, states
from tokenunify_scale.train.runlog import read_metrics, read_result, write_atomically

FOLDER, FILE = "calibration", "rates.json"
STEPS = 10  # of a training: as many as a fine-tuning has validations
EVERY = 2  # steps between its lines
Run = Callable[[list[Job]], int]


def calibrate(jobs: Sequence[Job], costs: Mapping[str, Cost], out: Path, *, run: Run) -> int:
    """Run what is to be measured, and write rates.json; what has been run is not run again.

    Data that are prepared for it are those of the study, and stay.

    Args:
        jobs: of the study.
        costs: of each.
        out: folder of the study.
        run: runs jobs side by side, as many as the study will; returns an exit code.

    Returns:
        What ``run`` returned.
    """
    chosen = short_jobs(jobs, costs, out)
    code = run(chosen)
    ran = [job for job in chosen if job.verb in STAGES]
    found = samples(ran, {job.name: costs[_original(job)] for job in ran}, states(chosen))
    record = {"host": socket.gethostname(), "device": device_name()}
    record["samples"] = [dataclasses.asdict(sample) for sample in found]
    write_atomically(out / FILE, json.dumps(record, indent=1) + "\n")
    return code


def read_rates(out: Path) -> tuple[list[Sample], str]:
    """What a calibration measured, and on which device and host; nothing and "" without one."""
    try:
        record = json.loads((out / FILE).read_text())
        found = [Sample(**sample) for sample in record["samples"]]
        return found, f"{record['device']} of {record['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return [], ""


def device_name() -> str:
    """The device that trains here."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()})"


def samples(
    jobs: Sequence[Job], costs: Mapping[str, Cost], found: Mapping[str, State]
) -> list[Sample]:
    """What finished jobs tell of the time that their kinds take.

    Args:
        jobs: of a study.
        costs: of each, by name.
        found: the state of each, by name.
    """
    measured = []
    for job in jobs:
        cost = costs[job.name]
        if found[job.name] == "finished" and cost.work:
            sample = _sample(job, cost)
            measured += [sample] if sample else []
    return measured


def _sample(job: Job, cost: Cost) -> Sample | None:
    """Of one finished job; None of one that was started more than once, or is too short to tell."""
    tried = attempts(job.folder)
    whole = tried[-1].seconds if tried else None
    whole = whole or (read_result(job.folder) or {}).get("seconds")  # if nobody saw its end
    if len(tried) > 1 or not whole:
        return None
    if job.verb not in TRAINS:
        return Sample(kind=cost.kind, work=cost.work, seconds=whole)
    speeds = [line["crops_per_s"] for line in read_metrics(job.folder) if line.get("crops_per_s")]
    if len(speeds) < 2:  # the first has kernels to compile
        return None
    crops, steps = job.arguments["global_batch"], job.arguments["steps"]
    step = crops * median(1 / speed for speed in speeds[1:])
    fixed = max(0.0, whole - steps * step)
    return Sample(kind=cost.kind, work=cost.work, seconds=step, fixed=fixed)


def short_jobs(jobs: Sequence[Job], costs: Mapping[str, Cost], out: Path) -> list[Job]:
    """Jobs that show how long each kind takes, at the smallest and the largest size.

    Every pretraining objective, one fine-tuning, and its prediction, segmentation and scores: with
    few steps, from random weights, in folders of their own; and before them what prepares data.
    """
    picked: list[Job] = []
    for size in _extremes(jobs, costs):
        cells = [job for job in jobs if job.axes.get("size") == size]
        kinds = {costs[j.name].kind: j for j in reversed(cells) if j.verb == "pretrain"}
        picked += reversed(kinds.values())
        tuned = [job for job in cells if job.verb == "finetune"]
        chain = sorted(tuned, key=lambda job: job.arguments.get("init") != RANDOM)[:1]
        while chain:
            picked += chain
            chain = [job for job in cells if chain[0].name in job.needs][:1]
    needed = {need for job in picked for need in job.needs}
    chosen = [job for job in jobs if job.verb not in STAGES and job.name in needed]
    for job in picked:
        chosen.append(_short(job, chosen, jobs=jobs, out=out))
    return chosen


def _extremes(jobs: Sequence[Job], costs: Mapping[str, Cost]) -> list[str]:
    """The sizes with fewest and most parameters; the largest last."""
    sizes = {j.axes["size"]: costs[j.name].parameters or 0 for j in jobs if j.verb == "finetune"}
    ordered = sorted(sizes, key=lambda size: sizes[size])
    return list(dict.fromkeys(ordered[:1] + ordered[-1:]))


def _short(job: Job, before: Sequence[Job], *, jobs: Sequence[Job], out: Path) -> Job:
    """A job with few steps in a folder of its own, made from what was chosen before it."""
    moved = {need.name: need for need in before}
    folders = {
        str(each.folder): str(moved[f"{FOLDER}/{each.name}"].folder)
        for each in jobs
        if f"{FOLDER}/{each.name}" in moved
    }
    arguments = _replaced(dict(job.arguments), folders)
    if job.verb == "finetune" and arguments["init"] not in folders.values():
        arguments["init"] = RANDOM
    if job.verb in TRAINS:
        arguments |= {"steps": STEPS, "log_every": EVERY}
    needs = tuple(
        name
        for need in job.needs
        for name in (f"{FOLDER}/{need}", need)
        if name in moved and not (name == need and f"{FOLDER}/{need}" in moved)
    )
    asked = json.dumps([job.verb, arguments, [moved[name].request for name in needs]], default=str)
    name = f"{FOLDER}/{job.name}"
    return dataclasses.replace(
        job,
        name=name,
        arguments=arguments,
        needs=needs,
        folder=out / name,
        request=hashlib.sha256(asked.encode()).hexdigest()[:16],
    )


def _original(job: Job) -> str:
    return job.name.removeprefix(f"{FOLDER}/")


def _replaced(value: Any, folders: Mapping[str, str]) -> Any:
    """Nested plain data with some folders replaced by others."""
    if isinstance(value, Mapping):
        return {key: _replaced(item, folders) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, folders) for item in value]
    for old, new in folders.items():
        if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
            return new + value[len(old) :]
    return value
