"""The weights of a run wherever they lie: as it finished, or in the shards of a checkpoint."""

import ctypes
import json
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenunify_scale.config import DataError, build, build_named, load_yaml
from tokenunify_scale.data.affinities import NEAREST
from tokenunify_scale.models.load import build_described, describe
from tokenunify_scale.models.lora import DOWN, UP, LoraConfig, merged, thin
from tokenunify_scale.registry import MODELS
from tokenunify_scale.train.atoms import Saved, read_save
from tokenunify_scale.train.checkpoint import (
    Description,
    Weights,
    description_of,
    has_weights,
    open_weights,
    wide,
)
from tokenunify_scale.train.construct import materialise
from tokenunify_scale.train.manifest import damage
from tokenunify_scale.train.saves import CHECKPOINTS, candidates, choose

BACKBONE = "backbone."  # before the network's names in an objective's
KEPT = 8 * 2**20  # bytes of a checkpoint that stay in memory after they were read
FREE = getattr(mmap, "MADV_DONTNEED", None)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is exported: weights of a run, of one of its checkpoints, or fresh ones."""

    run: str | None = None
    """A run's or an exported folder."""

    tag: str | None = None
    """A checkpoint of it, as ``tag_of_export`` gives it."""

    model: dict[str, Any] | None = None
    """Name and options of a network, in the place of a run."""

    seed: int = 0
    """Of fresh weights."""

    def __str__(self) -> str:
        """In words."""
        if self.run is None:
            return f"fresh weights of seed {self.seed}"
        return f"checkpoint {self.tag} of {self.run}" if self.tag else f"what {self.run} ends with"


def tag_of_export(run: Path, checkpoint: str | None) -> str | None:
    """Which checkpoint is exported; None for the weights with which the run finished.

    Args:
        run: a run's folder.
        checkpoint: its tag, such as ``step-200``; ``latest``; or None for the weights of a
            finished run, and of another the newest checkpoint that is whole.

    Raises:
        DataError: there is none, or none that is whole.
    """
    tags = candidates(run) if run.is_dir() else []
    if checkpoint is None and (has_weights(run) or not tags):
        return None
    if checkpoint in (None, "latest"):
        if not tags:
            raise DataError(f"{run}: no checkpoints in it")
        return choose(run)
    if checkpoint not in tags:
        there = ", ".join(tags) or "none"
        raise DataError(f"{run}: no checkpoint {checkpoint!r}; there: {there}")
    if fault := damage(run / CHECKPOINTS / checkpoint):
        raise DataError(f"{run}: checkpoint {checkpoint} is not whole: {fault}")
    return checkpoint


@contextmanager
def open_source(origin: Origin) -> Iterator[Weights]:
    """Weights, one tensor at a time, in float32.

    Of a checkpoint, shards of any stage and number of ranks are read where they lie; the memory
    taken is that of the tensor that is read, and ``KEPT``. Fresh weights are all in memory.

    Raises:
        DataError: weights are missing or damaged, or the run is of a version that did not note
            what they are of.
    """
    if origin.run is None:
        yield _fresh(origin)
        return
    run = Path(origin.run)
    if origin.tag is None:
        with open_weights(run) as found:
            yield found
        return
    saved = read_save(run / CHECKPOINTS / origin.tag, weights_only=True)
    yield _network_of(saved, _description(run), lora=_lora(run))


def _fresh(origin: Origin) -> Weights:
    model = build_named(origin.model, MODELS, where="model")
    about = describe(model, in_channels=1, out_channels=len(NEAREST), objective="none")
    with torch.device("meta"):
        network = build_described(about)
    materialise(network, seed=origin.seed)
    tensors = network.state_dict()
    return Weights(about, {n: t.to("meta") for n, t in tensors.items()}, tensors.__getitem__)


def _network_of(saved: Saved, about: Description, *, lora: LoraConfig) -> Weights:
    """The network in a checkpoint of an objective."""
    shapes = {**saved.shapes, **{name: shape for name, (shape, _) in saved.frozen.items()}}
    like = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    like |= {name: wide(buffer.to("meta")) for name, buffer in saved.buffers.items()}
    own = {n.removeprefix(BACKBONE): t for n, t in like.items() if n.startswith(BACKBONE)}
    let_go = _let_go(saved)

    def tensor(name: str) -> Tensor:
        if BACKBONE + name in saved.buffers:
            return wide(saved.buffers[BACKBONE + name])
        found = saved.weight(BACKBONE + name)
        let_go(found.nbytes)
        return wide(found)

    def read(name: str) -> Tensor:
        if name + DOWN not in own:
            return tensor(name)
        parts = {each: tensor(each) for each in (name, name + DOWN, name + UP)}
        return merged(parts, config=lora)[name]

    return Weights(about, {n: t for n, t in own.items() if not thin(n)}, read)


def _let_go(saved: Saved) -> Callable[[int], None]:
    """Give pages of a checkpoint's files back to the system, whenever enough of them were read."""
    flat = [tensor for shard in saved.shards for tensor in shard.weights]
    flat += [part for _, parts in saved.frozen.values() for part in parts]
    mapped = list(filter(_is_of_a_file, flat)) if FREE is not None else []
    read = 0

    def after(size: int) -> None:
        nonlocal read
        read += size
        if read > KEPT:
            read = 0
            for tensor in mapped:
                _forget(tensor)

    return after


def _is_of_a_file(tensor: Tensor) -> bool:
    """Whether a tensor's memory is a mapped file, whose pages come back when they are asked for."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return False
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    for line in lines:
        span, *_, name = line.split(maxsplit=5)
        first, last = (int(edge, 16) for edge in span.split("-"))
        if first <= start and end <= last:
            return name.endswith(".pt")
    return False


def _forget(tensor: Tensor) -> None:
    """Drop the pages that a tensor fills; they are read again if they are needed."""
    page = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page
    size = (tensor.data_ptr() + tensor.nbytes - start) // page * page
    if size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), FREE)


def _description(run: Path) -> Description:
    path = run / "environment.json"
    try:
        return description_of(json.loads(path.read_text())["weights"])
    except FileNotFoundError:
        raise DataError(f"{path} is missing: not a run folder") from None
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{path} does not say what network the checkpoints are of, as runs of this version do: "
            "start the run again, which goes on where it stands"
        ) from None


def _lora(run: Path) -> LoraConfig:
    """The thin matrices' settings, which only a fine-tuning has."""
    settings = load_yaml(run / "config.yaml").get("lora") or {}
    return build(LoraConfig, settings, where=f"{run}/config.yaml: lora")
