"""Weight files that describe themselves."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tokenunify_scale.config import DataError, HostError

WEIGHTS = "model.safetensors"
HEADER = "tokenunify_scale"
MEASURED = "measured"


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

    offsets: tuple[tuple[int, int, int], ...] | None = None
    """Of predicted affinities, one a channel (z, y, x in voxels): channel c at voxel p is the edge
    (p, p - offsets[c]). None for the three nearest, and for what predicts no affinities."""


def save_weights(
    folder: Path,
    weights: dict[str, Tensor],
    description: Description,
    *,
    measured: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network's weights atomically to ``folder/model.safetensors``.

    Args:
        folder: is there.
        weights: whole, by name.
        description: goes into the header.
        measured: plain data that was found of just these weights, for the header too.

    Raises:
        HostError: the disk does not take it; what was there stays.
    """
    path = folder / WEIGHTS
    temporary = folder / f".{WEIGHTS}.{os.getpid()}.tmp"
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    header = {"format": "pt", HEADER: json.dumps(asdict(description))}
    if measured is not None:
        header[MEASURED] = json.dumps(dict(measured))
    try:
        save_file(contiguous, str(temporary), metadata=header)
        temporary.replace(path)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HostError(f"{path} cannot be written ({reason}): make room, start again") from None
    finally:
        temporary.unlink(missing_ok=True)
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


def read_measured(folder: Path | str) -> dict[str, Any] | None:
    """What was measured of the weights of a folder; None where nothing was.

    Raises:
        DataError: as ``read_weights``.
    """
    with _open(folder) as file:
        return json.loads((file.metadata() or {}).get(MEASURED, "null"))


@contextmanager
def _open(folder: Path | str) -> Iterator[safe_open]:
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise DataError(f"{folder}: no {WEIGHTS}: {_why_not(Path(folder))}")
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged ({error})") from None


def _why_not(folder: Path) -> str:
    """Why there are no weights in a folder."""
    if not folder.is_dir():
        return "no such folder"
    if not (folder / "config.yaml").is_file():
        return "not a run folder"
    if (folder / "result.json").is_file():
        return "a finished run of a command that leaves none"
    some = (folder / "best" / WEIGHTS).is_file()
    return "the run has not finished" + (f"; its best so far are in {folder}/best" if some else "")


def _describe(file: safe_open, folder: Path | str) -> Description:
    header = (file.metadata() or {}).get(HEADER)
    if header is None:
        raise DataError(f"{folder}/{WEIGHTS}: no {HEADER!r} in its header, so not one of ours")
    try:
        facts = json.loads(header)
        if facts.get("offsets") is not None:
            facts["offsets"] = tuple(map(tuple, facts["offsets"]))
        return Description(**facts)
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"{folder}/{WEIGHTS}: its header is of another version") from None
