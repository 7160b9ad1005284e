"""The weights of a run at its best: kept while it trains, and what it ends with."""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tokenunify_scale.train.checkpoint import WEIGHTS, Description, read_measured, save_weights
from tokenunify_scale.train.distributed import on_main
from tokenunify_scale.train.engine import Engine

FOLDER, LAST = "best", "last"
Ship = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class Best:
    """The weights of the lowest score so far, in ``RUN/best``; a file that says its own score.

    It outlives a run that is stopped and goes on: what it goes back behind, it measures again.
    """

    def __init__(self, run: Path, *, by: str, about: Description, ship: Ship) -> None:
        """Look at nothing yet.

        Args:
            run: the run's folder.
            by: name of the score, as it stands in metrics.jsonl; lower is better.
            about: what the weights are.
            ship: makes the weights of the network from those that are trained.
        """
        self._run, self._folder = run, run / FOLDER
        self._by, self._about, self._ship = by, about, ship

    def forget(self) -> None:
        """Delete what another run left here; for rank 0, before the first step."""
        for name in (FOLDER, LAST):
            (self._run / name / WEIGHTS).unlink(missing_ok=True)

    def offer(
        self, engine: Engine, module: nn.Module, *, step: int, measured: Mapping[str, float | None]
    ) -> None:
        """Keep a module's weights if what was measured of them is better than before. Collective.

        Args:
            engine: of the run.
            module: part of its objective.
            step: steps done.
            measured: scores by name, the same on all ranks.

        Raises:
            HostError: the disk does not take it.
        """
        value = measured.get(self._by)
        if value is None or not math.isfinite(value):
            return
        if not on_main(engine.world, lambda: self._beats(value)):
            return
        weights = engine.weights(module)
        on_main(engine.world, lambda: self._keep(weights, {"step": step, **measured}))

    def finish(self, weights: dict[str, Tensor], *, step: int) -> dict[str, Any] | None:
        """Leave the best weights as the run's own, and the last ones in ``RUN/last``; for rank 0.

        Args:
            weights: the last, as they are shipped.
            step: steps done.

        Returns:
            What was measured of the best; None where nothing was, and the last are the run's own.
        """
        found = self.found()
        if found is None:
            save_weights(self._run, weights, self._about)
            return None
        if found["step"] != step:
            (self._run / LAST).mkdir(exist_ok=True)
            save_weights(self._run / LAST, weights, self._about)
        temporary = self._run / f".{WEIGHTS}.{os.getpid()}.tmp"
        temporary.unlink(missing_ok=True)
        try:  # one file of two names, where the disk can
            os.link(self._folder / WEIGHTS, temporary)
        except OSError:
            shutil.copyfile(self._folder / WEIGHTS, temporary)
        temporary.replace(self._run / WEIGHTS)
        return found

    def found(self) -> dict[str, Any] | None:
        """What was measured of the weights that are kept, with ``step``; None without any."""
        return read_measured(self._folder) if (self._folder / WEIGHTS).is_file() else None

    def _keep(self, weights: dict[str, Tensor], measured: dict[str, Any]) -> None:
        self._folder.mkdir(exist_ok=True)
        save_weights(self._folder, self._ship(weights), self._about, measured=measured)

    def _beats(self, value: float) -> bool:
        found = self.found()
        return found is None or value < found[self._by]
