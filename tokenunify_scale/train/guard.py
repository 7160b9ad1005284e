"""Steps that must not be taken: a loss that is no number or far off is skipped, then undone.

A bad step leaves the weights as they were. After several in a row the weights themselves are under
suspicion, or the data at hand: the run goes back to a save, and reads on behind the data that led
there. Verdicts are functions of numbers that all ranks share, so all ranks take the same branch.

Source: Chowdhery et al. 2022 (PaLM), Sec. 5.1: restart before the spike, skip its batches.
"""

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from tokenunify_scale.config import DataError, DivergedError
from tokenunify_scale.train.runlog import write_atomically

KNOWN = 32  # losses, before which none is called a spike
DEVIATIONS = 10.0  # of the losses' robust standard deviation, that a spike also exceeds
SIGMA = 1.4826  # standard deviation of a normal distribution, in median absolute deviations
DETOURS = "detours.json"
Verdict = Literal["good", "skip", "roll back"]


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Which steps are skipped, and when a run goes back."""

    spike: float = 10.0
    """A step is skipped whose loss exceeds the running median by this factor; 0: only one that is
    no number. Curricula change the loss by less than 10 where they change their weights."""

    window: int = 128
    """Good losses that the median is of."""

    patience: int = 5
    """Steps skipped in a row, at which the run goes back to a save."""

    limit: int = 3
    """Times a run may go back; where it had to once more, it has diverged."""

    def __post_init__(self) -> None:
        """Refuse what would judge nothing or everything."""
        if self.spike != 0 and not self.spike > 1:
            raise ValueError(f"spike must be > 1, or 0 for none, got {self.spike}")
        if self.window < KNOWN:
            raise ValueError(f"window must be >= {KNOWN}, got {self.window}")
        if self.patience < 1 or self.limit < 0:
            raise ValueError(
                f"patience must be >= 1 and limit >= 0, got {self.patience} and {self.limit}"
            )


class LossGuard:
    """Judges each step by its loss and gradient norm, and remembers what it needs for that."""

    def __init__(self, config: GuardConfig) -> None:
        """Know no losses yet."""
        self.config = config
        self.skipped = 0
        """Steps skipped, along the way that led here."""
        self._losses: deque[float] = deque(maxlen=config.window)
        self._streak = 0

    def complaint(self, loss: float, grad_norm: float | None = None) -> str | None:
        """What is wrong with a step, in words; None where nothing is. Remembers nothing.

        Args:
            loss: mean over all ranks.
            grad_norm: of all ranks' gradient, before clipping; None before it is known.
        """
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if grad_norm is not None and not math.isfinite(grad_norm):
            return f"the gradient norm is {grad_norm}"
        if self.config.spike == 0 or len(self._losses) < KNOWN:
            return None
        middle = median(self._losses)
        deviation = SIGMA * median(abs(each - middle) for each in self._losses)
        allowed = max((self.config.spike - 1) * abs(middle), DEVIATIONS * deviation)
        if loss - middle <= allowed:
            return None
        return f"the loss is {loss:.4g}, the median of {len(self._losses)} before it {middle:.4g}"

    def judge(self, loss: float, grad_norm: float | None = None) -> Verdict:
        """Judge a step, once; arguments as ``complaint``, and the same on all ranks.

        Returns:
            "good", or "skip" where the step must not be taken, or "roll back" where that makes
            ``patience`` in a row: the step is not taken either, and the run goes back.
        """
        if self.complaint(loss, grad_norm) is None:
            self._losses.append(loss)
            self._streak = 0
            return "good"
        self.skipped += 1
        self._streak += 1
        if self._streak < self.config.patience:
            return "skip"
        self._streak = 0
        return "roll back"

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON, for a checkpoint."""
        return {"losses": [*self._losses], "streak": self._streak, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any], *, streak: bool = True) -> None:
        """Remember what ``state_dict`` held.

        Args:
            state: of a checkpoint.
            streak: False where a run goes back: bad steps before that save are not counted again.
        """
        self._losses = deque(state["losses"], maxlen=self.config.window)
        self._streak = state["streak"] if streak else 0
        self.skipped = state["skipped"]


@dataclass(frozen=True, kw_only=True)
class Detours:
    """Where a run went back to saves, and what of the stream it left out from there on.

    Steps are counted anew from the save, the stream is not: so a step's position depends on both.
    A position of any step is the same whether a run stands there, comes back or is resumed there.
    """

    left_out: tuple[tuple[int, int], ...] = ()
    """(step, positions): from this step on, the stream is read so many positions further on."""

    made: int = 0
    """Times the run went back."""

    def position(self, step: int, *, global_batch: int) -> int:
        """Where in the stream the batch of a step begins, which is counted from 0."""
        further = sum(positions for since, positions in self.left_out if since <= step)
        return step * global_batch + further

    def back(
        self, *, failed: int, saves: Sequence[int], global_batch: int, limit: int, why: str
    ) -> tuple[int, "Detours"]:
        """Choose the save to go back to, and leave out the data from there to the failed step.

        The newest save; but where the run has gone back to that one already, and got no further
        than to fail again, the one before. Saves newer than the one chosen are of a way that was
        given up: delete them, then write the detours, then load.

        Args:
            failed: the last step judged, counted from 0.
            saves: steps of all good saves, which are steps done when they were written.
            global_batch: crops of a step, over all ranks.
            limit: times a run may go back.
            why: what was wrong, for the message.

        Returns:
            The save's step, and the detours from now on.

        Raises:
            DivergedError: the limit is reached, or there is no save.
        """
        remedy = "lower optim.lr, or look at the data there"
        if self.made >= limit or not saves:
            times = f"the run went back {self.made} of at most {limit} times"
            stop = times if saves else "there is no save to go back to"
            raise DivergedError(f"step {failed + 1}: {why}, and {stop}: {remedy}")
        tried = self.left_out[-1][0] if self.left_out else None
        to = max((step for step in saves if step != tried), default=tried)
        kept = replace(self, left_out=tuple(each for each in self.left_out if each[0] < to))
        behind = self.position(failed, global_batch=global_batch) + global_batch
        positions = behind - kept.position(to, global_batch=global_batch)
        return to, Detours(left_out=(*kept.left_out, (to, positions)), made=self.made + 1)


def write_detours(run: Path, detours: Detours) -> None:
    """Write ``run/detours.json`` atomically; rank 0 does, before the save is loaded."""
    record = {"left_out": detours.left_out, "made": detours.made}
    write_atomically(run / DETOURS, json.dumps(record) + "\n")


def read_detours(run: Path) -> Detours:
    """A run's detours; none where it never went back.

    Raises:
        DataError: the file is damaged.
    """
    file = run / DETOURS
    if not file.is_file():
        return Detours()
    try:
        record = json.loads(file.read_text())
        left_out = tuple((int(step), int(positions)) for step, positions in record["left_out"])
        return Detours(left_out=left_out, made=int(record["made"]))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file}: damaged ({error}): without it data is read twice") from None
