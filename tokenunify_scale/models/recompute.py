"""Compute blocks of a network again in the backward pass, instead of keeping what they computed.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost".
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tokenunify_scale.config import ConfigError, did_you_mean

ALL = "all"


def recompute(network: nn.Module, names: Sequence[str]) -> None:
    """Have some blocks keep their inputs alone, and all others what they did.

    Outputs and gradients stay what they are, bit for bit: a block draws no random numbers and has
    no running statistics. Nothing changes where no gradient is asked for.

    Args:
        network: in place; has ``blocks``, names to modules that may be computed again.
        names: of blocks (``decoder1``), of kinds of blocks (``decoder``), or ``all``; none is as
            it was.

    Raises:
        ConfigError: the network has no such block, or none at all.
    """
    blocks = blocks_of(network)
    valid = [*blocks, *dict.fromkeys(map(_kind, blocks)), ALL]
    for name in names:
        if not blocks:
            raise ConfigError(f"recompute: {type(network).__name__} has no blocks: leave it empty")
        if name not in valid:
            raise ConfigError(f"recompute: no block {name!r}: {did_you_mean(name, valid)}")
    for name, modules in blocks.items():
        chosen = not {name, _kind(name), ALL}.isdisjoint(names)
        for module in modules:
            vars(module).pop("forward", None)
            if chosen:
                module.forward = partial(_again, module.forward)


def recomputed(network: nn.Module) -> list[str]:
    """The blocks that are computed again, by name."""
    found = blocks_of(network).items()
    return [name for name, modules in found if any("forward" in vars(each) for each in modules)]


def blocks_of(network: nn.Module) -> dict[str, list[nn.Module]]:
    """What may be computed again, by name; nothing of a network that does not say."""
    return network.blocks() if hasattr(network, "blocks") else {}


def _kind(name: str) -> str:
    return name.rstrip("0123456789")


def _again(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """A block's forward pass, of which the inputs alone are kept."""
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **options)
