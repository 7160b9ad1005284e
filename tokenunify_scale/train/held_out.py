"""What training never sees, measured now and then by the engine that trains."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from tokenunify_scale.config import ConfigError
from tokenunify_scale.train.distributed import sum_over_ranks
from tokenunify_scale.train.engine import Engine, Step

PREFIX = "held_out_"


class Measure(Protocol):
    """What the loop asks now and then, of whatever is measured beside training."""

    def due(self, step: int, *, steps: int) -> bool:
        """Whether to measure after ``step`` of ``steps``; step 0 is before the first."""

    def measure(
        self, engine: Engine, *, progress: float, asked: Callable[[], str | None]
    ) -> dict[str, float | None] | None:
        """Numbers by name with ``held_out_`` before it, the same on all ranks; collective.

        Args:
            engine: of the run. Nothing in it is changed.
            progress: share of training done.
            asked: called now and then, by all ranks equally often; where it answers, the rest is
                left, and the result is None.
        """


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The first ``crops`` of a stream, the same each time, with the same masks and views."""

    open_batches: Callable[..., Iterator[dict[str, Tensor]]]
    """As ``train`` takes it, of data that training does not see."""

    crops: int
    """How many, over all ranks."""

    every: int
    """Steps between two measurements."""

    def due(self, step: int, *, steps: int) -> bool:
        """Whether it is measured after ``step`` of ``steps``: every so often, and at both ends."""
        return step % self.every == 0 or step == steps

    def measure(
        self, engine: Engine, *, progress: float, asked: Callable[[], str | None]
    ) -> dict[str, float | None] | None:
        """Means over all ranks' crops, by name with ``held_out_`` before it; collective.

        Args:
            engine: of the run. Nothing in it is changed.
            progress: share of training done; a curriculum weighs the terms of the loss by it.
            asked: called after each micro-batch; where it answers, the rest is left, and the
                result is None.

        Raises:
            ConfigError: the ranks cannot share the crops.
        """
        world = engine.world.size
        micro = micro_batch(self.crops, world=world, most=engine.micro_batch)
        batches = self.open_batches(
            start=0, global_batch=self.crops, rank=engine.world.rank, world=world, micro=micro
        )
        try:
            found = []
            for batch in islice(batches, self.crops // (world * micro)):
                found.append(engine.evaluate(batch, progress=progress))
                if asked():
                    return None
        finally:
            batches.close()
        return {PREFIX + name: value for name, value in means(found).items()}


def micro_batch(crops: int, *, world: int, most: int) -> int:
    """The largest micro-batch, of at most ``most``, by which ranks can share crops equally.

    Raises:
        ConfigError: there is none.
    """
    if crops < world or crops % world:
        raise ConfigError(f"held_out_crops {crops} is not a multiple of {world} ranks")
    share = crops // world
    return max(m for m in range(1, min(share, most) + 1) if share % m == 0)


def means(steps: list[Step]) -> dict[str, float | None]:
    """Means over steps and ranks: the loss, and each term (None where no sample had one)."""
    names = sorted(steps[0].parts)
    terms = [sum(step.parts[name] for step in steps) for name in names]
    loss = torch.stack([step.loss for step in steps]).mean()
    here = torch.cat([torch.stack([loss, torch.ones_like(loss)]), *terms]).double()
    total = sum_over_ranks(here).reshape(-1, 2).tolist()
    return {
        name: value / count if count else None
        for name, (value, count) in zip(["loss", *names], total, strict=True)
    }
