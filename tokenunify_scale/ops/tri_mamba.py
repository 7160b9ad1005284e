"""The tri-oriented mixer: convolution, selection and scan in three orders, gated and summed."""

from math import prod

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from tokenunify_scale.ops.backend import Backend, resolve
from tokenunify_scale.ops.causal_conv1d import causal_conv1d
from tokenunify_scale.ops.order import STEPS, order_code
from tokenunify_scale.ops.selective_scan import selective_scan


def tri_mamba(xz: Tensor, conv: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor,
              dt_bias: Tensor, A: Tensor, D: Tensor, *, chunks: int,
              backend: Backend = "auto") -> Tensor:
    """Mix a sequence forward, backward and section by section, each order with its own weights.

    On a CPU this is one operation, whose directions share memory; elsewhere it is made of
    ``causal_conv1d`` and ``selective_scan``. Weights are stacked: forward, backward, sections.

    Args:
        xz: [B, L, 2 E], what is scanned and then the gate; any strides, contiguous is fastest.
        conv: [3, E, K], taps of the causal convolutions.
        conv_bias: [3, E].
        x_proj: [3, R + 2 N, E], from the convolved sequence to steps of rank R, B and C.
        dt_proj: [3, E, R].
        dt_bias: [3, E].
        A: [3, E, N], negative.
        D: [3, E].
        chunks: contiguous chunks that the third order interleaves; divides L.
        backend: as in ``ops.backend``.

    Returns:
        [B, L, E] of xz's type.

    Raises:
        ValueError: shapes disagree, or the chunks do not divide L.
        ConfigError: the backend cannot take these tensors.
        HostError: a package is missing.

    Source: Fig. 8 (tri-oriented Mamba); ``mamba_inner_fn`` of mamba-ssm for one direction.
    """
    weights = (conv, conv_bias, x_proj, dt_proj, dt_bias, A, D)
    _check(xz, *weights)
    order_code(xz.shape[1], reverse=False, interleave=chunks)
    name = resolve(xz.device.type, backend)
    if name != "cpu":
        return _composed(xz, *weights, chunks=chunks, backend=backend)
    narrow = xz.dtype == torch.float16  # which the kernels do not know
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (xz, *weights))
    y = _mix(xz.float() if narrow else xz, *weights, chunks, keep)[0]
    return y.to(xz.dtype)


def _check(xz: Tensor, conv: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor,
           dt_bias: Tensor, A: Tensor, D: Tensor) -> None:
    if xz.ndim != 3 or xz.shape[2] % 2:
        raise ValueError(f"xz must be [B, L, 2 E], got {[*xz.shape]}")
    e, n, r, k = xz.shape[2] // 2, A.shape[-1], dt_proj.shape[-1], conv.shape[-1]
    expected = {"conv": (conv, (3, e, k)), "conv_bias": (conv_bias, (3, e)),
                "x_proj": (x_proj, (3, r + 2 * n, e)), "dt_proj": (dt_proj, (3, e, r)),
                "dt_bias": (dt_bias, (3, e)), "A": (A, (3, e, n)), "D": (D, (3, e))}
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {list(shape)} for xz {[*xz.shape]}, "
                             f"got {[*tensor.shape]}")


def _composed(xz: Tensor, conv: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor,
              dt_bias: Tensor, A: Tensor, D: Tensor, *, chunks: int, backend: Backend) -> Tensor:
    states, rank = A.shape[2], dt_proj.shape[2]
    x, z = xz.transpose(1, 2).chunk(2, 1)
    orders = ({}, {"reverse": True}, {"interleave": chunks})
    outputs = []
    for i, order in enumerate(orders):
        u = causal_conv1d(x, conv[i], conv_bias[i], "silu", **order, backend=backend)
        selected = torch.nn.functional.linear(u.transpose(1, 2), x_proj[i].to(u.dtype))
        dt, b, c = selected.split([rank, states, states], -1)
        delta = torch.nn.functional.linear(dt, dt_proj[i].to(dt.dtype))
        outputs.append(selective_scan(
            u, delta.transpose(1, 2), A[i], b.transpose(1, 2), c.transpose(1, 2), D[i], z,
            dt_bias[i], delta_softplus=True, **order, backend=backend))
    return (outputs[0] + outputs[1] + outputs[2]).transpose(1, 2)


