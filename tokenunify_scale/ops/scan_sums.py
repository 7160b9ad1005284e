"""The selective scan, backward: sums over channels, the gradients of B, C and factors of steps."""

import numpy as np
from numba.extending import register_jitable

from tokenunify_scale.ops.scan_kernels import BLOCK, FIELDS, TO_RATE, load_block
from tokenunify_scale.ops.simd import Lanes, Pointer, width
from tokenunify_scale.ops.simd_math import fill
from tokenunify_scale.ops.simd_memory import at, beyond, load, peek, poke, store
from tokenunify_scale.ops.simd_totals import EIGHT, add_totals, finish_totals


@register_jitable
def factor(lanes: Lanes, inputs: Pointer, weights: Pointer, factors: Pointer, sums: Pointer,
            rank: int, steps: int) -> None:
    """From gradients of step sizes to those of their factors, and of the weight beside it."""
    w = width(lanes)
    for r in range(rank):
        weight, total = load(lanes, weights, r * w), fill(lanes, 0.0)
        for k in range(steps):
            grad, i = load(lanes, inputs, (FIELDS * k + TO_RATE) * w), k * rank + r
            total = total + grad * peek(factors, i)
            store(sums, i * w, load(lanes, sums, i * w) + grad * weight)
        store(weights, (rank + r) * w, load(lanes, weights, (rank + r) * w) + total)


@register_jitable
def store_factors(lanes: Lanes, sums: Pointer, totals: Pointer, places: np.ndarray,
                   ddelta: np.ndarray, group: int, b: int, steps: int, rank: int) -> None:
    """Gradients of factors of a piece; ``totals`` is free memory."""
    w = width(lanes)
    for i in range(0, steps * rank, EIGHT):
        for j in range(0, max(EIGHT, w), w):
            store(totals, j, fill(lanes, 0.0))
        v0, v1, v2, v3 = load_block(lanes, sums, i)
        v4, v5, v6, v7 = load_block(lanes, sums, i + BLOCK)
        add_totals(lanes, totals, v0, v1, v2, v3, v4, v5, v6, v7)
        finish_totals(lanes, totals)
        for j in range(min(EIGHT, steps * rank - i)):
            place = at(ddelta, (group, b, places[(i + j) // rank], (i + j) % rank))
            poke(place, 0, peek(totals, j))


@register_jitable
def store_columns(lanes: Lanes, sums: Pointer, places: np.ndarray, dB: np.ndarray, dC: np.ndarray,
                   group: int, b: int, steps: int, row: int) -> None:
    """Gradients of B and C of a piece, and sums back to zero."""
    size = max(EIGHT, width(lanes))
    for k in range(steps):
        for block in range(row // BLOCK):
            own = beyond(sums, (k * (row // BLOCK) + block) * size)
            finish_totals(lanes, own)
            to_b = at(dB, (group, b, places[k], BLOCK * block))
            to_c = at(dC, (group, b, places[k], BLOCK * block))
            for n in range(min(BLOCK, dB.shape[3] - BLOCK * block)):
                poke(to_b, n, peek(own, n))
                poke(to_c, n, peek(own, BLOCK + n))
