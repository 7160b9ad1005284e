"""Mamba's selective scan, one signature over four backends, along three visiting orders."""

from types import ModuleType

import torch
from torch import Tensor

from tokenunify_scale.config import HostError
from tokenunify_scale.ops.backend import EXTRA, Backend, resolve
from tokenunify_scale.ops.order import STEPS, order_code, unvisit, visit


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
                   D: Tensor | None = None, z: Tensor | None = None,
                   delta_bias: Tensor | None = None, delta_softplus: bool = False, *,
                   reverse: bool = False, interleave: int | None = None,
                   backend: Backend = "auto") -> Tensor:
    """Run h = exp(delta A) h + delta B u, y = C h + D u, gated by SiLU(z), along a sequence.

    Any strides are accepted; transposed views of contiguous [B, L, E] are the fastest on a CPU.

    Args:
        u: [B, E, L], any floating type; the state is kept in float32, or float64 if it is that.
        delta: [B, E, L], step sizes before bias and softplus.
        A: [E, N], real.
        B: [B, N, L].
        C: [B, N, L].
        D: [E], skip connection.
        z: [B, E, L], gate.
        delta_bias: [E], added to delta.
        delta_softplus: whether delta passes through softplus after the bias.
        reverse: scan from the end; the result is in the order of the input.
        interleave: visit this many equal chunks in turn; the result is in the order of the input.
        backend: "auto" takes the device's; see ``ops.backend``.

    Returns:
        [B, E, L] of u's type.

    Raises:
        ValueError: shapes disagree, or the order is impossible.
        ConfigError: the backend cannot take these tensors.
        HostError: a package is missing.

    Source: Gu and Dao, Mamba, Algorithm 2; arguments as in mamba-ssm.
    """
    code = order_code(u.shape[-1], reverse=reverse, interleave=interleave)
    _check(u, delta, A, B, C, D, z, delta_bias)
    name = resolve(u.device.type, backend)
    given = (u, delta, A, B, C, D, z, delta_bias)
    if name in ("reference", "cuda"):
        return (_stock if name == "cuda" else _reference)(*given, delta_softplus, code)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    # The registered operation is for tracers; calling past the dispatcher saves a tenth of a
    # millisecond, as long as a short scan itself.
    eager = type(u) in (Tensor, torch.nn.Parameter) and u.device.type == "cpu"
    direct = eager and not torch.compiler.is_compiling()
    return (_Direct.apply if direct else _scan)(*given, delta_softplus, code, keep, name)[0]


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
           z: Tensor | None, delta_bias: Tensor | None) -> None:
    if u.ndim != 3 or A.ndim != 2:
        raise ValueError(f"u must be [B, E, L] and A [E, N], got {[*u.shape]} and {[*A.shape]}")
    (b, e, length), n = u.shape, A.shape[1]
    if 0 in (b, e, length, n):
        raise ValueError(f"there is nothing to scan: u is {[*u.shape]} and A {[*A.shape]}")
    expected = {"delta": (delta, (b, e, length)), "A": (A, (e, n)), "B": (B, (b, n, length)),
                "C": (C, (b, n, length)), "D": (D, (e,)), "z": (z, (b, e, length)),
                "delta_bias": (delta_bias, (e,))}
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {list(shape)} for u {[*u.shape]} and A {[*A.shape]}, "
                             f"got {[*tensor.shape]}")


