"""The training loop: one for every objective and world size, whatever interrupts it."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenunify_scale.config import Stopped
from tokenunify_scale.train.best import Best
from tokenunify_scale.train.curves import losses_of
from tokenunify_scale.train.distributed import sum_over_ranks
from tokenunify_scale.train.engine import Engine, Step
from tokenunify_scale.train.guard import Verdict
from tokenunify_scale.train.held_out import Measure, means
from tokenunify_scale.train.optim import learning_rate
from tokenunify_scale.train.recovery import Recovery
from tokenunify_scale.train.runlog import RunFolder, read_metrics, track
from tokenunify_scale.train.stop import Stop, name_of
from tokenunify_scale.train.telemetry import Telemetry
from tokenunify_scale.train.training import Training
from tokenunify_scale.train.watch import Watch

Batches = Iterator[dict[str, Tensor]]


def train(
    engine: Engine,
    open_batches: Callable[..., Batches],
    *,
    training: Training,
    run: RunFolder,
    telemetry: Telemetry,
    description: str,
    held_out: Measure | None = None,
    best: Best | None = None,
    watch: Watch | None = None,
) -> dict[str, float]:
    """Train to the end, from the run's newest checkpoint where it has one.

    Args:
        engine: the objective under DeepSpeed.
        open_batches: called with ``start`` (a position), ``global_batch``, ``rank``, ``world`` and
            ``micro``; gives this rank's micro-batches without end, and can be closed.
        training: how long, how fast, how often to write.
        run: gets metrics and checkpoints.
        telemetry: of the run; writes its lines.
        description: for the progress bar.
        held_out: what training does not see; measured before the first step too, if that is due.
        best: keeps the weights of the best measurement.
        watch: is told that the run moves.

    Returns:
        The means of the last logged window: loss, terms, rates.

    Raises:
        DataError: the checkpoint cannot be restored.
        DivergedError: the loss is not finite, or far off, and going back did not help; what was
            saved before stays.
        HostError: the disk does not take a checkpoint; those before stay.
        Stopped: a signal asked for it; a checkpoint of the last step done was written.
    """
    watch = watch or Watch(0)
    with Stop(rank=engine.world.rank) as stop:
        recovery = Recovery(engine, open_batches, run=run, training=training)
        watch.beat(0, "load")
        loop = _Loop(
            engine=engine,
            recovery=recovery,
            stop=stop,
            watch=watch,
            training=training,
            run=run,
            telemetry=telemetry,
            held_out=held_out,
            best=best,
            description=description,
        )
        start = recovery.restore()
        if best and not start and engine.world.is_main:
            best.forget()
        run.rewind(start)
        telemetry.begin(start)
        loop.begin(start)
        while start < training.steps:
            batches = open_batches(
                start=recovery.position(start),
                global_batch=training.global_batch,
                rank=engine.world.rank,
                world=engine.world.size,
                micro=engine.micro_batch,
            )
            try:
                suspicion = loop.fit(batches, start=start)
            finally:
                batches.close()
            if suspicion is None:
                break
            watch.beat(start, "load")
            start = recovery.back(suspicion.step, why=suspicion.why)
            run.rewind(start)
            telemetry.begin(start)
        return loop.record


class Suspicion(NamedTuple):
    """Why training went no further: what was wrong with the last step, counted from 0."""

    step: int
    why: str


class _Window:
    """What was measured since the line before."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.damaged: list[Tensor] = []  # samples replaced, in each micro-batch

    def counts(self, engine: Engine) -> dict[str, int]:
        """Samples of all ranks that were damaged, where that is looked for."""
        if not self.damaged:
            return {}
        total = torch.stack(self.damaged).sum().to(engine.world.device)
        return {"skipped": int(sum_over_ranks(total))}


class _Judged(NamedTuple):
    """A step that was taken or not, and a signal that came meanwhile."""

    verdict: Verdict
    why: str | None
    signal: str | None


