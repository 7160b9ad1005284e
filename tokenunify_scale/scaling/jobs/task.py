"""One job of a study that was submitted to Slurm: what a task of an array runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.grid.study import TRAINS
from tokenunify_scale.scaling.jobs.pool import Command
from tokenunify_scale.scaling.jobs.run import run_jobs, verb_command
from tokenunify_scale.train.ranks import EXPECT
from tokenunify_scale.train.sbatch import LEAVING, WARNING

FOLDER, JOBS = "slurm", "jobs.json"
GRACE = WARNING - 60.0  # seconds for a save


def read_jobs(out: Path) -> list[Job]:
    """The plan that ``write`` left.

    Raises:
        DataError: there is none, or it is damaged.
    """
    file = out / FOLDER / JOBS
    try:
        return [_job(record) for record in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file}: no plan of a study submitted to Slurm ({error})") from None


def _job(record: Mapping[str, Any]) -> Job:
    folder, needs = Path(record["folder"]), tuple(record["needs"])
    return Job(**{**record, "folder": folder, "needs": needs})


def run_task(
    out: Path,
    name: str,
    *,
    ranks: int = 1,
    retries: int = 1,
    command: Command | None = None,
) -> int:
    """Do one job of a submitted study: what a task of an array runs.

    Args:
        out: folder of the study.
        name: of the job.
        ranks: of a training; more than one are started by srun.
        retries: starts beyond the first, if it fails.
        command: the words of its process; default: its verb's.

    Returns:
        0 if it is finished; 75 if it was stopped; 4 if what it needs is not finished; else its
        exit code, or 1.

    Raises:
        ConfigError: no such job.
        DataError: the study was not submitted from this folder.
        HostError: another process runs the job.
    """
    jobs = read_jobs(out)
    if name not in {job.name for job in jobs}:
        raise ConfigError(f"{out / FOLDER / JOBS} has no job {name!r}")
    spread = command or (verb_command if ranks == 1 else srun_command(ranks))
    return run_jobs(jobs, out, retries=retries, command=spread, only=name, grace=GRACE)


def srun_command(ranks: int) -> Command:
    """The command of a training on all ranks of its task's allocation; others run alone."""

    def command(job: Job) -> list[str]:
        words = verb_command(job)
        if job.verb not in TRAINS:
            return words
        start = ["srun", "--kill-on-bad-exit=0", f"--wait={LEAVING}"]
        return ["env", f"{EXPECT}={ranks}", *start, *words]

    return command