def _reference(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
               z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool,
               code: int) -> Tensor:
    """One step after another in plain torch; float64 stays float64, halves run in float32."""
    wide = torch.float64 if u.dtype == torch.float64 else torch.float32
    x, dt, A, b, c = (t.to(wide) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        dt = dt + delta_bias.to(wide)[:, None]
    if delta_softplus:
        dt = torch.nn.functional.softplus(dt)
    state = x.new_zeros(*x.shape[:2], A.shape[1])
    outputs = []
    steps = (visit(t, code).unbind(-1) for t in (dt, dt * x, b, c))
    for dt_k, dtx_k, b_k, c_k in zip(*steps, strict=True):
        state = torch.exp(dt_k[..., None] * A) * state + dtx_k[..., None] * b_k[:, None]
        outputs.append((state * c_k[:, None]).sum(-1))
    y = unvisit(torch.stack(outputs, -1), code)
    if D is not None:
        y = y + D.to(wide)[:, None] * x
    if z is not None:
        y = y * torch.nn.functional.silu(z.to(wide))
    return y.to(u.dtype)


def _stock(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
           z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool, code: int) -> Tensor:
    """mamba-ssm's kernel on the visited sequence; inputs of one type, weights in float32."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError as error:
        raise HostError(f"mamba-ssm cannot be imported ({error}): {EXTRA}") from error
    if u.dtype == torch.float64:
        raise ValueError("mamba-ssm has no float64 kernel; use backend='chunked'")

    def along(x: Tensor | None) -> Tensor | None:
        return None if x is None else visit(x.to(u.dtype), code).contiguous()

    def weight(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.float().contiguous()

    y = selective_scan_fn(along(u), along(delta), weight(A), along(B), along(C), weight(D),
                          along(z), weight(delta_bias), delta_softplus)
    return unvisit(y, code)


def _implementation(name: str) -> ModuleType:
    """The module with ``forward`` and ``backward`` of the backend "cpu" or "chunked"."""
    if name == "chunked":
        from tokenunify_scale.ops import scan_chunked as module
    else:
        from tokenunify_scale.ops import scan_cpu as module
    return module


def _forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
             z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool, code: int,
             keep: bool, name: str) -> tuple[Tensor, Tensor]:
    return _implementation(name).forward(u, delta, A, B, C, D, z, delta_bias, chunks=code,
                                         softplus=delta_softplus, keep=keep)


_scan = torch.library.custom_op("tokenunify::selective_scan", _forward, mutates_args=())


@_scan.register_fake
def _scan_fake(u, delta, A, B, C, D, z, delta_bias, delta_softplus, code, keep, name):
    b, e, length = u.shape
    wide = torch.float64 if u.dtype == torch.float64 else torch.float32
    pieces = (length + STEPS - 1) // STEPS if keep else 0
    return (u.new_empty(b, length, e).transpose(1, 2),
            u.new_empty(b, pieces, A.shape[1], e, dtype=wide))


def _backward(dy: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
              D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None, states: Tensor,
              delta_softplus: bool, code: int, name: str) -> tuple[
                  Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _implementation(name).backward(dy, u, delta, A, B, C, D, z, delta_bias, states,
                                          softplus=delta_softplus, chunks=code)


_scan_backward = torch.library.custom_op(
    "tokenunify::selective_scan_backward", _backward, mutates_args=())


@_scan_backward.register_fake
def _scan_backward_fake(dy, u, delta, A, B, C, D, z, delta_bias, states, delta_softplus, code,
                        name):
    def like(x: Tensor | None) -> Tensor:
        if x is None:
            return u.new_empty(0, dtype=states.dtype)
        if x.ndim == 3:
            return x.new_empty(x.shape[0], x.shape[2], x.shape[1]).transpose(1, 2)
        return x.new_empty(x.shape[1], x.shape[0]).t() if x.ndim == 2 else x.new_empty(x.shape)

    return tuple(like(x) for x in (u, delta, A, B, C, D, z, delta_bias))


def _remember(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus, ctx.code, _, ctx.name = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # zeros as large as the states


def _differentiate(ctx, dy: Tensor, _: Tensor | None, *, run=_scan_backward) -> tuple:
    if dy is None:
        return (None,) * 12
    *tensors, states = ctx.saved_tensors
    grads = run(dy, *tensors, states, ctx.delta_softplus, ctx.code, ctx.name)
    given = (None if x is None else grad for x, grad in zip(tensors, grads, strict=True))
    return *given, None, None, None, None


_scan.register_autograd(_differentiate, setup_context=_remember)


class _Direct(torch.autograd.Function):
    """The registered operation, without the dispatcher."""

    @staticmethod
    def forward(ctx, *inputs):
        output = _forward(*inputs)
        _remember(ctx, inputs, output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, nothing):
        return _differentiate(ctx, dy, nothing, run=_backward)
