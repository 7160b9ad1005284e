"""Kernels of instance norm with addition and activation, for volumes with channels last.

Arrays are [B, L, W]: W is the channels of one voxel, or of as many as fill whole vectors. A kernel
takes blocks of rows, numbered through the batch, that stay in the cache; what is kept of every
block is combined in float64, so that neither a large mean nor the number of threads changes the
result.
"""

import math

import numpy as np
from llvmlite import ir
from numba.core.typing import Context
from numba.extending import intrinsic, register_jitable

from tokenunify_scale.ops.simd import Emitted, Lanes, Vector, VectorType, constant, width
from tokenunify_scale.ops.simd_math import fill
from tokenunify_scale.ops.simd_memory import at, load_some, store_some


@intrinsic
def where_positive(typingctx: Context, x: VectorType, a: VectorType, b: VectorType) -> Emitted:
    """``a`` in the lanes where x > 0, else ``b``, also where x is NaN."""

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        positive = builder.fcmp_ordered(">", args[0], constant(args[0].type, 0.0))
        return builder.select(positive, args[1], args[2])

    return x(x, a, b), codegen


@register_jitable
def _block(i: int, blocks: int, rows: int, length: int) -> tuple[int, int, int, int]:
    """Batch row, number, first row and end of the i-th block."""
    b, k = i // blocks, i % blocks
    return b, k, k * rows, min(length, k * rows + rows)


def moments(lanes: Lanes, x: np.ndarray, means: np.ndarray, squares: np.ndarray, rows: int,
            blocks: int, first: int, stop: int) -> None:
    """Mean of every block [B, blocks, W], and its sum of squared distances from that."""
    for i in range(first, stop):
        b, k, start, end = _block(i, blocks, rows, x.shape[1])
        for v in range(0, x.shape[2], width(lanes)):
            count = x.shape[2] - v
            total = fill(lanes, 0.0)
            for r in range(start, end):
                total = total + load_some(lanes, at(x, (b, r, v)), count)
            mean = total * (1.0 / (end - start))
            store_some(at(means, (b, k, v)), count, mean)
            total = fill(lanes, 0.0)
            for r in range(start, end):
                distance = load_some(lanes, at(x, (b, r, v)), count) - mean
                total = total + distance * distance
            store_some(at(squares, (b, k, v)), count, total)


