"""Run a study as processes, several at a time, repeating nothing that is finished."""

import sys
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from tokenunify_scale.scaling.grid.plan import Job, plan
from tokenunify_scale.scaling.grid.study import TRAINS, Study
from tokenunify_scale.scaling.jobs import process
from tokenunify_scale.scaling.jobs.pool import Command, Pool
from tokenunify_scale.scaling.jobs.retry import STOPPED
from tokenunify_scale.train.hostfile import read_hostfile

LOCKED = 30.0  # seconds for the jobs of a study that was killed to end


def verb_command(job: Job) -> list[str]:
    """The command of a job: its verb, with its arguments as a recipe."""
    request = str(job.folder / "request.json")
    words = ["--recipe", request, "--out", str(job.folder)]
    return [sys.executable, "-m", "tokenunify_scale", job.verb, *words]


def hosts_command(job: Job, *, hostfile: Path) -> list[str]:
    """The command of a job that trains on all of some hosts, or works on this one."""
    python, _, package, *words = verb_command(job)
    if job.verb not in TRAINS:
        return verb_command(job)
    return [python, "-m", package, "launch", "--hostfile", str(hostfile), "--", *words]


def run_study(
    study: Study,
    out: Path | str,
    jobs: int | None = None,
    *,
    names: Collection[str] | None = None,
    hostfile: Path | None = None,
    retries: int = 1,
    command: Command | None = None,
    grace: float = 30.0,
) -> int:
    """Run all jobs of a study that are not finished, and wait for them.

    A job that fails is started again, unless the same request would fail again (exit codes 2 and
    4); at last it is told with the end of its log. What needs it is not run, all else goes on.
    SIGINT, SIGTERM or SIGHUP ends the running jobs' process groups; run again to go on.

    Args:
        study: what to run.
        out: folder of the study.
        jobs: jobs side by side; default: cores over the study's threads a job.
        names: of the jobs that are run; None for all.
        hostfile: jobs that train take all its hosts, one job at a time; the others run here.
        retries: starts of a failing job beyond the first.
        command: the words of the process that does a job and writes result.json in its folder;
            default: the job's verb.
        grace: seconds between asking stopped jobs to end and ending them.

    Returns:
        0 if all is finished; 75 if a signal stopped the study or one of its jobs; the exit code
        that all failed jobs share, if it is one of 2 to 5 (request, environment, data, diverged);
        else 1.

    Raises:
        ConfigError: the hostfile is wrong.
        HostError: another run of the same folder goes on.
    """
    slots = jobs or max(1, process.cores() // study.threads)
    if hostfile:
        read_hostfile(hostfile)
        command, grace = command or partial(hosts_command, hostfile=hostfile), max(grace, 300.0)
    return run_jobs(
        [job for job in plan(study, out) if names is None or job.name in names],
        Path(out),
        slots=slots,
        threads=study.threads if slots > 1 else None,
        retries=retries,
        command=command or verb_command,
        alone=TRAINS if hostfile else (),
        grace=grace,
    )


def run_jobs(
    jobs: Sequence[Job],
    out: Path,
    *,
    slots: int = 1,
    threads: int | None = None,
    retries: int = 1,
    command: Command = verb_command,
    alone: Collection[str] = (),
    only: str | None = None,
    grace: float = 30.0,
) -> int:
    """Run jobs of a graph; as ``run_study``, which see.

    Args:
        jobs: each after those it needs.
        out: the folder whose lock is held.
        slots: jobs side by side.
        threads: of a job; None leaves that to the environment.
        retries: starts of a failing job beyond the first.
        command: of a job.
        alone: verbs of which one job runs at a time.
        only: a job that is run and no other, while other processes may run others of the folder.
        grace: seconds between asking stopped jobs to end and ending them.
    """
    sharing: process.Sharing = "together" if only else "alone"
    locked = process.hold(out, patience=min(grace, LOCKED), sharing=sharing)
    with locked as lock, process.stop_signals() as stop:
        pool = Pool(
            jobs,
            slots=slots,
            threads=threads,
            retries=retries,
            command=command,
            alone=alone,
            only=only,
            lock=lock,
        )
        pool.run(stop, grace=grace)
        return STOPPED if pool.report(stop) else pool.exit_code()
