"""What a network costs: parameters, multiply-accumulates, activation memory; on meta tensors."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Of one crop."""

    parameters: int
    """Trainable parameters of the network."""

    gmac: float
    """Multiply-accumulates of a forward pass in 1e9: convolutions, linear maps, attention, scans.

    Norms, activations and pooling are not counted. Half of what VMamba counts for a scan."""

    activation_bytes: int
    """What autograd keeps for the backward pass, in fp32."""


def cost(model: nn.Module, *, crop: tuple[int, int, int], in_channels: int = 1) -> Cost:
    """Count a network that lives on the meta device.

    Args:
        model: built under ``torch.device("meta")``.
        crop: size (z, y, x) in voxels.
        in_channels: channels of the input.

    Raises:
        ConfigError: the network cannot take the crop.
    """
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    crops = torch.empty(1, in_channels, *crop, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(crops)  # held, so that no saved storage is freed and counted twice
    del output
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, counter.get_total_flops() / 2e9, sum(kept.values()))
