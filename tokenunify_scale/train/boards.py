"""Where the numbers of a run can be watched: TensorBoard, Weights & Biases. Both are optional."""

import logging
import sys
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tokenunify_scale.config import HostError

log = logging.getLogger(__name__)

FOLDER = "tensorboard"
IDENTITY = "wandb.id"


class TensorBoard:
    """Scalars in ``RUN/tensorboard``: ``tensorboard --logdir RUN`` draws them."""

    def __init__(self, run: Path) -> None:
        """Open nothing yet."""
        self._folder, self._writer = run / FOLDER, None

    def begin(self, step: int) -> None:
        """Go on behind ``step``: what was written after it is not drawn any more."""
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        self._writer = SummaryWriter(str(self._folder), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Bring everything to the disk."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """The same at wandb.ai, or offline: its own variables (WANDB_MODE) say which."""

    def __init__(self, run: Path, *, project: str, name: str, config: Mapping[str, Any]) -> None:
        """Open nothing yet."""
        self._run, self._wandb = run, None
        self._options = {"project": project, "name": name, "config": config, "dir": str(run)}

    def begin(self, step: int) -> None:
        """Go on with the run that the folder knows; one that begins anew is a new one.

        Raises:
            HostError: it cannot be reached, or does not know who is asking.
        """
        import wandb

        if self._wandb is not None:
            return  # a step that comes again is drawn again: curves are over "step"
        file = self._run / IDENTITY
        if step == 0 or not file.is_file():
            file.write_text(uuid.uuid4().hex[:12] + "\n")
        try:
            self._wandb = wandb.init(id=file.read_text().strip(), resume="allow", **self._options)
        except Exception as error:  # of many kinds: no key, no network, no such project
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise HostError(f"telemetry.wandb: {reason}: log in, or leave it off") from error
        self._wandb.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        self._wandb.log({"step": step, **values})

    def close(self) -> None:
        """Upload the rest."""
        if self._wandb is not None:
            self._wandb.finish()


def wanted(
    run: Path,
    *,
    tensorboard: bool | Literal["auto"],
    wandb: str | None,
    name: str,
    config: Mapping[str, Any],
) -> list[TensorBoard | WeightsAndBiases]:
    """The boards of a run, not open yet.

    Args:
        run: its folder.
        tensorboard: auto: if it is installed; if not, that is told once.
        wandb: project, or None.
        name: of the run, on a board.
        config: of the run, as plain data.

    Raises:
        HostError: one that was asked for is not installed.
    """
    boards: list[TensorBoard | WeightsAndBiases] = []
    if tensorboard and _installed("tensorboard", by_name=tensorboard is True):
        boards.append(TensorBoard(run))
    if wandb and _installed("wandb", by_name=True):
        boards.append(WeightsAndBiases(run, project=wandb, name=name, config=config))
    return boards


def _installed(package: str, *, by_name: bool) -> bool:
    """Whether an optional package is there; what was asked for by name must be."""
    if package in sys.modules or find_spec(package):
        return True
    missing = f"{package} is not installed: pip install 'tokenunify-scale[{package}]'"
    if by_name:
        raise HostError(f"telemetry.{package}: {missing}, or leave it off")
    log.warning("no curves, only metrics.jsonl: %s", missing)
    return False


class Boards:
    """All boards of a run. One that fails is told once and left; training goes on."""

    def __init__(self, boards: list[TensorBoard | WeightsAndBiases]) -> None:
        """Take boards that are not open yet."""
        self._boards = boards

    def begin(self, step: int) -> None:
        """Open them, or go back to ``step``.

        Raises:
            HostError: one that was asked for cannot be had.
        """
        for board in self._boards:
            board.begin(step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve, by the curve's name: group/name."""
        for board in list(self._boards):
            try:
                board.write(step, values)
            except Exception as error:  # a full disk, a lost network: no reason to end a training
                self._boards.remove(board)
                log.warning("%s is left at step %s: %s", type(board).__name__, step, error)

    def close(self) -> None:
        """Close them."""
        for board in self._boards:
            try:
                board.close()
            except Exception as error:  # as above
                log.warning("%s: %s", type(board).__name__, error)
