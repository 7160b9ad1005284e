"""The selective scan on a CPU: tensors in, numba kernels over our own threads, tensors out."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tokenunify_scale.ops import scan_adjoint, scan_kernels
from tokenunify_scale.ops.kernels import (
    Task,
    compiled,
    computing_dtype,
    lanes_for,
    rows,
    run_tasks,
    split,
)
from tokenunify_scale.ops.order import STEPS

Optional = Tensor | None


class _Inputs:
    """The arguments of a scan as the kernels want them: [B, L, E] arrays of one precision."""

    def __init__(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional,
                 z: Optional, bias: Optional) -> None:
        self.dtype = dtype = computing_dtype(u)
        self.batch, self.channels, self.length = u.shape
        self.states = A.shape[1]
        nothing = torch.zeros(self.channels, dtype=dtype)
        self.arrays = (
            rows(u, dtype), rows(delta, dtype),
            (A.to(dtype) * scan_kernels.LOG2E).t().contiguous().numpy(),
            B.to(dtype).transpose(1, 2).numpy(), C.to(dtype).transpose(1, 2).numpy(),
            (nothing if D is None else D.to(dtype).contiguous()).numpy(),
            torch.empty(0, 0, 0, dtype=dtype).numpy() if z is None else rows(z, dtype),
            (nothing if bias is None else bias.to(dtype).contiguous()).numpy(),
        )
        self.tasks = split(self.batch, self.channels, self.length, lanes=lanes_for(dtype))

    def scratch(self, task: Task, size: Callable[[int, int, int], int]) -> np.ndarray:
        """Aligned memory for one task; ``size`` takes vectors of channels, states and lanes."""
        width = lanes_for(self.dtype).width
        vectors = -(-(task.e_stop - task.e_first) // width)
        return torch.empty(size(vectors, self.states, width), dtype=self.dtype).numpy()


def forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional, z: Optional,
            bias: Optional, *, softplus: bool, chunks: int, keep: bool) -> tuple[Tensor, Tensor]:
    """Scan u [B, E, L] and gate by z; shapes as in ``ops.selective_scan``.

    Returns:
        y [B, E, L] of u's type, its memory [B, L, E]; and the state before each piece of the
        sequence [B, pieces, N, E], of no pieces unless ``keep``.
    """
    given = _Inputs(u, delta, A, B, C, D, z, bias)
    pieces = -(-given.length // STEPS) if keep else 0
    y = torch.empty(given.batch, given.length, given.channels, dtype=given.dtype)
    states = torch.empty(given.batch, pieces, given.states, given.channels, dtype=given.dtype)
    kernel = compiled(scan_kernels.scan_forward, given.dtype, integers=6, arrays=(
        3, 3, 2, 3, 3, 1, 3, 1, 3, 4, 1))

    def work(task: Task) -> None:
        scratch = given.scratch(task, scan_kernels.scratch_size)
        kernel(*given.arrays, y.numpy(), states.numpy(), scratch, softplus, chunks, *task[:4])

    run_tasks(work, given.tasks)
    return y.to(u.dtype).transpose(1, 2), states


def backward(dy: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional,
             z: Optional, bias: Optional, states: Tensor, *, softplus: bool,
             chunks: int) -> tuple[Tensor, ...]:
    """Gradients of u, delta, A, B, C, D, z and bias, each of its input's shape and type.

    The gradient of an input that was not given is an empty tensor.
    """
    given = _Inputs(u, delta, A, B, C, D, z, bias)
    batch, channels, length = u.shape
    groups = 1 + max(task.group for task in given.tasks)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=given.dtype)

    du, ddelta = empty(batch, length, channels), empty(batch, length, channels)
    dz = empty(0, 0, 0) if z is None else empty(batch, length, channels)
    dA, dD = empty(batch, A.shape[1], channels), empty(batch, channels)
    dbias = empty(batch, channels)
    dB, dC = empty(groups, batch, length, A.shape[1]), empty(groups, batch, length, A.shape[1])
    results = [x.numpy() for x in (du, ddelta, dA, dB, dC, dD, dz, dbias)]
    dy_rows = rows(dy, given.dtype)
    kernel = compiled(scan_adjoint.scan_backward, given.dtype, integers=7, arrays=(
        3, 3, 2, 3, 3, 1, 3, 1, 4, 3, 3, 3, 3, 4, 4, 2, 3, 2, 1))

    def work(task: Task) -> None:
        scratch = given.scratch(task, scan_adjoint.scratch_size)
        kernel(*given.arrays, states.numpy(), dy_rows, *results, scratch, softplus, chunks, *task)

    run_tasks(work, given.tasks)

    def summed(x: Tensor) -> Tensor:
        # Not torch's sum: waking OpenMP beside our threads costs more than the addition.
        return x[0] if len(x) == 1 else torch.from_numpy(x.numpy().sum(0))

    def like(x: Optional, grad: Tensor) -> Tensor:
        return grad.new_empty(0) if x is None else grad.to(x.dtype)

    return (du.to(u.dtype).transpose(1, 2), ddelta.to(delta.dtype).transpose(1, 2),
            like(A, summed(dA).t()), like(B, summed(dB).transpose(1, 2)),
            like(C, summed(dC).transpose(1, 2)), like(D, summed(dD)),
            like(z, dz.transpose(1, 2)), like(bias, summed(dbias)))
