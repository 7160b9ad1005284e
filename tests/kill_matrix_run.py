"""A training of two ranks that is ended, goes on, and is compared with one that was left alone."""

import math
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster_place import Machine, Place
from tests.kill_matrix_witness import read
from tokenunify_scale.train.runlog import read_metrics

STEPS, EVERY, BATCH = 16, 4, 2
HANG = 25.0  # seconds without a sign of life after which a rank ends itself, where one hangs
GRACE = 30.0  # seconds that DeepSpeed gives ranks to end
PATIENCE = 300.0  # seconds for anything else


@dataclass(frozen=True)
class Run:
    """A training of two ranks: its command, and what it left."""

    place: Place
    shards: Path
    folder: Path
    steps: int = STEPS
    every: int = EVERY
    """Steps between saves."""

    hang: float = 4 * HANG
    """Seconds without a sign of life after which a rank ends itself."""

    seen: Path | None = None
    """The run's folder as this process sees it, where that is another path."""

    @property
    def witness(self) -> Path:
        """Folder of what the ranks learn from; not on the run's disk, which may be full."""
        return self.shards.with_name(f"witness-{self.folder.name}")

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.seen or self.folder

    @property
    def command(self) -> list[str]:
        """The same each time."""
        words = ["tests/kill_matrix_witness.py", self.witness, "--size", "atto", "--zero", "3"]
        words += ["--shards", self.shards, "--out", self.folder, "--steps", self.steps]
        words += ["--save-every", self.every, "--global-batch", BATCH, "--log-every", "1"]
        for setting in ("objective.patch=[4,8,8]", "objective.head=dense", "optim.lr=1e-4"):
            words += ["--set", setting]
        words += ["--set", f"hang_after={self.hang}"]
        return [*self.place.launcher, *map(str, words)]

    def lines(self, rank: int = 0) -> list[tuple[int, dict[int, int]]]:
        """What a rank learned from, in the order of time."""
        return read(self.witness / f"rank-{rank}.jsonl")

    def step(self, rank: int = 0) -> int:
        """The step that a rank is in, from 1; 0 before the first."""
        lines = self.lines(rank)
        return lines[-1][0] if lines else 0

    def partial(self) -> Path | None:
        """The save that is being written."""
        return next((self.path / "checkpoints").glob(".step-*.partial"), None)

    def losses(self) -> dict[int, float]:
        """By step."""
        return {record["step"]: record["loss"] for record in read_metrics(self.path)}

    def crops(self) -> dict[int, dict[int, int]]:
        """By step, the sums of its crops by position, over both ranks.

        Raises:
            AssertionError: a step was done again with other crops.
        """
        found: dict[int, dict[int, int]] = {}
        for rank in (0, 1):
            own: dict[int, dict[int, int]] = {}
            for step, crops in self.lines(rank):
                assert own.setdefault(step, crops) == crops, f"step {step} had other crops"
            for step, crops in own.items():
                found.setdefault(step, {}).update(crops)
        return found


@dataclass
class Row:
    """What came of one way to end a run."""

    done: str
    """What was done."""

    code: int | None = None
    """The exit code of the command that was ended; None where it was killed first."""

    seconds: float = 0.0
    """Until its ranks were gone."""

    resumed: int | None = None
    """Steps that were not done again."""

    difference: float = math.nan
    """Greatest relative difference of the losses."""

    same_crops: bool = False
    """In each step."""

    wrong: list[str] = field(default_factory=list)
    """What is not as it should be."""

    told: str = ""
    """Output of what was ended, and of what went on."""

    def expect(self, holds: object, otherwise: str) -> None:
        """Note what should hold and does not."""
        if not holds:
            self.wrong.append(otherwise)


@dataclass(frozen=True)
class Bench:
    """Where runs are made, and what they are compared with."""

    folder: Path
    shards: Path
    rounds: int = 30
    seed: int = 1

    def run(self, name: str, *, place: Place | None = None, **how: object) -> Run:
        """A run that has not begun."""
        return Run(
            place or Machine(self.new(f"{name}-here")), self.shards, self.folder / name, **how
        )

    def left_alone(self, steps: int = STEPS) -> Run:
        """The run that nothing ends, made once for this number of steps."""
        run = self.run(f"left-alone-{steps}", steps=steps)
        if not (run.folder / "result.json").exists():
            code, told = run.place.run(*run.command, timeout=PATIENCE + 10 * steps)
            assert code == 0, told
        return run

    def new(self, name: str) -> Path:
        """A folder."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path


def interrupt(
    run: Run, row: Row, *, moment: Callable[[], object], act: Callable[[], object]
) -> bool:
    """Start a run, do something at a moment, and wait for its ranks to be gone.

    Returns:
        Whether it came to that; not where the run ended before.
    """
    process, output = run.place.start(*run.command)
    try:
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and not moment():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the moment did not come:\n{output.read_text()}")
            time.sleep(0.005)
        if process.poll() is None:
            act()
            _await_end(run, row, process)
            return True
        row.expect(False, f"it ended with {process.returncode} before")
        return False
    finally:
        run.place.clear()
        process.wait(GRACE)
        row.told += output.read_text()


def _await_end(run: Run, row: Row, process: subprocess.Popen) -> None:
    """Note when the ranks were gone, and whether anything outlived them."""
    started = time.monotonic()
    try:
        run.place.idle(timeout=2 * run.hang + GRACE, of="ranks")
        row.seconds = time.monotonic() - started
        row.code = process.wait(GRACE)
        run.place.idle(timeout=GRACE)
    except (subprocess.TimeoutExpired, TimeoutError) as error:
        waited = time.monotonic() - started
        row.seconds = row.seconds or math.inf
        row.expect(False, f"ranks gone after {row.seconds:.0f} s, after {waited:.0f} s {error}")


def go_on(run: Run, row: Row, bench: Bench, *, saved: int | None = None) -> None:
    """Run the same command to its end, and compare the whole with the run that was left alone.

    ``saved`` is the step to go on from, by default that of the last save before the step reached.
    """
    before, reached = len(run.lines()), run.step()
    code, told = run.place.run(*run.command, timeout=PATIENCE + 10 * run.steps)
    row.told += told
    row.expect(code == 0, f"the same command ended with {code}")
    if code:
        return
    again = run.lines()[before:]
    row.resumed = again[0][0] - 1 if again else run.steps
    saved = (reached - 1) // run.every * run.every if saved is None else saved
    row.expect(row.resumed >= saved, f"went on from {row.resumed}, {saved} was saved")
    compare(run, row, bench)


def compare(run: Run, row: Row, bench: Bench) -> None:
    """Losses and crops beside those of the run that was left alone."""
    other = bench.left_alone(run.steps)
    ours, theirs = run.losses(), other.losses()
    row.expect(list(ours) == list(range(1, run.steps + 1)), f"steps logged: {list(ours)}")
    row.difference = max(abs(ours[s] / theirs[s] - 1) for s in theirs if s in ours)
    row.expect(row.difference < 1e-4, "losses differ")
    crops, every = run.crops(), range(1, run.steps + 1)
    in_order = all([*sorted(crops[s])] == [*range((s - 1) * BATCH, s * BATCH)] for s in every)
    row.same_crops = in_order and crops == other.crops()
    row.expect(row.same_crops, "crops differ")
