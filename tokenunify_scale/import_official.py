"""Turn a released checkpoint into a run folder that finetune, predict and export take.

A checkpoint is a pickle, and a pickle is a program. Torch's restricted unpickler runs it: it knows
tensors and plain values; the release also has an ``argparse.Namespace``. All else is refused.
"""

import argparse
import logging
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from tokenunify_scale.config import ConfigError, DataError, to_dict
from tokenunify_scale.models.load import describe
from tokenunify_scale.models.official import Released, check, clean, from_official, infer
from tokenunify_scale.train.checkpoint import save_weights
from tokenunify_scale.train.runlog import RunFolder
from tokenunify_scale.train.sealed import file_sha256

log = logging.getLogger(__name__)
ALLOWED = [argparse.Namespace]  # beside what torch knows to be harmless
ZIP = b"PK\x03\x04"
WEIGHTS = ("model", "state_dict")  # under which key the weights stand
OBJECTIVES = {3: "affinity"}  # by the head's channels; the head of a pretraining has one
CHANNELS = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """One import."""

    file: Path = field(metadata={"word": True})
    """The released checkpoint-*.pth."""

    out: Path = Path("runs/import")
    """The folder to write; --init of finetune, --model of predict and --run of export take it."""


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds."""

    weights: dict[str, Tensor]
    """The network's tensors under the release's names; still in the file where it is a zip."""

    released: Released
    """The network they are of."""

    dropped: dict[str, int]
    """How many tensors were left out, by kind."""

    facts: dict[str, Any]
    """What else it says: its epoch and the plain values of its arguments."""


def plan(config: Config) -> dict[str, Any]:
    """What would be imported.

    Raises:
        DataError: the file is missing, damaged, unsafe, or its tensors do not fit together.
        ConfigError: its network is none of ours.
    """
    contents = read(config.file)
    check(contents.weights, released=contents.released, file=config.file)
    options = contents.released.model.options
    return {
        "model": contents.released.model.name,
        "depth": options.depths[0],
        "skip_kernel": options.skip_kernel,
        "out_channels": contents.released.out_channels,
        "objective": _objective(contents.released),
        "tensors": len(contents.weights),
        "parameters": f"{sum(tensor.numel() for tensor in contents.weights.values()):,}",
        "dropped": contents.dropped,
    }


def run(config: Config) -> dict[str, Any]:
    """Write the run folder.

    Returns:
        What result.json holds.

    Raises:
        DataError: as ``plan``.
        ConfigError: as ``plan``, or the folder belongs to another run.
    """
    contents = read(config.file)
    released, objective = contents.released, _objective(contents.released)
    sha256 = file_sha256(config.file)
    weights = from_official(contents.weights, released=released, file=config.file)
    folder = RunFolder.create(config.out, verb="import_official", config=to_dict(config))
    about = describe(
        released.model,
        in_channels=released.in_channels,
        out_channels=released.out_channels,
        objective=objective,
    )
    save_weights(config.out, weights, about)
    parameters = sum(tensor.numel() for tensor in weights.values())
    left = ", ".join(f"{count} {kind}" for kind, count in contents.dropped.items()) or "nothing"
    log.info(
        "%s: %s, %s tensors, %s parameters, %s output channels (%s); left out: %s",
        config.file.name,
        released.model.name,
        len(contents.weights),
        f"{parameters:,}",
        released.out_channels,
        objective,
        left,
    )
    return folder.finish(
        model={"name": released.model.name, "parameters": parameters},
        objective=objective,
        file=str(config.file),
        sha256=sha256,
        depth=released.model.options.depths[0],
        skip_kernel=released.model.options.skip_kernel,
        dropped=contents.dropped,
        **contents.facts,
    )


def _objective(released: Released) -> str:
    return OBJECTIVES.get(released.out_channels, "official")


def read(path: Path) -> Contents:
    """Read a checkpoint without running what it may hold.

    Args:
        path: a dict with the weights under ``model`` or ``state_dict``, or the weights alone.

    Raises:
        DataError: the file is missing, cut short, names a function that is not allowed, or holds
            no weights.
        ConfigError: its network is none of ours.
    """
    found = load(path)
    key = next((key for key in WEIGHTS if isinstance(found, Mapping) and key in found), None)
    weights = found[key] if key else found
    if not isinstance(weights, Mapping):
        kind = type(weights).__name__
        raise DataError(f"{path}: {key or 'it'} is of type {kind}, expected named tensors")
    if not key and not any(isinstance(value, Tensor) for value in weights.values()):
        there = ", ".join(repr(name) for name in list(weights)[:6]) or "nothing"
        raise DataError(f"{path}: no 'model' in it and no tensors; found {there}")
    kept, dropped = clean(weights, file=path)
    # Shapes and strides are the file's word: a few bytes can pose as a tensor of any size.
    if sum(tensor.numel() * tensor.element_size() for tensor in kept.values()) > size_of(path):
        raise DataError(f"{path}: its tensors are larger than the file")
    released = infer(kept, file=path)
    if released.in_channels != CHANNELS:
        raise ConfigError(f"{path}: a network of {released.in_channels} input channels, not 1")
    return Contents(kept, released, dropped, _facts(found) if key else {})


def size_of(path: Path) -> int:
    """Bytes of a file.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    return path.stat().st_size


def load(path: Path) -> Any:
    """Unpickle a file with nothing but torch's harmless names and ``ALLOWED``.

    Tensors of a zip file, which all but the oldest are, stay on disk until they are used.

    Raises:
        DataError: the file is missing, empty, cut short, damaged, or names something else.
    """
    if size_of(path) == 0:
        raise DataError(f"{path} is empty")
    try:
        with path.open("rb") as file:
            zipped = file.read(len(ZIP)) == ZIP
        if zipped and not zipfile.is_zipfile(path):
            raise DataError(f"{path} is cut short: the directory at the end of a zip file is gone")
        with warnings.catch_warnings(), torch.serialization.safe_globals(ALLOWED):
            warnings.simplefilter("ignore")  # errors say it
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)
    except DataError:
        raise
    except Exception as error:  # of any kind: what a damaged pickle does to its reader is endless
        raise DataError(_complaint(path, error)) from None


def _complaint(path: Path, error: Exception) -> str:
    """One line without torch's advice, which is to trust the file."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    if isinstance(error, UnpicklingError):
        name = re.search(r"GLOBAL ([\w.]+)", text, re.ASCII)
        if name:
            return f"{path} would run {name[1].rstrip('.')}: refused, nothing was executed"
    reason = re.split(r"\.\s|\n", text)[0][:100]
    reason = "".join(letter if letter.isprintable() else "?" for letter in reason)
    kind = type(error).__name__
    return f"{path}: damaged, cut short or not a PyTorch checkpoint ({kind}: {reason})"


def _facts(found: Mapping[str, Any]) -> dict[str, Any]:
    """The epoch and the plain arguments of a training, as far as they are there."""
    args = found.get("args")
    values = vars(args) if isinstance(args, argparse.Namespace) else args
    values = values if isinstance(values, Mapping) else {}
    plain = (str, int, float, bool)
    facts = {"args": {k: v for k, v in values.items() if type(k) is str and type(v) in plain}}
    epoch = found.get("epoch")
    return {"epoch": epoch, **facts} if type(epoch) is int else facts
