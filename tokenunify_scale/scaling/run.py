"""Run a study as processes, several at a time, repeating nothing that is finished."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from tokenunify_scale.scaling import process
from tokenunify_scale.scaling.plan import Job, Study, plan
from tokenunify_scale.train.runlog import read_result, write_atomically

Command = Callable[[Job], Sequence[str]]
STOPPED = 75  # exit code: stopped by a signal, run again to go on
TAIL = 15  # lines shown of a failed job's log


def verb_command(job: Job) -> list[str]:
    """The command of a job: its verb, with its arguments as a recipe."""
    request = str(job.folder / "request.json")
    words = ["--recipe", request, "--out", str(job.folder)]
    return [sys.executable, "-m", "tokenunify_scale", job.verb, *words]


def run_study(
    study: Study,
    out: Path | str,
    jobs: int | None = None,
    *,
    command: Command = verb_command,
    grace: float = 30.0,
) -> int:
    """Run all jobs of a study that are not finished, and wait for them.

    A failed job is told with the end of its log; what needs it is not run, all else goes on.
    SIGINT, SIGTERM or SIGHUP ends the running jobs' process groups; run again to go on.

    Args:
        study: what to run.
        out: folder of the study.
        jobs: jobs side by side; default: cores over the study's threads a job.
        command: the words of the process that does a job and writes result.json in its folder.
        grace: seconds between asking stopped jobs to end and ending them.

    Returns:
        0 if all is finished; 75 if stopped by a signal; the exit code that all failed jobs share,
        if it is one of 2 to 5 (request, environment, data, diverged); else 1.

    Raises:
        HostError: another run of the same folder goes on.
    """
    slots = jobs or max(1, process.cores() // study.threads)
    threads = study.threads if slots > 1 else None
    planned = plan(study, out)
    with process.hold(Path(out), patience=grace) as lock, process.stop_signals() as stop:
        pool = _Pool(planned, slots=slots, threads=threads, command=command, lock=lock)
        pool.run(stop, grace=grace)
        return STOPPED if pool.report(stop) else pool.exit_code()


def states(jobs: Iterable[Job]) -> dict[str, str]:
    """What each job's folder holds: "finished", "to do", or "changed" (another request's result).

    A job is finished if its result answers the present request and was made from the results that
    its needs have now. Changes of files outside the study are not seen.

    Raises:
        DataError: a result.json that is not JSON.
    """
    found: dict[str, str] = {}
    results: dict[str, str | None] = {}
    for job in jobs:
        result = results[job.name] = _fingerprint(job.folder)
        record = _read_record(job.folder)
        ready = all(found[need] == "finished" for need in job.needs)
        fresh = record.get("inputs") == {need: results[need] for need in job.needs}
        if result is not None and record.get("request") != job.request:
            found[job.name] = "changed"
        else:
            found[job.name] = "finished" if result is not None and ready and fresh else "to do"
    return found


def _fingerprint(folder: Path) -> str | None:
    """Hash of a run's result; None while there is none."""
    if read_result(folder) is None:
        return None
    return hashlib.sha256((folder / "result.json").read_bytes()).hexdigest()[:16]


def _read_record(folder: Path) -> dict[str, Any]:
    """What was noted in a job's folder when it was last started; {} if it never was."""
    file = folder / "job.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _open_folder(job: Job, inputs: Mapping[str, str | None]) -> Path:
    """Make a job's folder ready, emptied if it answered another request; returns its log."""
    old = _read_record(job.folder)
    record = {"name": job.name, "request": job.request, "inputs": inputs, **job.axes}
    if old and any(old.get(key) != record[key] for key in ("request", "inputs")):
        _clear(job.folder)
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "result.json").unlink(missing_ok=True)
    # JSON is YAML too, and keeps the type of every value.
    write_atomically(job.folder / "request.json", json.dumps(job.arguments, indent=1) + "\n")
    write_atomically(job.folder / "job.json", json.dumps(record, indent=1) + "\n")
    return job.folder / "log.txt"


def _clear(folder: Path) -> None:
    """Remove a folder whole, or, if this process is killed meanwhile, leave no half of it."""
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


@dataclass(frozen=True)
class _Running:
    """A job that has been started."""

    job: Job
    child: subprocess.Popen
    log: Path
    log_start: int
    began: float = field(default_factory=time.monotonic)


