"""How a study stands: a line a job, from what is in the folders; live on a terminal."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tokenunify_scale.config import DataError
from tokenunify_scale.scaling.costs.preview import aligned, duration
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.grid.study import TRAINS
from tokenunify_scale.scaling.jobs import process
from tokenunify_scale.scaling.jobs.retry import attempts
from tokenunify_scale.scaling.jobs.states import STATES, State, states
from tokenunify_scale.train.runlog import read_metrics, read_result

HEADS = ("job", "state", "progress", "left", "result", "attempts")
TICK = 0.05  # seconds: clocks of files tick, attempts are rounded, and no job fails as fast as this
HEADLINES = ("voi", "loss")  # of a result's metrics, the first that is there
COLOURS: Mapping[State, str] = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "blocked": "yellow",
    "changed": "magenta",
    "queued": "dim",
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """How one job stands."""

    job: str
    state: State
    progress: str = ""
    """Steps done of all."""
    left: str = ""
    """Time until it ends, as the run itself foretold."""
    result: str = ""
    """The number to look at: of the result, or the last that was logged."""
    attempts: int = 0

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as text, in the order of ``HEADS``."""
        tried = str(self.attempts or "")
        return (self.job, self.state, self.progress, self.left, self.result, tried)


def lines_of(jobs: Sequence[Job], out: Path, *, now: float | None = None) -> list[Line]:
    """A line for each job.

    Args:
        jobs: of the study, each after those it needs.
        out: folder of the study.
        now: seconds since 1970.
    """
    lock, now = out / process.LOCK, time.time() if now is None else now
    # What failed before this run of the harness, it will start again.
    since = lock.stat().st_mtime + TICK if process.is_held(lock) else 0.0
    found = states(jobs, since=since)
    return [_line(job, found[job.name], now=now) for job in jobs]


def _line(job: Job, state: State, *, now: float) -> Line:
    tried = len(attempts(job.folder))
    if state == "finished":
        metrics = (read_result(job.folder) or {}).get("metrics") or {}
        steps = str(job.arguments.get("steps", "")) if job.verb in TRAINS else ""
        progress = f"{steps}/{steps}" if steps else ""
        return Line(job=job.name, state=state, progress=progress, result=_headline(metrics),
                    attempts=tried)  # fmt: skip
    if job.verb not in TRAINS or state in ("changed", "queued", "blocked") and not tried:
        return Line(job=job.name, state=state, attempts=tried)
    try:
        last = (read_metrics(job.folder) or [{}])[-1]
    except DataError:  # being written
        last = {}
    left = ""
    if state == "running" and last.get("seconds_left") is not None:
        since = now - last.get("time", now)
        left = duration(max(0.0, last["seconds_left"] - since))
    progress = f"{last.get('step', 0)}/{job.arguments.get('steps', '?')}"
    return Line(job=job.name, state=state, progress=progress, left=left, result=_headline(last),
                attempts=tried)  # fmt: skip


def _headline(metrics: Mapping[str, object]) -> str:
    for name in HEADLINES:
        if isinstance(metrics.get(name), int | float):
            return f"{name} {metrics[name]:.4g}"
    return ""


def totals(lines: Sequence[Line]) -> str:
    """One line: how many jobs are in which state."""
    counts = {state: sum(line.state == state for line in lines) for state in STATES}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{len(lines)} jobs: {told}"


def to_text(lines: Sequence[Line]) -> str:
    """The table as plain text."""
    rows = [HEADS, *(line.cells for line in lines)]
    return f"{aligned(rows, words=(0, 1, 4))}\n{totals(lines)}"


def to_table(lines: Sequence[Line], *, caption: str = "") -> Table:
    """The table for a terminal, with the totals below it, or another caption."""
    table = Table(caption=caption or totals(lines), box=None, pad_edge=False)
    for head in HEADS:
        table.add_column(head, justify="right" if head in ("progress", "left") else "left")
    for line in lines:
        table.add_row(*line.cells, style=COLOURS[line.state])
    return table


def show(
    jobs: Sequence[Job],
    out: Path,
    *,
    every: float | None = None,
    console: Console | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Line]:
    """Print how a study stands: once, or again and again until all is done or the user leaves.

    Args:
        jobs: of the study.
        out: its folder.
        every: seconds between looks; None for one look.
        console: where to; by default the standard output, as plain text where it is no terminal.
        sleep: waits.

    Returns:
        The last lines that were shown.
    """
    console = console or Console()
    lines = lines_of(jobs, out)
    if not console.is_terminal:
        print(to_text(lines), file=console.file, flush=True)
    elif every is None:
        console.print(to_table(lines))
    if every is None:
        return lines
    live = Live(console=console, auto_refresh=False, transient=True)
    with live, suppress(KeyboardInterrupt):
        while any(line.state in ("running", "queued", "changed") for line in lines):
            if console.is_terminal:
                shown = to_table(urgent(lines, most=console.height - 4), caption=totals(lines))
                live.update(shown, refresh=True)
            sleep(every)
            before, lines = totals(lines), lines_of(jobs, out)
            if not console.is_terminal and totals(lines) != before:
                print(totals(lines), file=console.file, flush=True)
    if console.is_terminal:
        console.print(to_table(lines))
    return lines


def urgent(lines: Sequence[Line], *, most: int) -> list[Line]:
    """As many lines as a screen holds: what runs and what failed before what waits or is done."""
    order: tuple[State, ...] = ("running", "failed", "blocked", "changed", "queued", "finished")
    ranked = sorted(range(len(lines)), key=lambda i: (order.index(lines[i].state), i))
    return [lines[i] for i in sorted(ranked[: max(1, most)])]
