"""What stands in the folders of a study's jobs: finished, running, failed, blocked or queued.

Nothing but the folders is asked, so that any process sees the same, whoever runs the jobs. The
order in which a folder is written makes each moment a safe one to be killed at: what is asked
(request.json), then what it is made from (job.json), then attempts, at last the result, each whole
or not at all.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from tokenunify_scale.config import DataError
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.jobs import process
from tokenunify_scale.scaling.jobs.retry import attempts
from tokenunify_scale.train.runlog import read_result, write_atomically

State = Literal["finished", "running", "failed", "blocked", "changed", "queued"]
STATES: tuple[State, ...] = ("finished", "running", "failed", "blocked", "changed", "queued")


def states(jobs: Iterable[Job], *, since: float = 0.0) -> dict[str, State]:
    """The state of each job.

    finished: its result answers the present request and was made from the results that its needs
    have now. Changes of files outside the study are not seen. changed: it has a result of another
    request. running: a process holds its lock. failed: its last attempt did. blocked: something
    that it needs failed. queued: all else.

    Args:
        jobs: each after those it needs.
        since: seconds since 1970; what failed before is queued again.
    """
    found: dict[str, State] = {}
    results: dict[str, str | None] = {}
    for job in jobs:
        result = results[job.name] = fingerprint(job.folder)
        record = _read_record(job.folder)
        ready = all(found[need] == "finished" for need in job.needs)
        fresh = record.get("inputs") == {need: results[need] for need in job.needs}
        asked = record.get("request") == job.request
        if result is not None and asked and ready and fresh:
            found[job.name] = "finished"
        elif process.is_held(lock_of(job)):
            found[job.name] = "running"
        elif result is not None and not asked:
            found[job.name] = "changed"
        elif asked and _failed(job.folder, since=since):
            found[job.name] = "failed"
        else:
            lost = any(found[need] in ("failed", "blocked") for need in job.needs)
            found[job.name] = "blocked" if lost else "queued"
    return found


def fingerprint(folder: Path) -> str | None:
    """Hash of a run's result; None while there is none, or none that is whole."""
    try:
        if read_result(folder) is None:
            return None
        return hashlib.sha256((folder / "result.json").read_bytes()).hexdigest()[:16]
    except (DataError, FileNotFoundError, UnicodeDecodeError):
        return None  # cut short with the power, or made anew at this moment


def lock_of(job: Job) -> Path:
    """The file that whoever runs a job holds; beside its folder, which may be emptied."""
    return job.folder.with_name(f".{job.folder.name}.lock")


def open_folder(job: Job, inputs: Mapping[str, str | None]) -> Path:
    """Make a job's folder ready, emptied unless it answers this request; returns its log.

    Args:
        job: whose lock this process holds.
        inputs: the fingerprint of each result that it is made from.
    """
    record = {"name": job.name, "request": job.request, "inputs": inputs, **job.axes}
    old = _read_record(job.folder)
    shutil.rmtree(_doomed(job.folder), ignore_errors=True)
    if job.folder.exists() and any(old.get(key) != record[key] for key in ("request", "inputs")):
        _clear(job.folder)
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "result.json").unlink(missing_ok=True)
    # JSON is YAML too, and keeps the type of every value.
    write_atomically(job.folder / "request.json", json.dumps(job.arguments, indent=1) + "\n")
    write_atomically(job.folder / "job.json", json.dumps(record, indent=1) + "\n")
    return job.folder / "log.txt"


def _read_record(folder: Path) -> dict[str, Any]:
    """What was noted in a job's folder when it was last started; {} if nothing that is whole."""
    try:
        record = json.loads((folder / "job.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _failed(folder: Path, *, since: float) -> bool:
    tried = attempts(folder)
    return bool(tried) and tried[-1].ending == "failed" and (tried[-1].ended or 0.0) >= since


def _clear(folder: Path) -> None:
    """Remove a folder whole, or, if this process is killed meanwhile, leave no half of it."""
    folder.rename(_doomed(folder))
    shutil.rmtree(_doomed(folder))


def _doomed(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
