"""The life of a checkpoint as files: written aside, sealed, and found again after any kill.

``RUN/checkpoints/`` holds a folder for each save. All ranks write into ``.step-00000020.partial``.
Rank 0 then seals it: every file is on the disk, the manifest lists them, the folder is renamed to
``step-00000020``, and ``RUN/latest`` names it. The process may end between any two of these: after
``sweep``, ``choose`` finds the newest sealed save, or the one that was being sealed.

All but ``partial`` and ``saving`` is for rank 0 alone.
"""

import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tokenunify_scale.config import DataError, HostError
from tokenunify_scale.train.durable import Files, checksums, size_of, sync_folder, write_durably
from tokenunify_scale.train.manifest import MANIFEST, Manifest, damage, files_of

CHECKPOINTS = "checkpoints"
LATEST, BEST = "latest", "best_checkpoint"
PARTIAL, REPLACED, DROPPED = "partial", "replaced", "dropped"

_TAG = re.compile(r"step-\d{8,}")
_HIDDEN = re.compile(rf"\.(step-\d{{8,}})\.({PARTIAL}|{REPLACED}|{DROPPED})")
# How torch says that it could not write a file: it raises no OSError.
_TORCH_CANNOT_WRITE = ("inline_container", "PytorchStreamWriter", "Parent directory")


def tag_of(step: int) -> str:
    """The name of a step's checkpoint."""
    return f"step-{step:08d}"


def step_of(tag: str) -> int:
    """The step of a checkpoint's name."""
    return int(tag.removeprefix("step-"))


def partial(run: Path, step: int) -> Path:
    """Where all ranks write a save; its name is the tag that DeepSpeed is given."""
    return run / CHECKPOINTS / f".{tag_of(step)}.{PARTIAL}"


@contextmanager
def saving(run: Path, step: int) -> Iterator[Path]:
    """The folder of a save that is being written; gone again if the disk does not take it.

    Raises:
        HostError: the disk is full or cannot be written. What was saved before stays. Anything
            else that goes wrong meanwhile, such as a rank that died, is passed on as it is.
    """
    folder = partial(run, step)
    try:
        yield folder
    except (OSError, RuntimeError) as error:
        if not _is_of_the_disk(error):
            raise
        reason, free = " ".join(str(error).split())[:200], shutil.disk_usage(run).free
        shutil.rmtree(folder, ignore_errors=True)  # other ranks may be in it: sweep takes the rest
        raise HostError(
            f"the checkpoint of step {step} cannot be written to {folder.parent} ({reason}) with "
            f"{free:,} bytes free there; earlier checkpoints are as they were: make room, then "
            "start the run again"
        ) from error


def _is_of_the_disk(error: Exception) -> bool:
    if isinstance(error, OSError):
        return not isinstance(error, ConnectionError | TimeoutError)
    return any(words in str(error) for words in _TORCH_CANNOT_WRITE)


def seal(
    run: Path,
    step: int,
    *,
    world: int,
    stage: int,
    offload: str,
    loss: float | None = None,
    measured_on: str = "training",
    probe: float | None = None,
    facts: dict[str, Any] | None = None,
    parts: Iterable[Files] = (),
) -> str:
    """Make a save that all ranks have finished writing the run's newest checkpoint.

    A checkpoint of the same step gives way to it. Arguments are the manifest's, but ``parts``:
    what each rank says of the files it wrote (``checksums``); the rest is read here.

    Returns:
        The checkpoint's tag.

    Raises:
        ValueError: the manifest cannot be, such as of a loss that is not finite.
        HostError: a rank wrote what is not here: the folder is not shared.
        OSError: the disk did not take it.
    """
    folder = partial(run, step)
    manifest = Manifest(
        step=step,
        world=world,
        stage=stage,
        offload=offload,
        loss=loss,
        measured_on=measured_on,
        probe=probe,
        facts=facts or {},
        files=_merge(folder, parts),
    )
    text = manifest.to_json()
    Manifest.from_json(text)  # what could not be read again would be as good as lost
    for inner in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync_folder(inner)
    write_durably(folder / MANIFEST, text)  # from here on it is whole
    return _publish(run, step)


