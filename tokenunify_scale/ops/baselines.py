"""Formulations of the selective scan that others run: to compare with, and oracles.

Arguments are those of ``ops.selective_scan``. The two in plain torch hold tensors of B E L N
numbers, keep the precision of their inputs and differentiate with autograd.
"""

import torch
from torch import Tensor

from tokenunify_scale.config import HostError
from tokenunify_scale.ops.backend import EXTRA


def per_step(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """One step after another, each a slice of decays and inputs made for all steps at once.

    Autograd gives every slice a gradient of the whole tensor's size, so that the backward pass is
    quadratic in L.

    Returns:
        [B, E, L].

    Source: the loop in mamba-ssm's selective_scan_ref.
    """
    dt = _step_sizes(delta, delta_bias, delta_softplus)
    decays = torch.exp(torch.einsum("bel,en->beln", dt, A))
    drives = torch.einsum("bel,bnl,bel->beln", dt, B, u)
    state = torch.zeros_like(drives[:, :, 0])
    outputs = []
    for i in range(u.shape[2]):
        state = decays[:, :, i] * state + drives[:, :, i]
        outputs.append(torch.einsum("ben,bn->be", state, C[:, :, i]))
    return _skip_and_gate(torch.stack(outputs, dim=2), u, D, z)


def parallel_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """All steps by a work-efficient scan of logarithmic depth, memory [B, L, E, N].

    Returns:
        [B, E, L].

    Source: Blelloch 1990, as mambapy applies it: padded to a power of two, in place, and with a
        backward pass of its own.
    """
    dt = _step_sizes(delta, delta_bias, delta_softplus).transpose(1, 2)
    b, c = B.transpose(1, 2), C.transpose(1, 2)
    decays = torch.exp(dt[..., None] * A)
    drives = dt[..., None] * b[:, :, None] * u.transpose(1, 2)[..., None]
    states = _Recurrence.apply(decays, drives)
    y = (states @ c[..., None]).squeeze(-1).transpose(1, 2)
    return _skip_and_gate(y, u, D, z)


def stock(u: Tensor, delta: Tensor, *others: Tensor | None, **options: Tensor | bool) -> Tensor:
    """mamba-ssm's kernel itself, on CUDA; it wants [B, E, L] contiguous.

    Raises:
        HostError: mamba-ssm is not installed.
    """
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError as error:
        raise HostError(f"mamba-ssm cannot be imported ({error}): {EXTRA}") from error
    return selective_scan_fn(u, delta, *others, **options)


def _step_sizes(delta: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    dt = delta if bias is None else delta + bias[:, None]
    return torch.nn.functional.softplus(dt) if softplus else dt


def _skip_and_gate(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    y = y if D is None else y + D[:, None] * u
    return y if z is None else y * torch.nn.functional.silu(z)


class _Recurrence(torch.autograd.Function):
    """h[t] = decays[t] h[t-1] + drives[t] along axis 1 of [B, L, E, N]."""

    @staticmethod
    def forward(ctx, decays: Tensor, drives: Tensor) -> Tensor:
        states = _sweep(decays, drives)
        ctx.save_for_backward(decays, states)
        return states

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The adjoint obeys the same recurrence from the end, a step behind with its decays."""
        decays, states = ctx.saved_tensors
        later = torch.cat([decays[:, :1], decays[:, 1:].flip(1)], dim=1)
        adjoint = _sweep(later, grad.flip(1)).flip(1)
        to_decays = torch.zeros_like(decays)
        to_decays[:, 1:] = adjoint[:, 1:] * states[:, :-1]
        return to_decays, adjoint


def _sweep(decays: Tensor, drives: Tensor) -> Tensor:
    """The states of the recurrence, on copies padded to a power of two steps.

    Up: every second step takes in the one before it, level by level. Down: the others follow.
    """
    length = drives.shape[1]
    padding = (0, 0, 0, 0, 0, (1 << (length - 1).bit_length()) - length)
    a, h = (torch.nn.functional.pad(x, padding) if padding[-1] else x.clone()
            for x in (decays, drives))
    levels = [(a, h)]
    while h.shape[1] > 1:
        h[:, 1::2] += a[:, 1::2] * h[:, ::2]
        a[:, 1::2] *= a[:, ::2]
        a, h = a[:, 1::2], h[:, 1::2]
        levels.append((a, h))
    for a, h in reversed(levels):
        h[:, 2::2] += a[:, 2::2] * h[:, 1:-1:2]
    return levels[0][1][:, :length]