@torch.library.custom_op("tokenunify::tri_mamba", mutates_args=())
def _mix(xz: Tensor, conv: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor,
         dt_bias: Tensor, A: Tensor, D: Tensor, chunks: int,
         keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from tokenunify_scale.ops import tri_mamba_cpu

    with torch.autocast("cpu", enabled=False):
        return tri_mamba_cpu.forward(xz, conv, conv_bias, x_proj, dt_proj, dt_bias, A, D,
                                     chunks=chunks, keep=keep)


@_mix.register_fake
def _mix_fake(xz, conv, conv_bias, x_proj, dt_proj, dt_bias, A, D, chunks, keep):
    (batch, length, _), (_, channels, states) = xz.shape, A.shape
    kept, wide = 3 * keep, torch.float64 if xz.dtype == torch.float64 else torch.float32
    sequence = (batch, length, channels)
    return (xz.new_empty(sequence), xz.new_empty(kept, *sequence),
            xz.new_empty(kept, batch, length, x_proj.shape[1]),
            xz.new_empty(kept, batch, (length + STEPS - 1) // STEPS, states, channels, dtype=wide))


@torch.library.custom_op("tokenunify::tri_mamba_backward", mutates_args=())
def _mix_backward(dy: Tensor, xz: Tensor, conv: Tensor, conv_bias: Tensor, x_proj: Tensor,
                  dt_proj: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor, u: Tensor,
                  selected: Tensor, before: Tensor, chunks: int) -> tuple[
                      Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    from tokenunify_scale.ops import tri_mamba_cpu

    with torch.autocast("cpu", enabled=False):
        return tri_mamba_cpu.backward(dy, xz, conv, conv_bias, x_proj, dt_proj, dt_bias, A, D, u,
                                      selected, before, chunks=chunks)


@_mix_backward.register_fake
def _mix_backward_fake(dy, xz, conv, conv_bias, x_proj, dt_proj, dt_bias, A, D, u, selected,
                       before, chunks):
    weights = (conv, conv_bias, x_proj, dt_proj, dt_bias, A, D)
    return xz.new_empty(xz.shape), *(torch.empty_like(x) for x in weights)


def _remember(ctx, inputs, output) -> None:
    *tensors, ctx.chunks, _ = inputs
    kept = output[1:]
    ctx.save_for_backward(*tensors, *kept)
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)  # zeros as large as all that was kept


def _differentiate(ctx, dy: Tensor, *_: Tensor | None) -> tuple:
    if dy is None:
        return (None,) * 10
    return *_mix_backward(dy, *ctx.saved_tensors, ctx.chunks), None, None


_mix.register_autograd(_differentiate, setup_context=_remember)


@register_flop_formula(torch.ops.tokenunify.tri_mamba)
def _flops(xz_shape, conv_shape, bias_shape, x_proj_shape, dt_proj_shape, dt_bias_shape, A_shape,
           *_, **__) -> int:
    """Of the linear maps, the convolutions and the scans, as VMamba counts the last (Liu et al.
    2024): nine a state, one for the skip D and one for the gate z."""
    linear = 2 * (prod(x_proj_shape) + prod(dt_proj_shape))
    scan = 9 * prod(A_shape) + 2 * prod(A_shape[:2])
    return prod(xz_shape[:2]) * (linear + 2 * prod(conv_shape) + scan)


@register_flop_formula(torch.ops.tokenunify.tri_mamba_backward)
def _backward_flops(dy_shape, xz_shape, *shapes, **_) -> int:
    return 2 * _flops(xz_shape, *shapes)
