"""Mamba's causal depthwise convolution, one signature over four backends, along three orders."""

from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor

from tokenunify_scale.config import HostError
from tokenunify_scale.ops.backend import EXTRA, Backend, resolve
from tokenunify_scale.ops.order import order_code, unvisit, visit


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None = None,
                  activation: Literal["silu"] | None = None, *, reverse: bool = False,
                  interleave: int | None = None, backend: Backend = "auto") -> Tensor:
    """Convolve every channel with its own filter over this and earlier steps of a visiting order.

    Args:
        x: [B, E, L], any floating type and strides.
        weight: [E, K], the last tap meets the present step.
        bias: [E].
        activation: "silu", or None for none.
        reverse: earlier means nearer to the end.
        interleave: visit this many equal chunks in turn; see ``ops.order``.
        backend: "auto" takes the device's; see ``ops.backend``.

    Returns:
        [B, E, L] of x's type, in the order of the input.

    Raises:
        ValueError: shapes disagree, or the order or the activation does not exist.
        ConfigError: the backend cannot take these tensors.
        HostError: a package is missing.
    """
    code = order_code(x.shape[-1], reverse=reverse, interleave=interleave)
    if activation not in (None, "silu"):
        raise ValueError(f"activation must be None or 'silu', got {activation!r}")
    if x.ndim != 3 or weight.ndim != 2 or weight.shape[0] != x.shape[1]:
        raise ValueError(f"x must be [B, E, L] and weight [E, K], got {[*x.shape]} and "
                         f"{[*weight.shape]}")
    if 0 in (*x.shape, *weight.shape):
        raise ValueError(f"there is nothing to convolve: x is {[*x.shape]} and weight "
                         f"{[*weight.shape]}")
    if bias is not None and tuple(bias.shape) != (x.shape[1],):
        raise ValueError(f"bias must be [{x.shape[1]}] for x {[*x.shape]}, got {[*bias.shape]}")
    run = {"reference": _reference, "chunked": _reference, "cuda": _stock, "cpu": _conv}
    return run[resolve(x.device.type, backend)](x, weight, bias, activation == "silu", code)


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, code: int) -> Tensor:
    """torch's convolution of the visited sequence, padded on the left; halves in float32."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    padded = torch.nn.functional.pad(visit(x.to(wide), code), (weight.shape[1] - 1, 0))
    shift = None if bias is None else bias.to(wide)
    casts = torch.amp.is_autocast_available(x.device.type)  # not to shapes alone
    with torch.autocast(x.device.type, enabled=False) if casts else nullcontext():
        y = torch.nn.functional.conv1d(padded, weight.to(wide)[:, None], shift, groups=x.shape[1])
    y = torch.nn.functional.silu(y) if silu else y
    return unvisit(y, code).to(x.dtype)


def _stock(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, code: int) -> Tensor:
    """The kernel of causal-conv1d on the visited sequence; it wants weights of the input's type."""
    try:
        from causal_conv1d import causal_conv1d_fn
    except ImportError as error:
        raise HostError(f"causal-conv1d cannot be imported ({error}): {EXTRA}") from error
    if x.dtype == torch.float64:
        raise ValueError("causal-conv1d has no float64 kernel; use backend='chunked'")
    weight = weight.to(x.dtype).contiguous()
    shift = None if bias is None else bias.to(x.dtype).contiguous()
    y = causal_conv1d_fn(visit(x, code).contiguous(), weight, shift,
                         activation="silu" if silu else None)
    return unvisit(y, code)


@torch.library.custom_op("tokenunify::causal_conv1d", mutates_args=())
def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, code: int) -> Tensor:
    from tokenunify_scale.ops import conv_cpu

    return conv_cpu.forward(x, weight, bias, silu=silu, chunks=code)


@_conv.register_fake
def _conv_fake(x, weight, bias, silu, code):
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1]).transpose(1, 2)


@torch.library.custom_op("tokenunify::causal_conv1d_backward", mutates_args=())
def _conv_backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool,
                   code: int) -> tuple[Tensor, Tensor, Tensor]:
    from tokenunify_scale.ops import conv_cpu

    return conv_cpu.backward(dy, x, weight, bias, silu=silu, chunks=code)


@_conv_backward.register_fake
def _conv_backward_fake(dy, x, weight, bias, silu, code):
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return (x.new_empty(x.shape[0], x.shape[2], x.shape[1]).transpose(1, 2),
            weight.new_empty(weight.shape[1], weight.shape[0]).t(),
            x.new_empty(0, dtype=wide) if bias is None else bias.new_empty(bias.shape))


def _remember(ctx, inputs, output) -> None:
    *tensors, ctx.silu, ctx.code = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, dy: Tensor) -> tuple:
    x, weight, bias = ctx.saved_tensors
    dx, dweight, dbias = _conv_backward(dy, x, weight, bias, ctx.silu, ctx.code)
    return dx, dweight, None if bias is None else dbias, None, None


_conv.register_autograd(_differentiate, setup_context=_remember)
