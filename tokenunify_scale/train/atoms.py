"""One checkpoint, open: any parameter and what AdamW knows of it, whole, whoever saved it.

DeepSpeed's shards are read where they lie: each file is mapped into memory, and one parameter at a
time is put together from the pieces that the saving ranks held. Nothing is converted or written.

Understood is what DeepSpeed 0.19 writes for one torch AdamW over fp32 parameters (under
``torch_autocast`` too), stages 0 to 3, states kept in host memory or not. All else is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenunify_scale.config import DataError
from tokenunify_scale.train.zero_shards import (
    MOMENTS,
    Piece,
    Shapes,
    Shard,
    fault,
    file_names,
    frozen_parts,
    load,
    pieces,
    sharded,
    unsharded,
)

ORDER = "optimizer_order"  # key of the saved state: trained parameters as AdamW counts them

# What DeepSpeed puts beside our own state in a file.
THEIRS = {
    "module", "buffer_names", "optimizer", "param_shapes", "frozen_param_shapes", "shared_params",
    "frozen_param_fragments", "lr_scheduler", "data_sampler", "random_ltd", "skipped_steps",
    "global_steps", "global_samples", "dp_world_size", "mp_world_size", "ds_config", "ds_version",
    "checkpoint_parallel_dimensions",
}  # fmt: skip
COUNTS = ("global_steps", "global_samples", "skipped_steps")

# Options that lay the shards out in another way, each with the values that do not.
LAYOUT = {
    "round_robin_gradients": (False,), "parameter_alignment": (False,), "zenflow": (None,),
    "elastic_checkpoint": (False,), "legacy_stage1": (False,), "zero_quantized_weights": (False,),
    "zero_quantized_nontrainable_weights": (False,), "zero_hpz_partition_size": (0, 1),
    "mics_shard_size": (-1, 0),
}  # fmt: skip


class Atom(NamedTuple):
    """One parameter as it was, whole, on the CPU."""

    weight: Tensor
    moments: dict[str, Tensor]
    """By the names of ``MOMENTS``, shaped as the weight; {} where AdamW has none."""

    step: float | None
    """AdamW's count of steps; None where it has none."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint, open: its tensors are read from disk when they are asked for."""

    folder: Path
    stage: int
    world: int
    state: dict[str, Any]
    """What was given to be saved with it; where each rank saved its own, that of rank 0."""

    counts: dict[str, int]
    """DeepSpeed's own, by the names of ``COUNTS``."""

    shapes: Shapes
    """Of the parameters that AdamW trains."""

    frozen: dict[str, tuple[torch.Size, list[Tensor]]]
    """The other parameters: shape, and the ranks' parts."""

    buffers: dict[str, Tensor]
    """Those of rank 0."""

    shards: list[Shard]
    pieces: dict[str, list[Piece]]

    def weight(self, name: str) -> Tensor:
        """A parameter put together from its pieces."""
        if name in self.frozen:
            shape, parts = self.frozen[name]
            return _join(parts, shape)
        parts = [_cut(self.shards[p.rank].weights[p.group], p) for p in self.pieces[name]]
        return _join(parts, self.shapes[name])

    def atom(self, name: str) -> Atom:
        """A parameter and what AdamW has of it; one that is not trained has no moments."""
        weight = self.weight(name)
        if name in self.frozen:
            return Atom(weight, {}, None)
        parts, shape = self.pieces[name], self.shapes[name]
        states = [self.shards[p.rank].states[p.group] for p in parts]
        if not states[0]:
            return Atom(weight, {}, None)
        moments = {
            key: _join([_cut(s[key], p) for s, p in zip(states, parts, strict=True)], shape)
            for key in MOMENTS
        }
        return Atom(weight, moments, float(states[0]["step"]))

    def step(self) -> float | None:
        """AdamW's count of steps, where all that have one have the same; None before the first.

        Raises:
            DataError: parameters were stepped a different number of times.
        """
        found = {float(state["step"]) for shard in self.shards for state in shard.states if state}
        if len(found) > 1:
            raise self.refusal(
                f"AdamW counts {min(found):g} steps of some parameters and {max(found):g} of "
                "others, and a ZeRO stage above 0 keeps one count"
            )
        return found.pop() if found else None

    def refusal(self, reason: str) -> DataError:
        """The error that this checkpoint cannot be had in another form."""
        return _refusal(self.folder, reason, stage=self.stage, world=self.world)


