"""What the training loop costs beside forward, backward and optimizer: DeepSpeed's, and plain."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenunify_scale.data.stream import Stream, batches
from tokenunify_scale.measure.clock import own_clock, seconds_of
from tokenunify_scale.measure.report import Finding, milliseconds, table
from tokenunify_scale.train.door import join
from tokenunify_scale.train.engine import Engine
from tokenunify_scale.train.loop import train
from tokenunify_scale.train.optim import parameter_groups
from tokenunify_scale.train.runlog import RunFolder
from tokenunify_scale.train.strategy import ds_config, load_strategy
from tokenunify_scale.train.telemetry import Facts, Telemetry, TelemetryConfig
from tokenunify_scale.train.training import Training

COLD = 2  # first steps, which load kernels and fill caches
PROGRESS = 0.5  # of training; every term is computed at any
Batches = Iterator[dict[str, Tensor]]


def compare(
    objective: nn.Module, *, shards: Path, strategy: str, steps: int, out: Path
) -> dict[str, Any]:
    """Train for a few steps, each followed by a plain one on the same crop, and time both.

    A step of the loop is all that happens from asking for its crop to asking for the next one's:
    waiting for data, checks, signals, lines of the log, and DeepSpeed's forward, backward and step.
    A plain one is forward, backward, clipping and ``torch.optim.AdamW``, of a copy of the
    objective. Both in fp32, in one process. For the clock see ``own_clock``; waiting is always
    timed on the wall.

    Args:
        objective: on the CPU.
        shards: folder of crops.
        strategy: of ``ds_configs``; its autocast is left out.
        steps: that count, after ``COLD`` others.
        out: gets the run's folder.

    Returns:
        ``loop``, ``inner`` (of it DeepSpeed's three), ``waiting`` and ``plain``: seconds of each
        step; ZeRO's stage.
    """
    training = Training(steps=steps + COLD + 1, global_batch=1, save_every=10**6, hang_after=0)
    settings = load_strategy(strategy) | {"torch_autocast": {"enabled": False}}
    stream, world = Stream([shards], seed=0), join()
    twin = deepcopy(objective)
    adamw = torch.optim.AdamW(parameter_groups(twin, training.optim), betas=training.optim.betas)
    turns = _Turns(partial(_plain_step, twin, adamw, clip=training.optim.clip))
    engine = Engine(
        objective,
        optim=training.optim,
        config=ds_config(settings, global_batch=1, clip=training.optim.clip, world=1),
        world=world,
    )
    turns.watch(engine)
    run = RunFolder.create(out, verb="benchmark", config={})
    facts = Facts(steps=training.steps, global_batch=1, voxels=math.prod(stream.crop))
    boards = TelemetryConfig(tensorboard=False)
    with Telemetry(boards, run=run, facts=facts, world=world) as telemetry:
        train(
            engine,
            turns.between(partial(batches, stream, workers=1, prefetch=2)),
            training=training,
            run=run,
            telemetry=telemetry,
            description="benchmark loop",
        )
    engine.close()
    return {
        "stage": engine.stage,
        **{name: samples[COLD:] for name, samples in vars(turns.seconds).items()},
    }


class _Seconds:
    """Of each step."""

    def __init__(self) -> None:
        self.loop: list[float] = []
        self.inner: list[float] = []
        self.waiting: list[float] = []
        self.plain: list[float] = []


class _Turns:
    """Runs a plain step whenever the loop asks for the next batch, and times both."""

    def __init__(self, plain: Callable[[dict[str, Tensor]], None]) -> None:
        self.seconds, self._plain, self._opened = _Seconds(), plain, False
        self._clock, self._inside = own_clock("cpu"), 0.0

    def watch(self, engine: Engine) -> None:
        """Time what DeepSpeed does in a step."""
        inner = engine._engine

        def timed(work: Callable[..., Any]) -> Callable[..., Any]:
            def call(*words: Any, **options: Any) -> Any:
                began = self._clock()
                try:
                    return work(*words, **options)
                finally:
                    self._inside += self._clock() - began

            return call

        for name in ("forward", "backward", "step"):
            setattr(inner, name, timed(getattr(inner, name)))

    def between(self, open_batches: Callable[..., Batches]) -> Callable[..., Batches]:
        """The same batches, for a loop that opens them once; what else opens some is not timed."""

        def opened(**place: Any) -> Batches:
            inner = open_batches(**place)
            if self._opened:
                return inner
            self._opened = True
            return self._timed(inner)

        return opened

    def _timed(self, inner: Batches) -> Batches:
        clock, seconds = self._clock, self.seconds
        try:
            while True:
                self._inside = 0.0
                began, asked = clock(), time.perf_counter()
                batch = next(inner)
                waited = time.perf_counter() - asked
                yield batch
                seconds.loop.append(clock() - began)
                seconds.inner.append(self._inside)
                seconds.waiting.append(waited)
                seconds.plain.append(seconds_of(partial(self._plain, batch), clock=clock))
        finally:
            inner.close()


def _plain_step(
    objective: nn.Module, adamw: torch.optim.Optimizer, batch: Any, *, clip: float
) -> None:
    adamw.zero_grad(set_to_none=True)
    crops = {**batch, "crops": batch["crops"].float() / 255}
    objective(crops, progress=PROGRESS).loss.backward()
    nn.utils.clip_grad_norm_(objective.parameters(), clip)
    adamw.step()


def overhead(measured: dict[str, Any]) -> float:
    """Median over the steps of all but forward, backward and optimizer, as a share of these.

    A processor's clock stands while a process waits, so waiting for data comes on top.
    """
    parts = zip(*(measured[name] for name in ("loop", "waiting", "inner")), strict=True)
    return statistics.median((loop + wait) / inner for loop, wait, inner in parts) - 1


def loop_table(measured: dict[str, Any]) -> str:
    """The table of ``benchmark loop``."""
    names = {
        "loop": f"a step of the loop, ZeRO-{measured['stage']}",
        "inner": "of it forward, backward, step of DeepSpeed",
        "waiting": "waiting for data",
        "plain": "a plain step in torch",
    }
    rows = [
        [words, milliseconds(statistics.median(measured[name]))] for name, words in names.items()
    ]
    return table([f"medians of {len(measured['loop'])} pairs", "ms"], rows)


def loop_findings(measured: dict[str, Any]) -> list[Finding]:
    """What of ``benchmark loop`` has a target."""
    return [Finding("loop / forward, backward, step - 1", overhead(measured), "loop")]