def combine_moments(lanes: Lanes, means: np.ndarray, squares: np.ndarray, mean: np.ndarray,
                    scale: np.ndarray, numbers: np.ndarray, rows: int, length: int) -> None:
    """Mean and 1 / sqrt(variance + numbers[0]) of every channel [B, C], of all its blocks."""
    channels, wide = mean.shape[1], means.shape[2]
    voxels = length * (wide // channels)
    for b in range(len(mean)):
        for c in range(channels):
            total, spread = 0.0, 0.0  # in float64, whatever the arrays hold
            for k in range(means.shape[1]):
                for j in range(c, wide, channels):
                    total += means[b, k, j] * float(min(rows, length - k * rows))
            centre = total / voxels
            for k in range(means.shape[1]):
                for j in range(c, wide, channels):
                    away = means[b, k, j] - centre
                    spread += squares[b, k, j] + away * away * min(rows, length - k * rows)
            mean[b, c] = centre
            scale[b, c] = 1.0 / math.sqrt(spread / voxels + numbers[0])


def normalise(lanes: Lanes, x: np.ndarray, other: np.ndarray, mean: np.ndarray, scale: np.ndarray,
              slope: np.ndarray, y: np.ndarray, rows: int, blocks: int, adds: bool,
              activates: bool, first: int, stop: int) -> None:
    """y = (x - mean) scale, plus ``other``, then times slope[0] where negative."""
    leak = slope[0]
    for i in range(first, stop):
        b, _, start, end = _block(i, blocks, rows, x.shape[1])
        for v in range(0, x.shape[2], width(lanes)):
            count = x.shape[2] - v
            m = load_some(lanes, at(mean, (b, v)), count)
            s = load_some(lanes, at(scale, (b, v)), count)
            for r in range(start, end):
                out = (load_some(lanes, at(x, (b, r, v)), count) - m) * s
                if adds:
                    out = out + load_some(lanes, at(other, (b, r, v)), count)
                if activates:
                    out = where_positive(out, out, out * leak)
                store_some(at(y, (b, r, v)), count, out)


@register_jitable
def _before_activation(dy: Vector, judge: Vector, leak: float, activates: bool) -> Vector:
    """The gradient before the activation, whose input has the sign of ``judge``."""
    return where_positive(judge, dy, dy * leak) if activates else dy


def gradient_sums(lanes: Lanes, dy: np.ndarray, x: np.ndarray, y: np.ndarray, mean: np.ndarray,
                  scale: np.ndarray, slope: np.ndarray, plain: np.ndarray, crossed: np.ndarray,
                  rows: int, blocks: int, adds: bool, activates: bool, first: int,
                  stop: int) -> None:
    """Of every block [B, blocks, W]: the sum of the gradient, and of it times normalised x."""
    leak = slope[0]
    for i in range(first, stop):
        b, k, start, end = _block(i, blocks, rows, x.shape[1])
        for v in range(0, x.shape[2], width(lanes)):
            count = x.shape[2] - v
            m = load_some(lanes, at(mean, (b, v)), count)
            s = load_some(lanes, at(scale, (b, v)), count)
            total, product = fill(lanes, 0.0), fill(lanes, 0.0)
            for r in range(start, end):
                normal = (load_some(lanes, at(x, (b, r, v)), count) - m) * s
                judge = load_some(lanes, at(y, (b, r, v)), count) if adds else normal
                grad = _before_activation(load_some(lanes, at(dy, (b, r, v)), count), judge, leak,
                                          activates)
                total, product = total + grad, product + grad * normal
            store_some(at(plain, (b, k, v)), count, total)
            store_some(at(crossed, (b, k, v)), count, product)


def gradients(lanes: Lanes, dy: np.ndarray, x: np.ndarray, y: np.ndarray, mean: np.ndarray,
              scale: np.ndarray, slope: np.ndarray, plain: np.ndarray, crossed: np.ndarray,
              dx: np.ndarray, dother: np.ndarray, rows: int, blocks: int, adds: bool,
              activates: bool, first: int, stop: int) -> None:
    """Gradients of x and ``other``; ``plain`` and ``crossed`` [B, W] are now means."""
    leak = slope[0]
    for i in range(first, stop):
        b, _, start, end = _block(i, blocks, rows, x.shape[1])
        for v in range(0, x.shape[2], width(lanes)):
            count = x.shape[2] - v
            m = load_some(lanes, at(mean, (b, v)), count)
            s = load_some(lanes, at(scale, (b, v)), count)
            p = load_some(lanes, at(plain, (b, v)), count)
            c = load_some(lanes, at(crossed, (b, v)), count)
            for r in range(start, end):
                normal = (load_some(lanes, at(x, (b, r, v)), count) - m) * s
                judge = load_some(lanes, at(y, (b, r, v)), count) if adds else normal
                grad = _before_activation(load_some(lanes, at(dy, (b, r, v)), count), judge, leak,
                                          activates)
                if adds:
                    store_some(at(dother, (b, r, v)), count, grad)
                store_some(at(dx, (b, r, v)), count, (grad - p - normal * c) * s)


def combine_sums(lanes: Lanes, partial: np.ndarray, mean: np.ndarray, voxels: int) -> None:
    """Means [B, W] over a channel's voxels from sums of blocks, repeated for every voxel of a row.

    Rows hold as lanes voxels of all channels as ``mean`` [B, fold, C] has.
    """
    for b in range(len(mean)):
        for c in range(mean.shape[2]):
            total = 0.0
            for k in range(partial.shape[1]):
                for j in range(mean.shape[1]):
                    total += partial[b, k, j * mean.shape[2] + c]
            for j in range(mean.shape[1]):
                mean[b, j, c] = total / voxels