def unportable(settings: Mapping[str, Any], *, weights_only: bool = False) -> str | None:
    """Why the checkpoints of a DeepSpeed config cannot change ranks or stage; None if they can.

    ``weights_only``: it is enough that the weights can be read, which mode bf16 keeps in fp32 too.
    """
    zero = settings.get("zero_optimization") or {}
    for part in ("offload_optimizer", "offload_param"):
        offload = zero.get(part) or {}
        if offload.get("device") == "nvme":
            return (
                f"zero_optimization.{part} is on nvme, whose swap files are no part of a "
                "checkpoint and come back wrong without a word: use device cpu"
            )
        if offload.get("super_offload") or offload.get("ratio", 1.0) != 1.0:
            return f"zero_optimization.{part} has super_offload, or a ratio other than 1"
    for mode in ("fp16",) if weights_only else ("fp16", "bf16"):
        if (settings.get(mode) or {}).get("enabled"):
            return f"{mode} keeps its weights in another form: use torch_autocast"
    for key, plain in LAYOUT.items():
        if (value := zero.get(key, plain[0])) not in plain:
            return f"zero_optimization.{key} {value!r} lays the shards out in another way"
    return None


def read_save(folder: Path, *, weights_only: bool = False) -> Saved:
    """Open a checkpoint's files and find where each parameter lies in them.

    Args:
        folder: one checkpoint, as DeepSpeed's ``save_checkpoint`` wrote it. Of stage 0, the state
            saved with it must hold ``ORDER``, as no file of DeepSpeed's says it.
        weights_only: nothing else of it will be asked for.

    Raises:
        DataError: a file is missing, damaged or of another save, or the checkpoint is of a kind
            that cannot be had at another number of ranks or another stage.
    """
    main = folder / file_names(stage=0, world=1)[0][0]
    main = main if main.is_file() else folder / file_names(stage=3, world=1)[0][0]
    model = load(main)
    if lost := THEIRS - {"checkpoint_parallel_dimensions"} - model.keys():
        raise DataError(f"{main} is no model state of DeepSpeed 0.19: {min(lost)} is not in it")
    world, settings = model["dp_world_size"], model["ds_config"]
    stage = (settings.get("zero_optimization") or {}).get("stage", 0)
    bf16 = bool((settings.get("bf16") or {}).get("enabled"))
    models, optims = file_names(stage=stage, world=world, bf16=bf16)
    reason = unportable(settings, weights_only=weights_only)
    reason = reason or _oddity(folder, model, {*models, *optims}, stage=stage)
    if reason:
        raise _refusal(folder, reason, stage=stage, world=world)
    everyone = [model, *(load(folder / name) for name in models[1:])]
    states = [load(folder / name) for name in optims]
    try:
        states = [each["optimizer_state_dict"] for each in states]
        return _open(folder, everyone, states, stage=stage, world=world)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        raise _refusal(
            folder, f"its files do not fit ({error})", stage=stage, world=world
        ) from None


def _oddity(folder: Path, model: dict[str, Any], names: set[str], *, stage: int) -> str | None:
    """What is unlike a checkpoint of ours, before its other files are read."""
    if (split := model["mp_world_size"]) != 1:
        return f"its model is split over {split} ranks"
    if stage == 0 and ORDER not in model:
        return f"it does not say to which parameters AdamW's states belong ({ORDER})"
    found = {path.name for path in folder.glob("*.pt")}
    if lost := names - found:
        return f"{len(lost)} of its files are missing, such as {min(lost)}"
    if found - names:
        return f"files of another save are among its own, such as {min(found - names)}"
    return None


def _open(
    folder: Path,
    models: list[dict[str, Any]],
    optims: list[dict[str, Any]],
    *,
    stage: int,
    world: int,
) -> Saved:
    """Find where all lies. Errors of lookup are the caller's to tell."""
    model = models[0]
    if len(steps := {each["global_steps"] for each in models}) != 1:
        raise ValueError(f"ranks saved at steps {min(steps)} and {max(steps)}")
    if stage:
        groups = model["param_shapes"]
        shards = [sharded(optim, stage=stage) for optim in optims]
    else:
        groups = [{name: model["module"][name].shape} for name in model[ORDER]]
        shards = [unsharded(model, model[ORDER])]
    found = pieces(groups, shards, stage=stage)
    shapes = {name: shape for group in groups for name, shape in group.items()}
    if reason := fault(found, shards, optims, stage=stage):
        raise ValueError(reason)
    saved = Saved(
        folder=folder,
        stage=stage,
        world=world,
        state={key: value for key, value in model.items() if key not in {*THEIRS, ORDER}},
        counts={key: model[key] for key in COUNTS},
        shapes=shapes,
        frozen=frozen_parts(models, shapes, stage=stage),
        buffers={name: model["module"][name] for name in model["buffer_names"]},
        shards=shards,
        pieces=found,
    )
    if stage:
        saved.step()
    return saved


def _refusal(folder: Path, reason: str, *, stage: int, world: int) -> DataError:
    return DataError(
        f"checkpoint {folder} (stage {stage}, {world} ranks) cannot be resumed at another number "
        f"of ranks or ZeRO stage, nor exported: {reason}"
    )


def _join(parts: list[Tensor], shape: torch.Size) -> Tensor:
    """A copy of the parts as one tensor, without what pads the last."""
    return torch.cat([part.flatten() for part in parts])[: shape.numel()].view(shape)


def _cut(flat: Tensor, piece: Piece) -> Tensor:
    return flat[piece.start : piece.start + piece.length]