class _Pool:
    """The jobs of one study, and what has become of them."""

    def __init__(self, jobs: list[Job], *, slots: int, threads: int | None, command, lock: int):
        self.jobs = {job.name: job for job in jobs}
        self.slots, self.threads, self.command, self.lock = slots, threads, command, lock
        state = states(jobs)
        self.done = {name for name in self.jobs if state[name] == "finished"}
        self.waiting = [job for job in jobs if job.name not in self.done]
        self.running: list[_Running] = []
        self.failed: dict[str, int] = {}
        self.not_run: dict[str, str] = {}  # job: the failed job it waits for
        self.began = time.monotonic()
        self.console = Console(highlight=False, soft_wrap=True)
        self.say(f"{len(self.waiting)} of {len(jobs)} jobs to do, {slots} at a time")

    def say(self, text: str, *, style: str = "") -> None:
        """One line of progress, with the time since the start."""
        clock = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - self.began))
        self.console.print(f"[dim]{clock}[/dim] {escape(text)}", style=style)

    def run(self, stop: Sequence[int], *, grace: float) -> None:
        """Start and watch jobs until none is left, or until ``stop`` holds a signal."""
        try:
            while (self.waiting or self.running) and not stop:
                self._start_ready()
                time.sleep(process.POLL)
                self._reap()
            if self.running:
                self.say(f"stopping {len(self.running)} running jobs", style="yellow")
        finally:  # jobs end with their study, even where it ends by a mistake of its own
            children = [entry.child for entry in self.running]
            process.end_groups(children, grace=grace, hurry=lambda: len(stop) > 1)
        self._reap(stopped=True)

    def _start_ready(self) -> None:
        """Give free slots to jobs in the order of the plan, so that whole chains end early."""
        for job in list(self.waiting):
            lost = [need for need in job.needs if need in self.failed or need in self.not_run]
            if lost:
                self.not_run[job.name] = self.not_run.get(lost[0], lost[0])
                self.waiting.remove(job)
            elif len(self.running) < self.slots and self.done.issuperset(job.needs):
                self.waiting.remove(job)
                self._start(job)

    def _start(self, job: Job) -> None:
        log = _open_folder(job, {need: _fingerprint(self.jobs[need].folder) for need in job.needs})
        size = log.stat().st_size if log.exists() else 0
        words = self.command(job)
        child = process.start(words, log=log, threads=self.threads, lock=self.lock)
        self.running.append(_Running(job, child, log, size))
        self.say(f"start {job.name}")

    def _reap(self, *, stopped: bool = False) -> None:
        """Take note of the jobs that have ended; one that was stopped has not failed."""
        for entry in [e for e in self.running if e.child.poll() is not None]:
            self.running.remove(entry)
            name, code = entry.job.name, entry.child.returncode
            result = read_result(entry.job.folder) if code == 0 else None
            took = f"{time.monotonic() - entry.began:.0f} s"
            left = f"{len(self.waiting) + len(self.running)} left"
            if result is not None:
                self.done.add(name)
                self.say(f"done  {name} in {took}{_headline(result)}, {left}", style="green")
            elif not stopped:
                self.failed[name] = code or 1
                why = f"exit code {code}" if code else "it left no result.json"
                self.say(f"FAIL  {name} after {took}: {why}, {left}; {entry.log}:", style="red")
                end = process.tail(entry.log, start=entry.log_start, lines=TAIL)
                self.console.print(escape(end))
                process.signal_group(entry.child, signal.SIGKILL)

    def report(self, stop: Sequence[int]) -> bool:
        """Say how it ended; True if it was stopped before it was through."""
        for root in dict.fromkeys(self.not_run.values()):
            names = [name for name, need in self.not_run.items() if need == root]
            self.say(f"not run, for {root} failed: {', '.join(names)}", style="yellow")
        short = bool(stop) and len(self.done) < len(self.jobs)
        again = "; stopped: run it again to go on" if short else ""
        self.say(f"{len(self.done)} of {len(self.jobs)} jobs finished{again}")
        return short

    def exit_code(self) -> int:
        """0, the code that all failed jobs share if it says what is wrong, or 1."""
        codes = set(self.failed.values())
        return min(codes) if len(codes) == 1 and codes <= {2, 3, 4, 5} else int(bool(codes))


def _headline(result: Mapping[str, Any]) -> str:
    """The number to look at in a result, as text."""
    metrics = result.get("metrics") or {}
    return "".join(f", {key} {metrics[key]:.4g}" for key in ("loss", "voi") if key in metrics)
