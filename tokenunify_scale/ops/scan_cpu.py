"""The selective scan on a CPU: tensors in, numba kernels over our own threads, tensors out."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tokenunify_scale.ops import scan_adjoint, scan_kernels
from tokenunify_scale.ops.kernels import (
    Task,
    array,
    as_stored,
    call,
    computing_dtype,
    lanes_for,
    rows,
    run_tasks,
    split,
    stored_dtype,
)
from tokenunify_scale.ops.order import STEPS

Optional = Tensor | None


class _Inputs:
    """The arguments of a scan as the kernels want them: [B, L, E] arrays."""

    def __init__(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional,
                 z: Optional, bias: Optional, weight: Optional) -> None:
        self.dtype = dtype = computing_dtype(u)
        self.batch, self.channels, self.length = u.shape
        self.states = A.shape[1]
        D, bias = (torch.zeros(self.channels, dtype=dtype) if x is None else x for x in (D, bias))
        self.rank = 0 if weight is None else weight.shape[1]
        weight = torch.empty(0, 0, dtype=dtype) if weight is None else weight.detach()
        self.arrays = (
            rows(u, dtype), rows(delta, dtype),
            A.detach().to(dtype).numpy(),
            as_stored(B.transpose(1, 2), dtype), as_stored(C.transpose(1, 2), dtype),
            D.to(dtype).contiguous().numpy(),
            torch.empty(0, 0, 0, dtype=dtype).numpy() if z is None else rows(z, dtype),
            bias.to(dtype).contiguous().numpy(), weight.to(dtype).numpy(),
        )
        self.tasks = split(self.batch, self.channels, self.length, lanes=lanes_for(dtype))

    def scratch(self, task: Task, size: Callable[[int, int, int, int], int]) -> np.ndarray:
        """Aligned memory for one task; ``size`` takes vectors of channels, N, R and lanes."""
        width = lanes_for(self.dtype).width
        vectors = -(-(task.e_stop - task.e_first) // width)
        return torch.empty(size(vectors, self.states, self.rank, width), dtype=self.dtype).numpy()


def forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional, z: Optional,
            bias: Optional, *, softplus: bool, chunks: int, keep: bool,
            weight: Optional = None, out: Optional = None, add: bool = False,
            states: Optional = None) -> tuple[Tensor, Tensor]:
    """Scan u [B, E, L] and gate by z; shapes as in ``ops.selective_scan``.

    Args:
        u, delta, A, B, C, D, z, bias: as there.
        softplus: whether delta passes through softplus after the bias.
        chunks: the visiting order, as in ``ops.order``.
        keep: whether the states that ``backward`` needs are returned.
        weight: [E, R]; delta is then [B, R, L], to be multiplied by it.
        out: [B, L, E] of u's type, where y goes; not for float16.
        add: y is added to what ``out`` holds.
        states: where the second result goes.

    Returns:
        y [B, E, L] of u's type, its memory [B, L, E]; and the state before each piece of the
        sequence [B, pieces, N, E], of no pieces unless ``keep``.
    """
    given = _Inputs(u, delta, A, B, C, D, z, bias, weight)
    pieces = -(-given.length // STEPS) if keep else 0
    y = out
    if y is None:
        y = torch.empty(given.batch, given.length, given.channels, dtype=stored_dtype(u))
    if states is None:
        states = torch.empty(given.batch, pieces, given.states, given.channels, dtype=given.dtype)
    results = (array(y), states.numpy())

    def work(task: Task) -> None:
        scratch = given.scratch(task, scan_kernels.scratch_size)
        call(scan_kernels.scan_forward, given.dtype, (*given.arrays, *results, scratch),
             (softplus, chunks, add, *task[:4]))

    run_tasks(work, given.tasks, name="scan_kernel")
    return y.to(u.dtype).transpose(1, 2), states


def backward(dy: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional,
             z: Optional, bias: Optional, states: Tensor, *, softplus: bool, chunks: int,
             weight: Optional = None, outs: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
             add: bool = False) -> tuple[Tensor, ...]:
    """Gradients of u, delta, A, B, C, D, z and bias, each of its input's shape and type.

    The gradient of an input that was not given is an empty tensor.

    Args:
        dy, u, delta, A, B, C, D, z, bias, states, softplus, chunks: as in ``forward``.
        weight: as in ``forward``; its gradient is returned last.
        outs: with a weight, where the gradients of z [B, L, E], B and C [B, L, N] and delta
            [B, L, R] go; not for float16.
        add: that of z is added to what is there.
    """
    given = _Inputs(u, delta, A, B, C, D, z, bias, weight)
    batch, channels, length = u.shape
    groups = 1 + max(task.group for task in given.tasks)

    def empty(*shape: int, like: Optional = None) -> Tensor:
        return torch.empty(shape, dtype=given.dtype if like is None else stored_dtype(like))

    du, dweight = empty(batch, length, channels, like=u), empty(batch, given.rank, channels)
    ddelta = empty(batch, length, 0 if given.rank else channels, like=delta)
    dA, dD = empty(batch, A.shape[1], channels), empty(batch, channels)
    dbias = empty(batch, channels)
    dz = empty(0, 0, 0) if z is None else empty(batch, length, channels, like=z)
    if outs is not None:
        dz = outs[0]
    if outs is not None and groups == 1:
        dB, dC, dfactor = (x[None] for x in outs[1:])
    else:
        dB, dC, dfactor = (empty(groups, batch, length, n)
                           for n in (A.shape[1], A.shape[1], given.rank))
    results = [array(x) for x in (du, ddelta, dfactor, dA, dB, dC, dD, dz, dbias, dweight)]
    read = (*given.arrays, states.numpy(), rows(dy, given.dtype))

    def work(task: Task) -> None:
        scratch = given.scratch(task, scan_adjoint.scratch_size)
        call(scan_adjoint.scan_backward, given.dtype, (*read, *results, scratch),
             (softplus, chunks, add, *task))

    run_tasks(work, given.tasks, name="scan_kernel")

    def summed(x: Tensor) -> Tensor:
        # Not torch's sum: waking OpenMP beside our threads costs more than the addition.
        total, *others = x.numpy()
        for other in others:
            total += other
        return x[0]

    def like(x: Optional, grad: Tensor) -> Tensor:
        return grad.new_empty(0) if x is None else grad.to(x.dtype)

    if outs is None:
        dB, dC = like(B, summed(dB).transpose(1, 2)), like(C, summed(dC).transpose(1, 2))
    elif groups > 1:
        for out, parts in zip(outs[1:], (dB, dC, dfactor), strict=True):
            out.copy_(summed(parts))
    gradients = (du.to(u.dtype).transpose(1, 2), ddelta.to(delta.dtype).transpose(1, 2),
                 like(A, summed(dA).t()), dB, dC, like(D, summed(dD)), like(z, dz.transpose(1, 2)),
                 like(bias, summed(dbias)))
    return gradients if weight is None else (*gradients, like(weight, summed(dweight).t()))
