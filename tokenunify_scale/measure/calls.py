"""What a network gives to its layers: their inputs as they come, layout and type included."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Call:
    """One call of a layer, or several that are alike in all that costs time."""

    layer: nn.Module
    x: Tensor
    """Its input."""

    options: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1

    def forward_backward(
        self, run: Callable[..., Tensor], *, dtype: torch.dtype
    ) -> Callable[[], None]:
        """Work that calls ``run(x, **options)`` in a step's precision and takes gradients.

        Args:
            run: the layer, or something that computes with its weights.
            dtype: the precision of the step.
        """
        x = self.x
        weights = [weight for weight in self.layer.parameters() if weight.requires_grad]
        wanted = [x, *weights] if x.requires_grad else weights
        with torch.no_grad(), precision(dtype, like=x):
            gradient = torch.randn_like(run(x, **self.options))

        def work() -> None:
            with precision(dtype, like=x):
                y = run(x, **self.options)
            torch.autograd.grad(y, wanted, gradient)

        return work


def precision(dtype: torch.dtype, *, like: Tensor) -> AbstractContextManager:
    """Autocast to bfloat16 on the device of ``like``, or none for float32."""
    device = "cuda" if like.is_cuda else "cpu"
    return torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16)


def collect(
    model: nn.Module, crops: Tensor, *, kinds: tuple[type[nn.Module], ...], dtype: torch.dtype
) -> list[Call]:
    """The calls of layers of some kinds in one forward pass, alike ones together.

    Args:
        model: the network.
        crops: its input.
        kinds: classes of layers.
        dtype: the precision of the step.

    Returns:
        In the order of the pass; with inputs that are copies.
    """
    found: dict[tuple, Call] = {}

    def note(layer: nn.Module, args: tuple[Tensor], options: dict[str, Any]) -> None:
        (x,) = args
        weights = tuple((name, tuple(w.shape)) for name, w in layer.named_parameters())
        key = (repr(layer), weights, x.shape, x.stride(), x.dtype, x.requires_grad, repr(options))
        if key in found:
            found[key].count += 1
        else:
            copy = x.detach().clone().requires_grad_(x.requires_grad)
            found[key] = Call(layer, copy, options)

    layers = [module for module in model.modules() if isinstance(module, kinds)]
    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        with precision(dtype, like=crops):
            model(crops)
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.values())
