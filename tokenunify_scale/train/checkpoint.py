"""Weight files that describe themselves."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tokenunify_scale.config import DataError

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
