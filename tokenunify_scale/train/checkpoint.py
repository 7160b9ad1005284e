"""Weight files that describe themselves, and a run's pointer to its newest checkpoint."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tokenunify_scale.config import DataError
from tokenunify_scale.train.runlog import write_atomically

WEIGHTS = "model.safetensors"
HEADER = "tokenunify_scale"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What network a weight file holds, and what it was made by."""

    model: dict[str, Any]
    """The model's section of the config: name and options."""

    in_channels: int
    """Channels of the input."""

    out_channels: int
    """Channels of the output."""

    objective: str
    """What was learned last."""


def save_weights(folder: Path, weights: dict[str, Tensor], description: Description) -> Path:
    """Write a network's weights atomically to ``folder/model.safetensors``."""
    path = folder / WEIGHTS
    temporary = folder / f".{WEIGHTS}.{os.getpid()}.tmp"
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    header = {"format": "pt", HEADER: json.dumps(asdict(description))}
    save_file(contiguous, str(temporary), metadata=header)
    temporary.replace(path)
    return path


def read_weights(folder: Path | str) -> tuple[dict[str, Tensor], Description]:
    """Weights and description of a run or export folder.

    Raises:
        DataError: no weights there (the run has not finished), or the file is damaged or foreign.
    """
    with _open(folder) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _describe(file, folder)


def read_description(folder: Path | str) -> Description:
    """The description alone; errors as ``read_weights``."""
    with _open(folder) as file:
        return _describe(file, folder)


@contextmanager
def _open(folder: Path | str) -> Iterator[safe_open]:
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        state = "the run has not finished" if (Path(folder) / "config.yaml").is_file() else ""
        why = state or ("no such folder" if not Path(folder).is_dir() else "not a run folder")
        raise DataError(f"{folder}: no {WEIGHTS}: {why}")
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged ({error})") from None


def _describe(file: safe_open, folder: Path | str) -> Description:
    header = (file.metadata() or {}).get(HEADER)
    if header is None:
        raise DataError(f"{folder}/{WEIGHTS}: no {HEADER!r} in its header, so not one of ours")
    try:
        return Description(**json.loads(header))
    except (TypeError, ValueError):
        raise DataError(f"{folder}/{WEIGHTS}: its header is of another version") from None


def publish(run: Path, tag: str) -> None:
    """Point the run's ``latest`` at a checkpoint that is complete on all ranks."""
    write_atomically(run / "latest", tag + "\n")


def latest(run: Path) -> str | None:
    """The newest complete checkpoint's tag, None where there is none.

    Raises:
        DataError: ``latest`` names a checkpoint that is not there.
    """
    pointer = run / "latest"
    if not pointer.is_file():
        return None
    tag = pointer.read_text().strip()
    if not (run / "checkpoints" / tag).is_dir():
        raise DataError(f"{pointer} names checkpoint {tag!r}, which is not in {run}/checkpoints")
    return tag


def prune(run: Path, *, keep: int = 2) -> None:
    """Delete all but the newest ``keep`` (at least one) checkpoints of a run."""
    folders = sorted((run / "checkpoints").glob("step-*"))
    for folder in folders[:-keep]:
        shutil.rmtree(folder)
