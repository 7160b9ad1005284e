"""The tri-oriented mixer on a CPU: three directions that write into the same memory.

Nothing is split, concatenated or added outside the kernels and the matrix products: the kernels
read the two halves of the projection where they lie, and each direction adds to the one before.
"""

import torch
from torch import Tensor

from tokenunify_scale.ops import conv_cpu, scan_cpu
from tokenunify_scale.ops.kernels import computing_dtype
from tokenunify_scale.ops.order import REVERSE, STEPS


def _flat(x: Tensor) -> Tensor:
    """[B, L, C] as [B L, C]."""
    return x.flatten(0, 1)


def forward(xz: Tensor, conv: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor,
            dt_bias: Tensor, A: Tensor, D: Tensor, *, chunks: int,
            keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mix; arguments as in ``ops.tri_mamba``, xz not float16.

    Returns:
        y [B, L, E]; and for ``backward``, of length 0 unless ``keep``: what was convolved
        [3, B, L, E], its projections [3, B, L, R + 2 N], and the states of the scans.
    """
    (batch, length, both), states, rank = xz.shape, A.shape[2], dt_proj.shape[2]
    x, z = xz.transpose(1, 2).chunk(2, 1)
    channels, wide = both // 2, computing_dtype(xz)
    slots, kept = (3, 3) if keep else (1, 0)
    y = xz.new_empty(batch, length, channels)
    u = xz.new_empty(slots, batch, length, channels)
    selected = xz.new_empty(slots, batch, length, rank + 2 * states)
    before = xz.new_empty(kept, batch, -(-length // STEPS), states, channels, dtype=wide)
    to_selected = x_proj.to(xz.dtype).transpose(1, 2)
    for i, code in enumerate((1, REVERSE, chunks)):
        slot = i if keep else 0
        conv_cpu.forward(x, conv[i], conv_bias[i], silu=True, chunks=code, out=u[slot])
        torch.mm(_flat(u[slot]), to_selected[i], out=_flat(selected[slot]))
        dt, b, c = selected[slot].transpose(1, 2).split([rank, states, states], 1)
        scan_cpu.forward(
            u[slot].transpose(1, 2), dt, A[i], b, c, D[i], z, dt_bias[i], weight=dt_proj[i],
            softplus=True, chunks=code, keep=keep, out=y, add=i > 0,
            states=before[slot] if keep else None)
    return y, u[:kept], selected[:kept], before


def backward(dy: Tensor, xz: Tensor, conv: Tensor, conv_bias: Tensor, x_proj: Tensor,
             dt_proj: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor, u: Tensor, selected: Tensor,
             before: Tensor, *, chunks: int) -> tuple[Tensor, ...]:
    """Gradients of xz and of the weights, each of its input's shape and type."""
    states, rank = A.shape[2], dt_proj.shape[2]
    x, z = xz.transpose(1, 2).chunk(2, 1)
    dxz, dselected = xz.new_empty(xz.shape), torch.empty_like(selected[0])  # contiguous, both
    dx, dz = dxz.chunk(2, -1)
    ddt, db, dc = dselected.split([rank, states, states], -1)
    gradients = [torch.empty_like(w) for w in (conv, conv_bias, x_proj, dt_proj, dt_bias, A, D)]
    dconv, dconv_bias, dx_proj, ddt_proj, ddt_bias, dA, dD = gradients
    from_selected = x_proj.to(xz.dtype)
    for i, code in enumerate((1, REVERSE, chunks)):
        dt, b, c = selected[i].transpose(1, 2).split([rank, states, states], 1)
        du, _, dA[i], _, _, dD[i], _, ddt_bias[i], ddt_proj[i] = scan_cpu.backward(
            dy.transpose(1, 2), u[i].transpose(1, 2), dt, A[i], b, c, D[i], z, dt_bias[i],
            before[i], weight=dt_proj[i], softplus=True, chunks=code, outs=(dz, db, dc, ddt),
            add=i > 0)
        dx_proj[i] = _flat(dselected).t() @ _flat(u[i])
        _flat(du.transpose(1, 2)).addmm_(_flat(dselected), from_selected[i])
        _, dconv[i], dconv_bias[i] = conv_cpu.backward(
            du, x, conv[i], conv_bias[i], silu=True, chunks=code, out=dx, add=i > 0)
    return dxz, *gradients
