"""Instance norm, an addition and an activation in one, fast with channels last on a CPU."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from tokenunify_scale.ops.backend import numba_failure

EPS = 1e-5


def instance_norm(x: Tensor, *, activation: Literal["relu", "leaky_relu"] | None = None,
                  add: Tensor | None = None, slope: float = 0.01) -> Tensor:
    """Give every channel of every item mean 0 and variance 1, add, and activate.

    Args:
        x: [B, C, *sides], any floating type. Our kernels run on a CPU where the memory lies with
            channels last; elsewhere plain torch does.
        activation: of the sum; None for none.
        add: of x's shape.
        slope: of ``leaky_relu`` where it is negative.

    Returns:
        activation(norm(x) + add), of x's shape, type and memory layout.

    Raises:
        ValueError: one value a channel has no variance; or shapes or the activation are wrong.
    """
    if activation not in (None, "relu", "leaky_relu"):
        raise ValueError(f"activation must be None, 'relu' or 'leaky_relu', got {activation!r}")
    if add is not None and add.shape != x.shape:
        raise ValueError(f"add must be {[*x.shape]} as x is, got {[*add.shape]}")
    if math.prod(x.shape[2:]) == 1:
        raise ValueError(f"instance norm needs more than one value a channel, got {[*x.shape]}")
    leak = {"relu": 0.0, "leaky_relu": slope, None: None}[activation]
    if not _fits(x) or (add is not None and add.dtype != x.dtype):
        return _plain(x, add, leak)
    if activation is None:  # an addition alone gains nothing from being fused
        y = _norm(x, None, None)[0]
        return y if add is None else y + add
    return _norm(x, add, leak)[0]


def _fits(x: Tensor) -> bool:
    """Whether our kernels take this tensor."""
    last = x.movedim(1, -1).is_contiguous() and x.numel() > 0
    return x.device.type == "cpu" and x.is_floating_point() and last and _has_numba()


@torch.compiler.assume_constant_result
def _has_numba() -> bool:
    return numba_failure() is None


def _plain(x: Tensor, add: Tensor | None, leak: float | None) -> Tensor:
    y = functional.instance_norm(x, eps=EPS)
    if y.requires_grad:
        # torch 2.13 misreads a gradient with channels last of one item (a batch of 1).
        y.register_hook(Tensor.contiguous)
    y = y if add is None else y + add
    if leak is None:
        return y
    return torch.relu(y) if leak == 0 else functional.leaky_relu(y, leak)


@torch.library.custom_op("tokenunify::instance_norm", mutates_args=())
def _norm(x: Tensor, add: Tensor | None, leak: float | None) -> tuple[Tensor, Tensor, Tensor]:
    from tokenunify_scale.ops import norm_cpu

    return norm_cpu.forward(x, add, leak, EPS)


@_norm.register_fake
def _norm_fake(x, add, leak):
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, scale = (x.new_empty(x.shape[:2], dtype=wide) for _ in range(2))
    return torch.empty_like(x), mean, scale


@torch.library.custom_op("tokenunify::instance_norm_backward", mutates_args=())
def _norm_backward(dy: Tensor, x: Tensor, y: Tensor | None, mean: Tensor, scale: Tensor,
                   leak: float | None) -> tuple[Tensor, Tensor]:
    from tokenunify_scale.ops import norm_cpu

    return norm_cpu.backward(dy, x, y, mean, scale, leak)


@_norm_backward.register_fake
def _norm_backward_fake(dy, x, y, mean, scale, leak):
    return torch.empty_like(x), x.new_empty(0) if y is None else torch.empty_like(x)


def _remember(ctx, inputs, output) -> None:
    x, add, ctx.leak = inputs
    y, mean, scale = output
    # The sign of what was activated: with an addition only the result still has it.
    ctx.save_for_backward(x, None if add is None else y, mean, scale)


def _differentiate(ctx, dy: Tensor, *_) -> tuple:
    x, y, mean, scale = ctx.saved_tensors
    dx, dadd = _norm_backward(dy, x, y, mean, scale, ctx.leak)
    return dx, None if y is None else dadd, None


_norm.register_autograd(_differentiate, setup_context=_remember)
