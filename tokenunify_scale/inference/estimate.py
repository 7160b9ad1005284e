"""How much memory a prediction will hold at its peak, foretold."""

from copy import deepcopy

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tokenunify_scale.train.live import Live
from tokenunify_scale.volumes.geometry import Triple

PROCESS = 350 << 20
"""Bytes of a CPU process without a network: interpreter, torch, compiled kernels. Measured."""
SLACK = 0.3
"""Of the network's bytes, what lies between them in the C library's heap; see train.memory."""


def network_peak(model: nn.Module, *, batch: int, channels: int, seen: Triple) -> int:
    """Bytes of tensors that a forward pass holds at its peak: counted, none of them allocated.

    Args:
        model: on the meta device; stays as it is.
        batch: tiles at once.
        channels: of the input.
        seen: sides (z, y, x) of what the network is given.
    """
    shadow = deepcopy(model).eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        shadow.to_empty(device="cpu")
    crops = torch.zeros(batch, channels, *seen)
    live = Live([*shadow.parameters(), *shadow.buffers()])
    with torch.no_grad(), live:
        shadow(crops * 1.0)
    return int(live.activations)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
