"""The jobs of a study as processes side by side: started, watched, started again, given up."""

import signal
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.markup import escape

from tokenunify_scale.config import DataError, HostError
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.jobs import process, retry
from tokenunify_scale.scaling.jobs.states import fingerprint, lock_of, open_folder, states
from tokenunify_scale.train.runlog import read_result

Command = Callable[[Job], Sequence[str]]
BLOCKED = DataError.exit_code  # of a job that was asked for alone: what it needs is not there
PATIENCE = 10.0  # seconds for whoever held a job before to let go
TAIL = 15  # lines shown of a failed job's log


@dataclass(frozen=True)
class Running:
    """A job that has been started."""

    job: Job
    child: subprocess.Popen
    lock: IO[str]
    log: Path
    log_start: int
    began: float = field(default_factory=time.monotonic)


class Pool:
    """The jobs of one study, and what has become of them."""

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        slots: int,
        threads: int | None,
        retries: int,
        command: Command,
        alone: Collection[str],
        only: str | None,
        lock: int,
    ) -> None:
        """Look at what is there; start nothing yet.

        Args:
            jobs: each after those it needs.
            slots: jobs side by side.
            threads: of a job; None leaves that to the environment.
            retries: starts of a failing job beyond the first.
            command: of a job.
            alone: verbs of which one job runs at a time.
            only: a job that is run and no other; None for all.
            lock: file descriptor of the study's lock.
        """
        self.jobs = {job.name: job for job in jobs}
        self.slots, self.threads, self.retries, self.alone = slots, threads, retries, alone
        self.command, self.lock = command, lock
        state = states(jobs)
        self.done = {name for name in self.jobs if state[name] == "finished"}
        self.waiting = [j for j in jobs if j.name not in self.done and only in (None, j.name)]
        self.asked = {job.name for job in self.waiting}
        self.running: list[Running] = []
        self.failures: dict[str, int] = {}  # starts that failed
        self.failed: dict[str, int] = {}  # jobs that are given up, with their exit codes
        self.stopped: list[str] = []  # jobs that ended with 75 by themselves
        self.not_run: dict[str, str] = {}  # job: what it waits for
        if only:
            away = {need for job in self.waiting for need in job.needs} - self.done
            self.not_run = {job.name: min(away) for job in self.waiting if away}
            self.waiting = [] if away else self.waiting
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
        self._reap(asked=True)

    def _start_ready(self) -> None:
        """Give free slots to jobs in the order of the plan, so that whole chains end early."""
        for job in list(self.waiting):
            ended = (*self.failed, *self.not_run, *self.stopped)
            lost = [need for need in job.needs if need in ended]
            if lost:
                self.not_run[job.name] = self.not_run.get(lost[0], lost[0])
                self.waiting.remove(job)
            elif self._has_room(job) and self.done.issuperset(job.needs):
                self.waiting.remove(job)
                self._start(job)

    def _has_room(self, job: Job) -> bool:
        busy = job.verb in self.alone and any(e.job.verb in self.alone for e in self.running)
        return len(self.running) < self.slots and not busy

    def _start(self, job: Job) -> None:
        lock_of(job).parent.mkdir(parents=True, exist_ok=True)
        lock = process.take(lock_of(job), patience=PATIENCE)
        if lock is None:
            raise HostError(f"{job.name} is being run by another process: end it, or wait for it")
        log = open_folder(job, {need: fingerprint(self.jobs[need].folder) for need in job.needs})
        size = log.stat().st_size if log.exists() else 0
        retry.note_start(job.folder)
        locks = (self.lock, lock.fileno())
        child = process.start(self.command(job), log=log, threads=self.threads, locks=locks)
        self.running.append(Running(job, child, lock, log, size))
        self.say(f"start {job.name}")

    def _reap(self, *, asked: bool = False) -> None:
        """Take note of the jobs that have ended; ``asked`` to, they have not failed."""
        for entry in [e for e in self.running if e.child.poll() is not None]:
            self.running.remove(entry)
            process.signal_group(entry.child, signal.SIGKILL)  # what it has left behind
            name, code = entry.job.name, entry.child.returncode
            finished = fingerprint(entry.job.folder) is not None
            ending = retry.ending_of(code, finished=finished)
            ending = "stopped" if asked and ending == "failed" else ending
            retry.note_end(entry.job.folder, ending=ending, code=code)
            entry.lock.close()
            took = f"{time.monotonic() - entry.began:.0f} s"
            if ending == "finished":
                self.done.add(name)
                more = f"{_headline(entry.job.folder)}, {self._left()}"
                self.say(f"done  {name} in {took}{more}", style="green")
            elif ending == "failed":
                self._fail(entry, code=code, took=took)
            elif not asked:
                self.stopped.append(name)
                self.say(f"STOP  {name} after {took}: exit code {code}", style="yellow")

    def _fail(self, entry: Running, *, code: int, took: str) -> None:
        """Start a job again, or give it up and show why."""
        name = entry.job.name
        failures = self.failures[name] = self.failures.get(name, 0) + 1
        why = f"exit code {code}" if code else "it left no result.json"
        if retry.may_help(code, failures=failures, retries=self.retries):
            self.waiting.insert(0, entry.job)
            again = f"start {failures + 1} of {self.retries + 1} follows"
            self.say(f"FAIL  {name} after {took}: {why}, {again}; {entry.log}", style="yellow")
            return
        self.failed[name] = code or 1
        self.say(f"FAIL  {name} after {took}: {why}, {self._left()}; {entry.log}:", style="red")
        end = process.tail(entry.log, start=entry.log_start, lines=TAIL)
        self.console.print(escape(end))

    def _left(self) -> str:
        return f"{len(self.waiting) + len(self.running)} left"

    def report(self, stop: Sequence[int]) -> bool:
        """Say how it ended; True if it was stopped before it was through."""
        for name, code in self.failed.items():
            starts = f"{self.failures[name]} start{'s' if self.failures[name] > 1 else ''}"
            log = self.jobs[name].folder / "log.txt"
            self.say(f"failed: {name}, exit code {code} after {starts}: {log}", style="red")
        for root in dict.fromkeys(self.not_run.values()):
            names = [name for name, need in self.not_run.items() if need == root]
            how = "failed" if root in self.failed else "is not finished"
            self.say(f"not run, for {root} {how}: {', '.join(names)}", style="yellow")
        short = bool(self.stopped) or (bool(stop) and not self.done.issuperset(self.asked))
        again = "; stopped: run it again to go on" if short else ""
        self.say(f"{len(self.done)} of {len(self.jobs)} jobs finished{again}")
        return short

    def exit_code(self) -> int:
        """0, the code that all failed jobs share if it says what is wrong, or 1."""
        if self.not_run and not self.failed:  # a job that was asked for alone
            return BLOCKED
        codes = set(self.failed.values())
        return min(codes) if len(codes) == 1 and codes <= {2, 3, 4, 5} else int(bool(codes))


def _headline(folder: Path) -> str:
    """The number to look at in a result, as text."""
    metrics = (read_result(folder) or {}).get("metrics") or {}
    return "".join(f", {key} {metrics[key]:.4g}" for key in ("loss", "voi") if key in metrics)
