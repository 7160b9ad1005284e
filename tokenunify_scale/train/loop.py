"""The training loop: one for every objective and world size."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenunify_scale.config import DivergedError
from tokenunify_scale.train.checkpoint import latest, prune, publish
from tokenunify_scale.train.distributed import barrier, sum_over_ranks
from tokenunify_scale.train.engine import Engine, Step, ds_config, load_strategy, with_stage
from tokenunify_scale.train.held_out import HeldOut, means
from tokenunify_scale.train.optim import OptimConfig, learning_rate
from tokenunify_scale.train.runlog import RunFolder, read_metrics, track

RATES = ("step", "lr", "crops_per_s", "data_wait", "skipped")  # of a logged line, beside losses
Batches = Iterator[dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every training verb asks for."""

    steps: int = 1000
    """Optimizer steps of the whole run."""

    global_batch: int = 8
    """Crops of one optimizer step, over all ranks."""

    seed: int = 0
    """Of weights, order, masks and augmentation."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    """AdamW and its schedule."""

    strategy: str | None = None
    """A name of ds_configs or a JSON file; by default the one named as the model's size."""

    zero: int | None = None
    """ZeRO stage, where it is to differ from the strategy's."""

    log_every: int = 10
    """Steps between lines of metrics.jsonl; each line is the mean since the one before."""

    save_every: int = 500
    """Steps between checkpoints; one is always written at the end."""

    def __post_init__(self) -> None:
        """Refuse counts below 1."""
        for name in ("steps", "global_batch", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")


def deepspeed_config(training: Training, *, size: str, world: int) -> dict[str, Any]:
    """DeepSpeed's config for a training of a model of this size on ``world`` ranks.

    Raises:
        ConfigError: unknown strategy or stage, or a batch that ``world`` ranks cannot share.
    """
    strategy = with_stage(load_strategy(training.strategy or size), training.zero)
    return ds_config(
        strategy, global_batch=training.global_batch, clip=training.optim.clip, world=world
    )


def train(
    engine: Engine,
    open_batches: Callable[..., Batches],
    *,
    training: Training,
    run: RunFolder,
    description: str,
    held_out: HeldOut | None = None,
) -> dict[str, float]:
    """Train to the end, from the run's newest checkpoint where it has one.

    Args:
        engine: the objective under DeepSpeed.
        open_batches: called with ``start`` (a position), ``global_batch``, ``rank``, ``world`` and
            ``micro``; gives this rank's micro-batches without end, and can be closed.
        training: how long, how fast.
        run: gets metrics and checkpoints.
        description: for the progress bar.
        held_out: what training does not see, measured before the first step too.

    Returns:
        The means of the last logged window.

    Raises:
        DataError: the checkpoint cannot be restored.
        DivergedError: the loss is not finite; what was saved before stays.
    """
    tag = latest(run.path)
    start = engine.load(run.path / "checkpoints", tag=tag)["step"] if tag else 0
    run.rewind(start)
    if held_out is not None and start == 0:
        run.log(step=0, **held_out.measure(engine, progress=0.0))
    batches = open_batches(
        start=start * training.global_batch,
        global_batch=training.global_batch,
        rank=engine.world.rank,
        world=engine.world.size,
        micro=engine.micro_batch,
    )
    try:
        return fit(
            engine,
            batches,
            start=start,
            training=training,
            run=run,
            description=description,
            held_out=held_out,
        )
    finally:
        batches.close()


def fit(
    engine: Engine,
    batches: Batches,
    *,
    start: int,
    training: Training,
    run: RunFolder,
    description: str,
    held_out: HeldOut | None = None,
) -> dict[str, float]:
    """Train from step ``start`` to the end.

    Args:
        engine: the objective under DeepSpeed.
        batches: this rank's micro-batches from step ``start`` on.
        start: steps already done.
        training: how long, how fast, how often to write.
        run: gets metrics and checkpoints.
        description: for the progress bar.
        held_out: what training does not see; a line is logged whenever it is measured.

    Returns:
        The means of the last logged window: loss, terms, rates.

    Raises:
        DivergedError: the loss is not finite; what was saved before stays.
    """
    window: list[Step] = []
    lost: list[Tensor] = []  # samples that were damaged and replaced, in each micro-batch
    waited, began = 0.0, time.monotonic()
    record = {}
    if start == training.steps:  # finished before: what was measured then
        terms = next(reversed(read_metrics(run.path)), {})
        record = {name: terms[name] for name in terms if name not in RATES}
    steps = range(start, training.steps)
    for step in track(steps, description=description, enabled=engine.world.is_main):
        asked = time.monotonic()
        batch = [next(batches) for _ in range(engine.accumulation)]
        waited += time.monotonic() - asked
        lost += [part["skipped"].count_nonzero() for part in batch if "skipped" in part]
        lr = learning_rate(training.optim, step=step, steps=training.steps)
        window.append(engine.step(batch, lr=lr, progress=step / training.steps))
        done = step + 1
        saves = done % training.save_every == 0 or done == training.steps
        measures = held_out is not None and held_out.due(done, steps=training.steps)
        if measures or done % training.log_every == 0 or done == training.steps:
            seconds = time.monotonic() - began
            record = summarise(window)
            crops = sum(len(b["crops"]) for b in batch) * engine.world.size * len(window)
            rates = {"crops_per_s": crops / seconds, "data_wait": waited / seconds}
            if lost:
                total = torch.stack(lost).sum().to(engine.world.device)
                rates["skipped"] = int(sum_over_ranks(total))
            if measures:
                record |= held_out.measure(engine, progress=done / training.steps)
            run.log(step=done, **record, lr=lr, **rates)
            _check_finite(record["loss"], step=done)
            window, lost, waited, began = [], [], 0.0, time.monotonic()
        if saves:
            if window:
                _check_finite(summarise(window)["loss"], step=done)
            paused = time.monotonic()
            save(engine, run, step=done)
            began += time.monotonic() - paused
    return record


def _check_finite(loss: float, *, step: int) -> None:
    if not math.isfinite(loss):
        raise DivergedError(f"step {step}: the loss is {loss}")


def summarise(window: list[Step]) -> dict[str, float]:
    """Means over steps and ranks: loss, terms (None where no sample had one), grad norm."""
    norm = sum(step.grad_norm for step in window) / len(window)
    return {**means(window), "grad_norm": norm}



def save(engine: Engine, run: RunFolder, *, step: int) -> None:
    """Write a checkpoint on all ranks, then point ``latest`` at it and drop older ones."""
    tag = f"step-{step:08d}"
    engine.save(run.path / "checkpoints", tag=tag, state={"step": step})
    if engine.world.is_main:
        publish(run.path, tag)
        prune(run.path)
    barrier()
