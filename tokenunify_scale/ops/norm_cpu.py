"""Instance norm with addition and activation on a CPU: how kernels meet tensors and threads."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tokenunify_scale.ops.kernels import (
    Task,
    as_stored,
    call,
    computing_dtype,
    lanes_for,
    run_tasks,
    split,
    stored_dtype,
)
from tokenunify_scale.ops.norm_kernels import (
    combine_moments,
    combine_sums,
    gradient_sums,
    gradients,
    moments,
    normalise,
)

BLOCK = 16384
"""Numbers a block should hold to stay in a cache; fewer blocks are combined faster."""
LEAST_ROWS = 64
"""Rows of a block at least: what is kept of every block must stay small."""


class Plan:
    """How a volume [B, C, *sides] is read as rows and blocks, and spread over threads."""

    def __init__(self, x: Tensor) -> None:
        """Fold several voxels into a row where that fills whole vectors."""
        self.dtype = computing_dtype(x)
        lanes = lanes_for(self.dtype)
        self.batch, self.channels, *sides = x.shape
        self.voxels = math.prod(sides)
        fold = lanes.width // math.gcd(self.channels, lanes.width)
        self.fold = fold if self.voxels % fold == 0 else 1
        self.length, self.wide = self.voxels // self.fold, self.fold * self.channels
        self.rows = max(LEAST_ROWS, BLOCK // self.wide)
        self.blocks = -(-self.length // self.rows)
        self.tasks = split(self.batch * self.blocks, lanes.width,
                           self.rows * self.wide // lanes.width, lanes=lanes)

    def read(self, x: Tensor) -> np.ndarray:
        """[B, C, *sides] as an array [B, L, W]; a view where the memory allows."""
        last = x.movedim(1, -1).contiguous()
        return as_stored(last.view(self.batch, self.length, self.wide), self.dtype)

    def spread(self, values: Tensor) -> np.ndarray:
        """One value a channel [B, C], repeated to [B, W]."""
        return values.repeat(1, self.fold).numpy()

    def empty(self, *shape: int) -> np.ndarray:
        """Memory for numbers to compute with, of every item of the batch."""
        return np.empty((self.batch, *shape), lanes_for(self.dtype).dtype)

    def numbers(self, *values: float) -> np.ndarray:
        """What kernels take as fractions."""
        return np.array(values, lanes_for(self.dtype).dtype)

    def run(self, kernel: Callable, *arrays: np.ndarray, flags: tuple[bool, ...] = ()) -> None:
        """Run a kernel over all blocks."""

        def work(task: Task) -> None:
            call(kernel, self.dtype, arrays,
                 (self.rows, self.blocks, *flags, task.b_first, task.b_stop))

        run_tasks(work, self.tasks, name="norm_kernel")


def forward(x: Tensor, other: Tensor | None, slope: float | None,
            eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The result in x's type and memory layout, and mean and scale [B, C] of every channel."""
    plan = Plan(x)
    given = plan.read(x)
    means, squares = (plan.empty(plan.blocks, plan.wide) for _ in range(2))
    plan.run(moments, given, means, squares)
    mean, scale = (torch.empty(x.shape[:2], dtype=plan.dtype) for _ in range(2))
    call(combine_moments, plan.dtype, (means, squares, mean.numpy(), scale.numpy(),
                                       plan.numbers(eps)), (plan.rows, plan.length))
    y = torch.empty_like(x, dtype=stored_dtype(x))
    plan.run(normalise, given, given if other is None else plan.read(other), plan.spread(mean),
             plan.spread(scale), plan.numbers(slope or 0.0), plan.read(y),
             flags=(other is not None, slope is not None))
    return y.to(x.dtype), mean, scale


def backward(dy: Tensor, x: Tensor, y: Tensor | None, mean: Tensor, scale: Tensor,
             slope: float | None) -> tuple[Tensor, Tensor]:
    """Gradients of x, and of what was added to it (empty unless ``y``, the result, is given)."""
    plan, flags = Plan(x), (y is not None, slope is not None)
    given = plan.read(x)
    arrays = (plan.read(dy), given, given if y is None else plan.read(y), plan.spread(mean),
              plan.spread(scale), plan.numbers(slope or 0.0))
    sums = [plan.empty(plan.blocks, plan.wide) for _ in range(2)]
    plan.run(gradient_sums, *arrays, *sums, flags=flags)
    means = [plan.empty(plan.fold, plan.channels) for _ in range(2)]
    for partial, mean_of_all in zip(sums, means, strict=True):
        call(combine_sums, plan.dtype, (partial, mean_of_all), (plan.voxels,))
    dx = torch.empty_like(x, dtype=stored_dtype(x))
    dother = dx.new_empty(0) if y is None else torch.empty_like(dx)
    plan.run(gradients, *arrays, *(m.reshape(plan.batch, plan.wide) for m in means),
             plan.read(dx), given if y is None else plan.read(dother), flags=flags)
    return dx.to(x.dtype), dother.to(x.dtype)
