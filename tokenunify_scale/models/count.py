"""What a network costs: parameters, multiply-accumulates, activation memory; on meta tensors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from tokenunify_scale.models.recompute import blocks_of, recompute, recomputed


@dataclass(frozen=True)
class Cost:
    """Of one crop."""

    parameters: int
    """Trainable parameters of the network."""

    gmac: float
    """Multiply-accumulates of a forward pass in 1e9: convolutions, linear maps, attention, scans.

    Norms, activations and pooling are not counted. Half of what VMamba counts for a scan."""

    activation_bytes: int
    """The most that autograd holds in the backward pass, in fp32, gradients not counted: what the
    forward pass kept, or a part of it beside what a block computes again."""


@dataclass(frozen=True)
class BlockCost:
    """Of a block that may be computed again, and one crop: what that saves, and what it costs."""

    activation_bytes: int
    """What the forward pass need not keep, in fp32."""

    gmac: float
    """Multiply-accumulates in 1e9, which come on top of a step."""


def cost(model: nn.Module, *, crop: tuple[int, int, int], in_channels: int = 1) -> Cost:
    """Count a network that lives on the meta device, some blocks computed again or none.

    Args:
        model: built under ``torch.device("meta")``.
        crop: size (z, y, x) in voxels.
        in_channels: channels of the input.

    Raises:
        ConfigError: the network cannot take the crop.
    """
    visits, gmac = _visits(model, crop=crop, in_channels=in_channels)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, gmac, _held(visits, recomputed(model)).most)


def block_costs(
    model: nn.Module, *, crop: tuple[int, int, int], in_channels: int = 1
) -> dict[str, BlockCost]:
    """What each block costs that may be computed again, by name, whether it is or not.

    Args:
        model: as ``cost`` takes it, and so are the others.

    Raises:
        ConfigError: the network cannot take the crop.
    """
    visits, _ = _visits(model, crop=crop, in_channels=in_channels)
    whole = _held(visits, []).kept
    return {
        name: BlockCost(
            whole - _held(visits, [name]).kept,
            sum(visit.gmac for visit in visits if visit.block == name),
        )
        for name in blocks_of(model)
    }


@dataclass
class _Visit:
    """A stretch of a forward pass: one pass of a block, or what lies between two of them."""

    block: str | None
    inputs: dict[int, int]
    """Storages of a block's inputs, by their addresses, with their bytes."""
    kept: dict[int, int] = field(default_factory=dict)
    """Storages that autograd keeps, likewise."""
    gmac: float = 0.0


class _Held(NamedTuple):
    """Bytes that a backward pass holds."""

    kept: int
    """When it begins."""
    most: int
    """Ever."""


def _held(visits: Sequence[_Visit], again: Sequence[str]) -> _Held:
    """What is held where some blocks keep their inputs alone.

    The backward pass comes to a block when all that came after it is done: then what was kept
    before the block is still there, and beside it what the block computes again.
    """
    kept, most = {}, 0
    for visit in visits:
        kept |= visit.inputs if visit.block in again else visit.kept
        if visit.block in again:
            most = max(most, sum((visit.kept | kept).values()))
    whole = sum(kept.values())
    return _Held(whole, max(whole, most))


def _visits(
    model: nn.Module, *, crop: tuple[int, int, int], in_channels: int
) -> tuple[list[_Visit], float]:
    """Run a network once, no block of it being computed again; its work in 1e9 besides."""
    visits, held = [_Visit(None, {})], []
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    counter = FlopCounterMode(display=False)

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            visits[-1].kept[storage._cdata] = storage.nbytes()
        return tensor

    def enter(name: str, inputs: tuple[Tensor, ...]) -> None:
        held.extend(inputs)  # so that no storage is freed, and another found at its address
        storages = [each.untyped_storage() for each in inputs]
        visits.append(_Visit(name, {each._cdata: each.nbytes() for each in storages}))
        visits[-1].gmac = -counter.get_total_flops() / 2e9

    def leave() -> None:
        visits[-1].gmac += counter.get_total_flops() / 2e9
        visits.append(_Visit(None, {}))

    hooks = []
    for name, modules in blocks_of(model).items():
        for each in modules:
            hooks.append(each.register_forward_pre_hook(lambda _, x, name=name: enter(name, x)))
            hooks.append(each.register_forward_hook(lambda *_: leave()))
    crops = torch.empty(1, in_channels, *crop, device="meta")
    try:
        with _as_it_was(model), counter, saved_tensors_hooks(keep, lambda tensor: tensor):
            held.append(model(crops))
    finally:
        for hook in hooks:
            hook.remove()
    return visits, counter.get_total_flops() / 2e9


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """The network with no block that is computed again."""
    names = recomputed(model)
    recompute(model, ())
    try:
        yield
    finally:
        recompute(model, names)