def _merge(folder: Path, parts: Iterable[Files]) -> Files:
    """What the ranks say of their files, if it is so here, and what none of them spoke of."""
    files = {name: entry for part in parts for name, entry in part.items()}
    for name, (expected, _) in files.items():
        if (found := size_of(folder / name)) != expected:
            raise HostError(
                f"{folder / name} has {found or 'no'} bytes on this host and {expected} on the one "
                "that wrote it: the run folder must be on a file system that all hosts share"
            )
    return files | checksums(folder, [name for name in files_of(folder) if name not in files])


def _publish(run: Path, step: int) -> str:
    """Give a whole save its name, in the place of an older one of this step, and point to it."""
    tag, folder = tag_of(step), run / CHECKPOINTS
    old = folder / f".{tag}.{REPLACED}"
    if (folder / tag).exists():
        drop(old)
        (folder / tag).rename(old)
    partial(run, step).rename(folder / tag)
    sync_folder(folder)
    write_durably(run / LATEST, tag + "\n")
    with suppress(OSError):  # then the next sweep takes it
        drop(old)
    return tag


def sweep(run: Path) -> None:
    """Clear up after a process that was killed, before anything is chosen or saved.

    A save that was whole but not yet named is published, one that was not is removed, and so is
    what was being replaced or deleted. No other process may be saving to the run.

    Raises:
        OSError: the folder cannot be changed.
    """
    found = (_HIDDEN.fullmatch(path.name) for path in (run / CHECKPOINTS).glob(".step-*"))
    hidden = sorted(match.groups() for match in found if match)
    for tag, kind in hidden:
        if kind == PARTIAL and (partial(run, step_of(tag)) / MANIFEST).is_file():
            _publish(run, step_of(tag))
    for tag, kind in hidden:
        folder = run / CHECKPOINTS / f".{tag}.{kind}"
        if kind == REPLACED and folder.exists() and not (run / CHECKPOINTS / tag).exists():
            folder.rename(run / CHECKPOINTS / tag)
        drop(folder)


def candidates(run: Path) -> list[str]:
    """Tags of a run's checkpoints, newest first."""
    tags = (path.name for path in (run / CHECKPOINTS).glob("step-*") if path.is_dir())
    return sorted(filter(_TAG.fullmatch, tags), key=step_of, reverse=True)


def latest(run: Path) -> str | None:
    """The tag that the run's ``latest`` names; None without one. It may since be damaged."""
    return _read_pointer(run / LATEST)


def best(run: Path) -> str | None:
    """The tag that the run's ``best_checkpoint`` names; None without one."""
    return _read_pointer(run / BEST)


def warn(line: str) -> None:
    """Say a line on stderr."""
    print(line, file=sys.stderr, flush=True)


def choose(run: Path, say: Callable[[str], None] = warn) -> str | None:
    """The newest whole checkpoint, every byte of it checked; None where there is none at all.

    Where no folder at all has a manifest, the run is from a version that pointed ``latest`` only
    at what all ranks had finished: what it names is taken unchecked, and nothing else.

    Args:
        run: the run's folder, swept.
        say: is told, in one line, what newer ones are passed over and why.

    Raises:
        DataError: there are checkpoints, or ``latest`` names one, and none is whole.
    """
    tags, pointed, notes = candidates(run), latest(run), []
    old = not any((run / CHECKPOINTS / tag / MANIFEST).exists() for tag in tags)
    if pointed is not None and pointed not in tags:
        notes.append(f"{LATEST} names {pointed!r}, which is not there")
    for tag in tags:
        if unchecked := old and tag == pointed:
            notes.append(f"{tag} has no {MANIFEST} and is taken unchecked, as {LATEST} names it")
        why = None if unchecked else damage(run / CHECKPOINTS / tag)
        if why is None:
            if notes:
                say(f"{run}: {'; '.join(notes)}; going on from {tag}")
            return tag
        notes.append(f"{tag}: {why}")
    if notes:
        raise DataError(
            f"{run}/{CHECKPOINTS}: no checkpoint is whole ({'; '.join(notes)}): bring one back "
            f"from a copy, or delete {run} to start anew"
        )
    return None


def drop(folder: Path) -> None:
    """Delete a checkpoint's folder, if it is there; no part of it can be taken for whole.

    Raises:
        OSError: it cannot even be renamed. What then cannot be deleted, the next sweep takes.
    """
    if not folder.exists():
        return
    gone = folder.with_name(f".{_TAG.search(folder.name)[0]}.{DROPPED}")
    if folder != gone:
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _read_pointer(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None
