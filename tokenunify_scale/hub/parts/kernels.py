"""Sequence operations and norms in plain torch; on CUDA the stock kernels, where they are there."""

import math
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from tokenunify_scale.ops.backend import STOCK
from tokenunify_scale.ops.causal_conv1d import _reference as conv_plain
from tokenunify_scale.ops.causal_conv1d import _stock as conv_stock
from tokenunify_scale.ops.instance_norm import _plain as norm_plain
from tokenunify_scale.ops.order import order_code
from tokenunify_scale.ops.scan_chunked import backward as scan_backward
from tokenunify_scale.ops.scan_chunked import forward as scan_forward
from tokenunify_scale.ops.selective_scan import _stock as scan_stock
from tokenunify_scale.ops.tri_mamba import _composed


def tri_mamba(*tensors: Tensor, chunks: int) -> Tensor:
    """Mix a sequence in three orders: [B, L, 2 E] and stacked weights to [B, L, E]."""
    return _composed(*tensors, chunks=chunks, backend="auto")


def instance_norm(
    x: Tensor,
    *,
    activation: Literal["relu", "leaky_relu"] | None = None,
    add: Tensor | None = None,
    slope: float = 0.01,
) -> Tensor:
    """Give every channel of every item mean 0 and variance 1, add, and activate."""
    if math.prod(x.shape[2:]) == 1:
        raise ValueError(f"instance norm needs more than one value a channel, got {[*x.shape]}")
    return norm_plain(x, add, {"relu": 0.0, "leaky_relu": slope, None: None}[activation])


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Literal["silu"] | None,
    *,
    reverse: bool = False,
    interleave: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Convolve each channel of x [B, E, L] with its own filter along a visiting order."""
    code = order_code(x.shape[-1], reverse=reverse, interleave=interleave)
    run = conv_stock if has_stock(x) else conv_plain
    return run(x, weight, bias, activation == "silu", code)


def selective_scan(
    u: Tensor,
    *others: Tensor | None,
    delta_softplus: bool,
    reverse: bool = False,
    interleave: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Mamba's scan of u [B, E, L] along a visiting order; others: delta, A, B, C, D, z, bias."""
    code = order_code(u.shape[-1], reverse=reverse, interleave=interleave)
    given = (u, *others)
    if has_stock(u):
        return scan_stock(*given, delta_softplus, code)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
    return ChunkedScan.apply(*given, delta_softplus, code, keep)


def has_stock(x: Tensor) -> bool:
    """Whether mamba-ssm and causal-conv1d take a tensor."""
    return x.is_cuda and x.dtype != torch.float64 and all(map(find_spec, STOCK))


class ChunkedScan(torch.autograd.Function):
    """The scan in plain torch, with its own backward pass."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Tensors, then whether delta passes through softplus, the order, and whether to keep."""
        *tensors, ctx.softplus, ctx.code, keep = inputs
        y, states = scan_forward(*tensors, softplus=ctx.softplus, chunks=ctx.code, keep=keep)
        ctx.save_for_backward(*tensors, states)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the tensors."""
        *tensors, states = ctx.saved_tensors
        found = scan_backward(dy, *tensors, states, softplus=ctx.softplus, chunks=ctx.code)
        pairs = zip(tensors, found, strict=True)
        return *(None if x is None else gradient for x, gradient in pairs), None, None, None
