"""Weight files that describe themselves."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tokenunify_scale.config import DataError, HostError
from tokenunify_scale.train.sealed import verify

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files
MODEL_TYPE = "tokenunify"  # in the config.json of an exported folder
ROOT = "network."  # before the names of tensors there
DTYPES = {  # by what safetensors calls them
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
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
    """Weights and description of a run or an exported folder.

    Args:
        folder: with ``model.safetensors``, or several files and their index.

    Returns:
        Tensors by name, those of 16 bits in float32; and what they are of.

    Raises:
        DataError: no weights there (the run has not finished), or a file is missing, damaged,
            foreign, or another than the one that was exported.
    """
    verify(folder)
    with open_weights(folder) as found:
        return {name: found.read(name) for name in found.like}, found.description


def read_description(folder: Path | str) -> Description:
    """The description alone; errors as ``read_weights``, whose files are not all read."""
    with open_weights(folder) as found:
        return found.description


def read_measured(folder: Path | str) -> dict[str, Any] | None:
    """What was measured of the weights of a folder; None where nothing was.

    Raises:
        DataError: as ``read_weights``.
    """
    with _open([Path(folder) / WEIGHTS]) as files:
        return json.loads((files[0].metadata() or {}).get(MEASURED, "null"))


@dataclass(frozen=True)
class Weights:
    """The weights of a network, on disk until they are asked for."""

    description: Description

    like: dict[str, Tensor]
    """Each tensor's shape and type, on the meta device."""

    read: Callable[[str], Tensor]
    """A tensor by name, on the CPU; numbers of 16 bits as float32."""


@contextmanager
def open_weights(folder: Path | str) -> Iterator[Weights]:
    """Weights of a run or an exported folder, one tensor at a time; errors as ``read_weights``."""
    folder = Path(folder)
    with _open(_files(folder)) as files:
        places = {name.removeprefix(ROOT): (file, name) for file in files for name in file.keys()}

        def read(name: str) -> Tensor:
            file, stored = places[name]
            return wide(file.get_tensor(stored))

        def like(file: safe_open, stored: str) -> Tensor:
            view = file.get_slice(stored)
            dtype = DTYPES[view.get_dtype()]
            return wide(torch.empty(view.get_shape(), dtype=dtype, device="meta"))

        about = _describe(files[0], folder)
        yield Weights(about, {name: like(*place) for name, place in places.items()}, read)


def wide(tensor: Tensor) -> Tensor:
    """Numbers of 16 bits as float32; all else as it is."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize == 2 else tensor


def has_weights(folder: Path) -> bool:
    """Whether there are weights in a folder itself, in one file or several."""
    return (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()


def _files(folder: Path) -> list[Path]:
    """The files that hold the weights of a folder."""
    whole, index = folder / WEIGHTS, folder / INDEX
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise DataError(f"{folder}: no {WEIGHTS}: {_why_not(folder)}")
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{index}: damaged: no weight_map of tensors to files") from None
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise DataError(f"{folder}: {missing[0]} is missing, which {INDEX} names: copy it again")
    return [folder / name for name in names]


@contextmanager
def _open(paths: Sequence[Path]) -> Iterator[list[safe_open]]:
    path = paths[0]
    try:
        with ExitStack() as stack:
            files = []
            for path in paths:  # noqa: B007 - which it was, for the error
                files.append(stack.enter_context(safe_open(str(path), framework="pt")))
            yield files
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


def _describe(file: safe_open, folder: Path) -> Description:
    """From the header of a file; of one that transformers saved, from config.json beside it.

    Raises:
        DataError: neither says it, or they contradict each other.
    """
    header = (file.metadata() or {}).get(HEADER)
    said = _config(folder)
    if header is None and said is None:
        raise DataError(f"{folder}/{WEIGHTS}: no {HEADER!r} in its header, so not one of ours")
    try:
        known = [description_of(facts) for facts in (header and json.loads(header), said) if facts]
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"{folder}/{WEIGHTS}: its header is of another version") from None
    if known[0] != known[-1]:
        names = [f"{each.model.get('name')}, {each.objective}" for each in known]
        raise DataError(
            f"{folder}: config.json describes another network ({names[1]}) than the weights are of "
            f"({names[0]})"
        )
    return known[0]


def description_of(facts: Mapping[str, Any]) -> Description:
    """A description from plain data, as ``asdict`` gives it or JSON has it.

    Raises:
        TypeError: something is missing; other keys are not asked for.
    """
    own = {f.name: facts[f.name] for f in fields(Description) if f.name in facts}
    if own.get("offsets") is not None:
        own["offsets"] = tuple(map(tuple, own["offsets"]))
    return Description(**own)


def _config(folder: Path) -> dict[str, Any] | None:
    """The config.json of an exported folder; None where there is none."""
    path = folder / "config.json"
    try:
        facts = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error})") from None
    return facts if isinstance(facts, dict) and facts.get("model_type") == MODEL_TYPE else None
