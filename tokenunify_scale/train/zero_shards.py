"""Where each parameter lies in the files of a DeepSpeed checkpoint.

Source: the ``state_dict`` of DeepSpeed 0.19's runtime/zero/stage_1_and_2.py and stage3.py.
"""

import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenunify_scale.config import DataError

MOMENTS = ("exp_avg", "exp_avg_sq")
GETATTR = "builtins.getattr"
Shapes = dict[str, torch.Size]


class Piece(NamedTuple):
    """A stretch of a rank's flat group that is the next stretch of a parameter."""

    rank: int
    group: int
    start: int
    length: int


@dataclass(frozen=True)
class Shard:
    """What one rank held: per group a flat fp32 tensor, and AdamW's state of it or {}."""

    weights: list[Tensor]
    states: list[dict[str, Tensor]]


class _Inert:
    """Stands for DeepSpeed's own classes in a file: keeps what they held and runs nothing."""

    def __init__(self, *held: Any) -> None:
        self.held = held


def load(path: Path) -> dict[str, Any]:
    """A file's content, tensors mapped from disk. No code of the file's choice is run.

    Raises:
        DataError: not there, damaged, or it holds more than numbers, text and tensors.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        # Some versions of Python write an enumeration's member as getattr(class, name).
        theirs = (name for name in names if name.startswith("deepspeed.") or name == GETATTR)
        inert = [(_Inert, name) for name in theirs]
        with torch.serialization.safe_globals(inert):
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} cannot be read ({reason}): resume from another save") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not a state of DeepSpeed 0.19")
    return content


def file_names(*, stage: int, world: int, bf16: bool = False) -> tuple[list[str], list[str]]:
    """Names of a checkpoint's model states and optimizer states, rank by rank; by mode ``bf16``."""
    ranks = [f"zero_pp_rank_{rank}_mp_rank_00" for rank in range(world)]
    optims = [f"{'bf16_' * bf16}{rank}_optim_states.pt" for rank in ranks] if stage else []
    if stage == 3:
        return [f"{rank}_model_states.pt" for rank in ranks], optims
    return ["mp_rank_00_model_states.pt"], optims


def sharded(optim: dict[str, Any], *, stage: int) -> Shard:
    """One rank's part under ZeRO: a flat tensor per parameter group, or per part of one."""
    keys = ("fp32_flat_groups", "optimizer_state_dict")
    if stage < 3:
        keys = ("single_partition_of_fp32_groups", "base_optimizer_state")
    weights, adamw = (optim[key] for key in keys)
    return Shard(weights, _states(adamw, len(weights)))


def unsharded(model: dict[str, Any], order: list[str]) -> Shard:
    """What each rank held without ZeRO, as if it were the only one: a group per parameter."""
    states = _states(model["optimizer"], len(order))
    flat = [{key: value.flatten() for key, value in state.items()} for state in states]
    return Shard([model["module"][name].flatten() for name in order], flat)


def _states(adamw: dict[str, Any], groups: int) -> list[dict[str, Tensor]]:
    """AdamW's state of each group, in the order of its own count."""
    counted = [index for group in adamw["param_groups"] for index in group["params"]]
    if counted != list(range(groups)):
        raise ValueError(f"AdamW counts {len(counted)} tensors where {groups} were saved")
    return [adamw["state"].get(index, {}) for index in counted]


def frozen_parts(
    models: list[dict[str, Any]], shapes: Shapes, *, stage: int
) -> dict[str, tuple[torch.Size, list[Tensor]]]:
    """Parameters that are not trained: whole up to stage 2, a part on each rank at stage 3."""
    model = models[0]
    if stage == 3:
        return {
            name: (shape, [each["frozen_param_fragments"][name] for each in models])
            for name, shape in model["frozen_param_shapes"].items()
        }
    others = {*shapes, *model["buffer_names"]}
    whole = {name: value for name, value in model["module"].items() if name not in others}
    return {name: (value.shape, [value]) for name, value in whole.items()}


def pieces(groups: list[Shapes], shards: list[Shard], *, stage: int) -> dict[str, list[Piece]]:
    """Each parameter's pieces in order.

    At stage 3 each parameter is cut into one part a rank, and a rank's parts lie one behind the
    other. Below, the parameters of a group lie one behind the other, and the whole is cut into one
    part a rank, so that most parameters are on one rank, and padding is behind the last.
    """
    found = {}
    for group, shapes in enumerate(groups):
        # Saved without its padding, which is at the end and so never on the first of many ranks.
        size, offset = len(shards[0].weights[group]), 0
        for name, shape in shapes.items():
            count = shape.numel()
            if stage == 3:
                part = math.ceil(count / len(shards))
                lengths = [min(part, count - rank * part) for rank in range(len(shards))]
                stretches = [(rank, offset, length) for rank, length in enumerate(lengths)]
                offset += part
            else:
                stretches = []
                for rank in range(offset // size, (offset + count - 1) // size + 1):
                    start, end = max(offset, rank * size), min(offset + count, (rank + 1) * size)
                    stretches.append((rank, start - rank * size, end - start))
                offset += count
            found[name] = [Piece(r, group, at, n) for r, at, n in stretches if n > 0]
    return found


def fault(
    found: dict[str, list[Piece]], shards: list[Shard], optims: list[dict[str, Any]], *, stage: int
) -> str | None:
    """How the files contradict where the parameters should lie in them; None if they do not."""
    ends: dict[tuple[int, int], int] = {}
    for parts in found.values():
        for p in parts:
            ends[p.rank, p.group] = max(p.start + p.length, ends.get((p.rank, p.group), 0))
    for rank, shard in enumerate(shards):
        for group, (flat, state) in enumerate(zip(shard.weights, shard.states, strict=True)):
            end = ends.get((rank, group), 0)
            if flat.dtype != torch.float32 or len(flat) < end:
                return f"rank {rank} has {len(flat)} of {end} weights of group {group} in fp32"
            if state and state.keys() != {"step", *MOMENTS}:
                return f"the optimizer is no AdamW: it keeps {', '.join(sorted(state))}"
            if short := [key for key in MOMENTS if state and len(state[key]) < end]:
                return f"rank {rank} has {len(state[short[0]])} of {end} numbers of {short[0]}"
            if stage and bool(state) != bool(shards[0].states[0]):
                return f"rank {rank} has no state of AdamW's for group {group}, or alone has one"
        if stage in (1, 2):
            said = {
                (name, group, place.start, place.numel)
                for group, places in enumerate(optims[rank]["param_slice_mappings"])
                for name, place in places.items()
            }
            ours = {(n, *p[1:]) for n, parts in found.items() for p in parts if p.rank == rank}
            if said != ours:
                name = min(said ^ ours)[0]
                return f"rank {rank} says that {name} lies elsewhere than its shape and order do"
    return None