@dataclass(kw_only=True)
class _Loop:
    """Steps, lines and saves, from wherever the run stands."""

    engine: Engine
    recovery: Recovery
    stop: Stop
    watch: Watch
    training: Training
    run: RunFolder
    telemetry: Telemetry
    held_out: Measure | None
    best: Best | None
    description: str
    record: dict[str, Any] = field(default_factory=dict)
    """The means of the last line."""

    warm: bool = False
    """Whether a step was taken: in the first one kernels are compiled."""

    def begin(self, start: int) -> None:
        """Before the first step, measure what is held out; later, know what the last line had."""
        if start == 0 and self.held_out and self.held_out.due(0, steps=self.training.steps):
            if (found := self._measure(0)) is not None:
                self.telemetry.log(0, found)
        line = next(reversed(read_metrics(self.run.path)), {}) if start else {}
        self.record = losses_of(line)

    def fit(self, batches: Batches, *, start: int) -> Suspicion | None:
        """Train from step ``start`` to the end; or to where the run must go back."""
        training, world, window, owed = self.training, self.engine.world, _Window(), False
        steps = range(start, training.steps)
        for step in track(
            steps,
            description=self.description,
            enabled=world.is_main,
            note=lambda: self.telemetry.note,
        ):
            verdict, why, signal = self._step(self._load(batches, step, window), step, window)
            if verdict == "roll back":
                return Suspicion(step, why or "")
            done, last = step + 1, step + 1 == training.steps
            measured: dict[str, float | None] = {}
            if not signal and self.held_out and self.held_out.due(done, steps=training.steps):
                with self.telemetry.pausing():
                    measured = self._measure(done) or {}
                    if measured and self.best:
                        objective = self.engine.objective
                        self.best.offer(
                            self.engine, objective.backbone, step=done, measured=measured
                        )
                    signal = self.stop.asked(world)
            if measured or signal or last or done % training.log_every == 0:
                self._log(done, window, measured)
                window = _Window()
            # Amid bad steps nothing is saved: what the run goes back to should be from before them.
            owed = owed or done % training.save_every == 0
            if signal or last or (owed and verdict == "good"):
                self.watch.beat(done, "save")
                with self.telemetry.pausing():
                    self.recovery.save(done, record=self.record)
                owed = False
            if signal and not last:
                kept = f"which {'is' if self.recovery.saved == done else 'could not be'} saved"
                raise Stopped(
                    f"{signal}: stopped after step {done} of {training.steps}, {kept}; the same "
                    f"command goes on from step {max(self.recovery.saved, 0)}"
                )
        return None

    def _load(self, batches: Batches, step: int, window: _Window) -> list[dict[str, Tensor]]:
        """The micro-batches of a step."""
        self.watch.beat(step, "waiting for data")
        with self.telemetry.waiting():
            batch = [next(batches) for _ in range(self.engine.accumulation)]
        window.damaged += [part["skipped"].count_nonzero() for part in batch if "skipped" in part]
        return batch

    def _step(self, batch: list[dict[str, Tensor]], step: int, window: _Window) -> _Judged:
        """One step, unless its loss or gradient says that it must not be taken."""
        guard, world, shared = self.recovery.guard, self.engine.world, []

        def accept(loss: Tensor) -> bool:
            """One sum over ranks for both: the loss that is judged, and the signals noted."""
            both = torch.cat([loss.reshape(1), self.stop.votes(loss.device)]).double()
            shared[:] = sum_over_ranks(both).tolist()
            return guard.complaint(shared[0] / world.size) is None

        self.watch.beat(step, "step" if self.warm else "first step")
        lr = learning_rate(self.training.optim, step=step, steps=self.training.steps)
        progress = step / self.training.steps
        taken = self.engine.step(batch, lr=lr, progress=progress, accept=accept)
        self.warm = True
        weights = getattr(self.engine.objective, "weights", None)
        self.telemetry.count(weights(progress) if weights else None)
        loss, *votes = shared
        why = guard.complaint(loss / world.size, taken.grad_norm)
        verdict = guard.judge(loss / world.size, taken.grad_norm)
        if taken.applied:
            window.steps.append(taken)
        elif world.is_main:
            print(f"step {step + 1} skipped: {why}", file=sys.stderr, flush=True)
        return _Judged(verdict, why, name_of(votes))

    def _measure(self, done: int) -> dict[str, float | None] | None:
        """What is found on what is held out; None where a signal came meanwhile."""
        self.watch.beat(done, "held out")

        def asked() -> str | None:
            self.watch.beat(done, "held out")
            return self.stop.asked(self.engine.world)

        return self.held_out.measure(self.engine, progress=done / self.training.steps, asked=asked)

    def _log(self, done: int, window: _Window, measured: dict[str, float | None]) -> None:
        """Write a line: means over the steps that were taken since the line before, and rates."""
        lr = learning_rate(self.training.optim, step=done - 1, steps=self.training.steps)
        counts = window.counts(self.engine)
        if skipped := self.recovery.guard.skipped:
            counts["steps_skipped"] = skipped
        if window.steps:
            self.record = summarise(window.steps)
        self.record |= measured
        self.telemetry.log(done, self.record, lr=lr, **counts)


def summarise(window: list[Step]) -> dict[str, float | None]:
    """Means over steps and ranks: loss, terms (None where no sample had one), grad norm."""
    norm = sum(step.grad_norm for step in window) / len(window)
    return {**means(window), "grad_norm": norm}
