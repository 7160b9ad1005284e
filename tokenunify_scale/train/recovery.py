"""Where a run stands between its saves: written, found again after any end, gone back to."""

import math
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from torch import Tensor

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.train.distributed import barrier, gather, on_main
from tokenunify_scale.train.durable import checksums
from tokenunify_scale.train.engine import Engine
from tokenunify_scale.train.guard import LossGuard, read_detours, write_detours
from tokenunify_scale.train.manifest import Manifest, files_of_rank, read_manifest
from tokenunify_scale.train.retention import retain, rewind
from tokenunify_scale.train.runlog import RunFolder
from tokenunify_scale.train.saves import (
    CHECKPOINTS,
    candidates,
    choose,
    saving,
    seal,
    step_of,
    sweep,
    tag_of,
    warn,
)
from tokenunify_scale.train.training import Training

PROBED = 2  # crops: one at an even position of the stream, one at an odd
SAME, OTHER = 1e-4, 2e-2  # relative: in the same precision on the same kind of device, or not
NVME = "nvme"
UNSAVED = "DeepSpeed does not restore what it keeps on nvme, so that such a run cannot go on"
Batches = Iterator[dict[str, Tensor]]


class Recovery:
    """The saves of a run in training, its guard, and the data that is left out.

    All methods but ``position`` are collective: every rank calls them.
    """

    def __init__(
        self,
        engine: Engine,
        open_batches: Callable[..., Batches],
        *,
        run: RunFolder,
        training: Training,
    ) -> None:
        """Restore nothing yet; errors are those of a damaged ``detours.json``."""
        self._engine, self._open, self._run, self._training = engine, open_batches, run, training
        self._probe: list[dict[str, Tensor]] = []
        self.guard = LossGuard(training.guard)
        self.detours = on_main(engine.world, lambda: read_detours(run.path))
        self.saved = -1
        """The step of the newest save."""

    def position(self, step: int) -> int:
        """Where in the stream the batch of a step begins."""
        return self.detours.position(step, global_batch=self._training.global_batch)

    def restore(self) -> int:
        """Take up the run's newest whole checkpoint; how many steps it has done, 0 without one.

        Raises:
            ConfigError: state was kept on NVMe, or is to be; or this run cannot take up a save of
                another layout.
            DataError: there are checkpoints and none is whole, or what was restored does not
                compute what was saved.
        """

        def find() -> str | None:
            sweep(self._run.path)
            return choose(self._run.path)

        tag = on_main(self._engine.world, find)
        if self._engine.offload == NVME and self._engine.world.is_main:
            warn(f"{self._run.path}: {UNSAVED}: only its last weights are kept")
        return 0 if tag is None else self._load(tag, streak=True)

    def save(self, step: int, *, record: dict[str, float | None]) -> None:
        """Write a checkpoint of all ranks and make it the run's newest; drop those not kept.

        None is written where state is kept on NVMe, which DeepSpeed does not restore.

        Args:
            step: steps done.
            record: the last logged means, of which a loss is kept to tell the best save by.

        Raises:
            HostError: the disk does not take it. What was saved before stays.
        """
        if step == self.saved or self._engine.offload == NVME:
            return
        engine, run, world = self._engine, self._run.path, self._engine.world
        held_out = record.get("held_out_loss")
        loss = record.get("loss") if held_out is None else held_out
        probe = self._measure_probe(step)
        with saving(run, step) as folder:
            state = {"step": step, "guard": self.guard.state_dict()}
            engine.save(folder.parent, tag=folder.name, state=state)
            own = checksums(folder, files_of_rank(folder, rank=world.rank))
            parts = gather(world, own)
            if world.is_main:
                seal(
                    run,
                    step,
                    world=world.size,
                    stage=engine.stage,
                    offload=engine.offload,
                    loss=_finite(loss),
                    measured_on="training" if held_out is None else "held_out",
                    probe=_finite(probe),
                    facts={"precision": engine.precision, "layout": engine.layout},
                    parts=parts,
                )
        barrier()
        self.saved = step
        if world.is_main:
            retain(run, self._training.saves)

    def back(self, failed: int, *, why: str) -> int:
        """Go back to a save, and leave out the data from there to a step.

        Args:
            failed: the last step judged, counted from 0.
            why: what was wrong with it.

        Returns:
            The step of the save.

        Raises:
            DivergedError: the run went back too often, or has no save.
        """
        run, training = self._run.path, self._training
        saves = on_main(self._engine.world, lambda: [step_of(tag) for tag in candidates(run)])
        step, self.detours = self.detours.back(
            failed=failed,
            saves=saves,
            global_batch=training.global_batch,
            limit=training.guard.limit,
            why=why,
        )
        if self._engine.world.is_main:
            print(
                f"step {failed + 1}: {why}, {training.guard.patience} times in a row: going back "
                f"to step {step}, and on behind the data that led here",
                file=sys.stderr,
                flush=True,
            )
        on_main(self._engine.world, lambda: write_detours(run, self.detours))
        return self._load(tag_of(step), streak=False)

    def _load(self, tag: str, *, streak: bool) -> int:
        """Restore a save, check it, and make it the newest."""
        engine, folder = self._engine, self._run.path / CHECKPOINTS
        manifest = on_main(engine.world, lambda: read_manifest(folder / tag))
        if NVME in (engine.offload, manifest and manifest.offload):
            raise ConfigError(
                f"{folder / tag}: {UNSAVED}: go on with the strategy that saved it, or begin anew "
                "with another --out"
            )
        then = manifest and manifest.facts.get("layout")
        alike = then in (None, engine.layout)
        if engine.world.is_main and not alike:
            changed = ", ".join(
                f"{name} {then.get(name)} -> {now}"
                for name, now in engine.layout.items()
                if then.get(name) != now
            )
            warn(f"{folder / tag} is laid out anew: {changed}")
        state = engine.load(folder, tag=tag, alike=alike)
        step = self.saved = state["step"]
        if "guard" in state:  # saves of earlier versions have none
            self.guard.load_state_dict(state["guard"], streak=streak)
        if manifest is not None and manifest.probe is not None:
            self._check(manifest, step=step, where=folder / tag)
        on_main(engine.world, lambda: rewind(self._run.path, tag))
        return step

    def _check(self, manifest: Manifest, *, step: int, where: Path) -> None:
        """Refuse to go on from what does not compute what was saved."""
        found = self._measure_probe(step)
        same = manifest.facts.get("precision") == self._engine.precision
        if not math.isclose(found, manifest.probe, rel_tol=SAME if same else OTHER):
            raise DataError(
                f"{where} was restored, but its loss on the first crops is {found:.7g}, and "
                f"was {manifest.probe:.7g} when it was saved: code or data have changed"
            )

    def _measure_probe(self, step: int) -> float:
        """The loss on the stream's first crops, the same on all ranks, however many they are."""
        if not self._probe:
            batches = self._open(start=0, global_batch=PROBED, rank=0, world=1, micro=1)
            try:
                for batch in islice(batches, PROBED):
                    self._probe.append({name: value.clone() for name, value in batch.items()})
            finally:
                batches.close()
        progress = step / self._training.steps
        losses = [self._engine.probe(batch, progress=progress) for batch in self._probe]
        return sum(losses) / PROBED


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
