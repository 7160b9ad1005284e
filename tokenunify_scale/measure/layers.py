"""Layers of a network alone: Mamba's beside their matmuls, convolutions beside torch's best."""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenunify_scale.measure.calls import Call, collect, precision
from tokenunify_scale.measure.clock import medians
from tokenunify_scale.measure.step import PRECISIONS, breakdown, profiled, training_step
from tokenunify_scale.models.mamba import MambaLayer
from tokenunify_scale.train.runlog import track

KERNELS = ("scan", "conv1d")
PRODUCTS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1}
"""Matrix products as torch calls them, with the place of the first factor."""
DTYPES = {"float": torch.float32, "c10::BFloat16": torch.bfloat16, "double": torch.float64}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last_3d}


def mamba(call: Call, *, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """What a Mamba layer costs beside its kernels, and its matrix products alone.

    Args:
        call: of a layer that takes [B, C, D, H, W].
        dtype: the precision of the step.
        repeats: how often each is timed.

    Returns:
        The shape, the count, and the seconds of the layer, its kernels, what remains, and of the
        products of its forward pass with the two that each has in the backward pass.
    """
    work = call.forward_backward(call.layer, dtype=dtype)
    factors = [
        [torch.randn(shape, dtype=kind) for shape, kind in product]
        for product in products(call, dtype=dtype)
    ]
    seconds = medians({"layer": work, "products": lambda: _multiply(factors)}, repeats=repeats)
    parts = breakdown(work, repeats=repeats)
    kernels = sum(parts[kind] for kind in KERNELS)
    return {
        "shape": list(call.x.shape),
        "count": call.count,
        **seconds,
        "kernels": kernels,
        "rest": seconds["layer"] - kernels,
    }


def products(call: Call, *, dtype: torch.dtype) -> list[list[tuple[list[int], torch.dtype]]]:
    """Shape and type of both factors of every matrix product in a layer's forward pass."""
    with precision(dtype, like=call.x), torch.no_grad():
        profile = profiled(partial(call.layer, call.x, **call.options), record_shapes=True)
    found = []
    for event in profile.profiler.kineto_results.events():
        if event.name() in PRODUCTS:
            first = PRODUCTS[event.name()]
            both = slice(first, first + 2)
            kinds = [DTYPES[kind] for kind in event.dtypes()[both]]
            found.append(list(zip(event.shapes()[both], kinds, strict=True)))
    return found


def _multiply(factors: list[list[Tensor]]) -> None:
    for a, b in factors:
        y = torch.matmul(a, b)
        torch.matmul(y, b.mT)
        torch.matmul(a.mT, y)


def convolution(call: Call, *, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """A convolution as the network runs it, beside torch's own with all in either layout.

    Args:
        call: of an nn.Conv3d or nn.ConvTranspose3d, or of a class made of one.
        dtype: the precision of the step.
        repeats: how often each is timed.

    Returns:
        What it is, the input's shape, the count, and the seconds of ours and of each layout.
    """
    layer = call.layer
    works = {"ours": call.forward_backward(layer, dtype=dtype)}
    for name, layout in LAYOUTS.items():
        twin = copy.deepcopy(layer).to(memory_format=layout)
        x = call.x.detach().contiguous(memory_format=layout).requires_grad_(call.x.requires_grad)
        works[name] = Call(twin, x).forward_backward(partial(_plain, twin), dtype=dtype)
    sides = "x".join(map(str, layer.kernel_size))
    kind = "transposed " if isinstance(layer, nn.ConvTranspose3d) else ""
    return {
        "what": f"{kind}{sides}, {layer.in_channels} to {layer.out_channels}",
        "shape": list(call.x.shape),
        "count": call.count,
        "seconds": medians(works, repeats=repeats),
    }


def _plain(layer: nn.Module, x: Tensor) -> Tensor:
    """What torch does with a convolution's weights, whatever the class makes of them."""
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    if isinstance(layer, nn.ConvTranspose3d):
        return functional.conv_transpose3d(
            x,
            layer.weight,
            layer.bias,
            stride,
            padding,
            layer.output_padding,
            layer.groups,
            dilation,
        )
    return functional.conv3d(x, layer.weight, layer.bias, stride, padding, dilation, layer.groups)

def step_in_parts(model: nn.Module, crops: Tensor, *, repeats: int) -> dict[str, Any]:
    """A training step on a CPU in each precision: its time, what it goes into, and its layers.

    Args:
        model: the network.
        crops: [B, C, D, H, W].
        repeats: turns; medians are reported.

    Returns:
        For each of ``PRECISIONS``: seconds, breakdown, and rows of ``mamba`` and ``convolutions``.
    """
    steps = {name: training_step(model, crops, dtype=dtype) for name, dtype in PRECISIONS.items()}
    for step in steps.values():
        step()
    seconds = medians(steps, repeats=repeats)
    found = {}
    for name, dtype in PRECISIONS.items():
        often = {"dtype": dtype, "repeats": repeats}
        parts = breakdown(steps[name], repeats=repeats)
        mambas = collect(model, crops, kinds=(MambaLayer,), dtype=dtype)
        convolutions = collect(model, crops, kinds=(nn.Conv3d, nn.ConvTranspose3d), dtype=dtype)
        found[name] = {
            "seconds": seconds[name],
            "breakdown": parts,
            "mamba": [
                mamba(call, **often)
                for call in track(mambas, description=f"Mamba, {name}", unit="layer")
            ],
            "convolutions": [
                convolution(call, **often)
                for call in track(convolutions, description=f"conv, {name}", unit="layer")
            ],
        }
    return found
