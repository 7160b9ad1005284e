"""Which checkpoints of a run stay: the newest, every n-th step, the best."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenunify_scale.config import DataError
from tokenunify_scale.train.durable import write_durably
from tokenunify_scale.train.manifest import Manifest, read_manifest
from tokenunify_scale.train.saves import (
    BEST,
    CHECKPOINTS,
    LATEST,
    best,
    candidates,
    drop,
    latest,
    step_of,
    warn,
)

ASIDE = "aside"


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """Which checkpoints stay; the newest always does."""

    keep: int = 2
    """Newest checkpoints that are kept: a damaged one falls back to the one before."""

    keep_every: int = 0
    """Checkpoints of steps that are multiples of this stay for ever; 0 for none."""

    keep_best: int = 0
    """Checkpoints of lowest loss that are kept (held-out, where that was measured); the file
    ``best_checkpoint`` names the first. Mind that a curriculum changes what the loss means."""

    def __post_init__(self) -> None:
        """Refuse to keep nothing."""
        for name, least in (("keep", 1), ("keep_every", 0), ("keep_best", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")


def by_loss(saves: Mapping[str, Manifest | None]) -> list[str]:
    """Tags of the saves that can be compared by loss, lowest first; of equals the newer first.

    Once any was measured on held-out crops, only those so measured are compared.
    """
    measured = {tag: m for tag, m in saves.items() if m is not None and m.loss is not None}
    held_out = {tag: m for tag, m in measured.items() if m.measured_on == "held_out"}
    losses = {tag: m.loss for tag, m in (held_out or measured).items()}
    return sorted(losses, key=lambda tag: (losses[tag], -step_of(tag)))


def kept(
    saves: Mapping[str, Manifest | None], *, policy: SaveConfig, named: Iterable[str | None] = ()
) -> set[str]:
    """Tags that a policy keeps of these; those in ``named`` whatever it says."""
    last = sorted(saves, key=step_of)[-policy.keep :]
    every = policy.keep_every
    for_ever = [tag for tag in saves if every and step_of(tag) % every == 0]
    lowest = by_loss(saves)[: policy.keep_best]
    return {*last, *for_ever, *lowest, *(tag for tag in named if tag in saves)}


def retain(run: Path, policy: SaveConfig, say: Callable[[str], None] = warn) -> None:
    """Delete the checkpoints that the policy does not keep; never what a pointer names.

    What was set aside goes once ``keep`` newer checkpoints are there. What cannot be written or
    deleted is said and left: that is no reason to end a training.
    """
    saves = {tag: _manifest(run / CHECKPOINTS / tag) for tag in candidates(run)}
    if policy.keep_best and (ranking := by_loss(saves)) and best(run) != ranking[0]:
        try:
            write_durably(run / BEST, ranking[0] + "\n")
        except OSError as error:
            say(f"{run / BEST}: cannot be written ({error.strerror})")
    keep = kept(saves, policy=policy, named=(latest(run), best(run)))
    folders = [run / CHECKPOINTS / tag for tag in saves if tag not in keep]
    newer = list(saves)[: policy.keep]
    for aside in (run / CHECKPOINTS).glob(f"step-*.{ASIDE}"):
        if len(newer) == policy.keep and step_of(aside.stem) < step_of(newer[-1]):
            folders.append(aside)
    for folder in folders:
        try:
            drop(folder)
        except OSError as error:
            say(f"{folder}: cannot be deleted ({error.strerror}): delete it by hand")


def rewind(run: Path, tag: str) -> None:
    """Make a checkpoint the run's newest: ``latest`` names it, and newer ones are set aside.

    To be called once it is restored, after a start or a roll-back: otherwise a damaged or rolled
    back one would go on counting as the newest. What is set aside, as ``step-00000020.aside``, is
    not chosen again.
    """
    if latest(run) != tag:
        write_durably(run / LATEST, tag + "\n")
    newer = [other for other in candidates(run) if step_of(other) > step_of(tag)]
    if best(run) in newer:
        (run / BEST).unlink()
    for other in newer:
        aside = run / CHECKPOINTS / f"{other}.{ASIDE}"
        shutil.rmtree(aside, ignore_errors=True)
        (run / CHECKPOINTS / other).rename(aside)


def _manifest(folder: Path) -> Manifest | None:
    """A checkpoint's manifest, None where it cannot be had."""
    try:
        return read_manifest(folder)
    except DataError:
        return None
