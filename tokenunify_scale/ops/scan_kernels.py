"""The selective scan, forward: one vector holds neighbouring channels, state stays in registers.

Arrays are [B, L, E] with channels contiguous. The sequence is cut into pieces of ``STEPS``; the
state before each piece is kept, and the backward pass (``scan_adjoint``) recomputes within a
piece, so memory is O(B E L). Steps are visited in the order of ``chunks`` (see ``ops.order``)
without moving data. A piece is walked once for every ``BLOCK`` states, which stay in registers;
what a step needs stays in the first cache. States are padded to whole blocks with zeros.

Step sizes come as they are, or as a product: ``delta`` [B, L, R] with ``weight`` [E, R] is made
here, where it costs R multiply-adds instead of an array as large as the input. R = 0 is neither.

Scratch memory holds vectors unless said, of w numbers each:
    own       for each vector of channels: HEADER numbers, rates [N], what the pass carries, and
              the weight [R]
    inputs    [STEPS, FIELDS]: step size, its product with the input, output, and more
    columns   B [STEPS, N], C [STEPS, N], then factors of step sizes [STEPS, R]: plain numbers
"""

import math

import numpy as np
from numba.extending import register_jitable

from tokenunify_scale.ops.kernels import position
from tokenunify_scale.ops.order import STEPS
from tokenunify_scale.ops.simd import Lanes, Pointer, Vector, width
from tokenunify_scale.ops.simd_math import (
    exp2,
    exp2_product,
    fill,
    larger,
    moderate,
    sigmoid,
    softplus,
)
from tokenunify_scale.ops.simd_memory import (
    at,
    beyond,
    load,
    load_some,
    number,
    peek,
    poke,
    prefetch,
    store,
    store_some,
)

LOG2E = math.log2(math.e)
BLOCK = 4
"""States that a walk over a piece keeps in registers."""
LIMIT, SKIP, SHIFT, SKIP_SUM, SHIFT_SUM, HEADER = range(6)
STEP, INPUT, OUT, SLOPE, GRAD, TO_INPUT, TO_RATE, GATE, FIELDS = range(9)


@register_jitable
def padded(states: int) -> int:
    """States in whole blocks."""
    return (states + BLOCK - 1) // BLOCK * BLOCK


def scratch_size(vectors: int, states: int, rank: int, lanes: int) -> int:
    """Numbers of scratch memory that ``scan_forward`` needs for so many vectors of channels."""
    n = padded(states)
    own = HEADER + 2 * n + rank
    return (vectors * own + FIELDS * STEPS) * lanes + STEPS * (2 * n + rank)


@register_jitable
def load_channels(lanes: Lanes, own: Pointer, carried: int, A: np.ndarray, D: np.ndarray,
                  bias: np.ndarray, weight: np.ndarray, e: int, count: int) -> None:
    """Rates, to the base 2, and weights of one vector of channels; the largest of its rates."""
    w, limit = width(lanes), fill(lanes, 0.0)
    for n in range(padded(A.shape[1])):
        store(own, (HEADER + n) * w, limit)
        if n < A.shape[1]:
            for lane in range(min(w, count)):
                poke(own, (HEADER + n) * w + lane, number(lanes, LOG2E * A[e + lane, n]))
    for r in range(weight.shape[1]):
        place = (HEADER + padded(A.shape[1]) + carried + r) * w
        store(own, place, limit)
        for lane in range(min(w, count)):
            poke(own, place + lane, number(lanes, weight[e + lane, r]))
    for n in range(A.shape[1]):
        limit = larger(limit, load(lanes, own, (HEADER + n) * w))
    store(own, LIMIT * w, limit)
    store(own, SKIP * w, load_some(lanes, at(D, (e,)), count))
    store(own, SHIFT * w, load_some(lanes, at(bias, (e,)), count))


@register_jitable
def load_columns(lanes: Lanes, columns: Pointer, places: np.ndarray, B: np.ndarray, C: np.ndarray,
                 delta: np.ndarray, rank: int, b: int, first: int, steps: int, ahead: int,
                 chunks: int) -> None:
    """Positions of the steps of a piece and the one ``ahead``; B, C and factors of steps there."""
    n_states, row = B.shape[2], padded(B.shape[2])
    for k in range(STEPS):
        after = first + k + ahead
        places[STEPS + k] = position(min(max(after, 0), B.shape[1] - 1), B.shape[1], chunks)
    to_b, to_c = B.strides[2] // B.itemsize, C.strides[2] // C.itemsize
    for k in range(steps):
        p = position(first + k, B.shape[1], chunks)
        places[k] = p
        for n in range(n_states):
            poke(columns, k * row + n, number(lanes, peek(at(B, (b, p, 0)), n * to_b)))
            poke(columns, (STEPS + k) * row + n, number(lanes, peek(at(C, (b, p, 0)), n * to_c)))
        for r in range(rank):
            poke(columns, 2 * STEPS * row + k * rank + r, number(lanes, delta[b, p, r]))
        for n in range(n_states, row):
            poke(columns, k * row + n, number(lanes, 0.0))
            poke(columns, (STEPS + k) * row + n, number(lanes, 0.0))


@register_jitable
def load_inputs(lanes: Lanes, inputs: Pointer, own: Pointer, weights: Pointer, factors: Pointer,
                rank: int, places: np.ndarray, u: np.ndarray, delta: np.ndarray, b: int, steps: int,
                e: int, count: int, softplus_delta: bool, slopes: bool) -> bool:
    """Step sizes and inputs of a piece, outputs without state; returns whether exp2 is safe.

    ``slopes``: those of softplus, too.
    """
    w, safe = width(lanes), True
    limit, shift = load(lanes, own, LIMIT * w), load(lanes, own, SHIFT * w)
    skip = load(lanes, own, SKIP * w)
    for k in range(steps):
        prefetch(at(u, (b, places[STEPS + k], e)))
        raw = shift
        if rank == 0:
            prefetch(at(delta, (b, places[STEPS + k], e)))
            raw = raw + load_some(lanes, at(delta, (b, places[k], e)), count)
        for r in range(rank):
            raw = raw + load(lanes, weights, r * w) * peek(factors, k * rank + r)
        dt = raw
        if softplus_delta:
            dt = softplus(raw)
            if slopes:
                store(inputs, (FIELDS * k + SLOPE) * w, sigmoid(raw))
        x = load_some(lanes, at(u, (b, places[k], e)), count)
        store(inputs, (FIELDS * k + STEP) * w, dt)
        store(inputs, (FIELDS * k + INPUT) * w, dt * x)
        store(inputs, (FIELDS * k + OUT) * w, skip * x)
        safe = safe and moderate(dt * limit)
    return safe


@register_jitable
def decays(lanes: Lanes, dt: Vector, r0: Vector, r1: Vector, r2: Vector, r3: Vector,
           safe: bool) -> tuple[Vector, Vector, Vector, Vector]:
    """2**(dt r) of a block of rates."""
    if safe:
        return (exp2_product(dt, r0), exp2_product(dt, r1), exp2_product(dt, r2),
                exp2_product(dt, r3))
    return exp2(dt * r0), exp2(dt * r1), exp2(dt * r2), exp2(dt * r3)


@register_jitable
def load_block(lanes: Lanes, pointer: Pointer,
               first: int) -> tuple[Vector, Vector, Vector, Vector]:
    """The vectors of a block of states."""
    w = width(lanes)
    return (load(lanes, pointer, first * w), load(lanes, pointer, (first + 1) * w),
            load(lanes, pointer, (first + 2) * w), load(lanes, pointer, (first + 3) * w))


@register_jitable
def store_block(lanes: Lanes, pointer: Pointer, first: int, a: Vector, b: Vector, c: Vector,
                d: Vector) -> None:
    """The inverse of ``load_block``."""
    w = width(lanes)
    store(pointer, first * w, a)
    store(pointer, (first + 1) * w, b)
    store(pointer, (first + 2) * w, c)
    store(pointer, (first + 3) * w, d)


@register_jitable
def _advance(lanes: Lanes, inputs: Pointer, own: Pointer, columns: Pointer, row: int, first: int,
             steps: int, safe: bool) -> None:
    """The recurrence of a block of states over a piece: states move on, outputs add up."""
    w = width(lanes)
    r0, r1, r2, r3 = load_block(lanes, own, HEADER + first)
    h0, h1, h2, h3 = load_block(lanes, own, HEADER + row + first)
    for k in range(steps):
        dt = load(lanes, inputs, (FIELDS * k + STEP) * w)
        dtx = load(lanes, inputs, (FIELDS * k + INPUT) * w)
        d0, d1, d2, d3 = decays(lanes, dt, r0, r1, r2, r3, safe)
        i, j = k * row + first, (STEPS + k) * row + first
        h0 = d0 * h0 + dtx * peek(columns, i)
        h1 = d1 * h1 + dtx * peek(columns, i + 1)
        h2 = d2 * h2 + dtx * peek(columns, i + 2)
        h3 = d3 * h3 + dtx * peek(columns, i + 3)
        out = load(lanes, inputs, (FIELDS * k + OUT) * w) + h0 * peek(columns, j)
        out = out + h2 * peek(columns, j + 2)
        rest = h1 * peek(columns, j + 1) + h3 * peek(columns, j + 3)
        store(inputs, (FIELDS * k + OUT) * w, out + rest)
    store_block(lanes, own, HEADER + row + first, h0, h1, h2, h3)


def scan_forward(lanes: Lanes, u: np.ndarray, delta: np.ndarray, A: np.ndarray, B: np.ndarray,
                 C: np.ndarray, D: np.ndarray, z: np.ndarray, bias: np.ndarray, weight: np.ndarray,
                 y: np.ndarray, states: np.ndarray, scratch: np.ndarray, softplus_delta: bool,
                 chunks: int, add: bool, b_first: int, b_stop: int, e_first: int,
                 e_stop: int) -> None:
    """y of channels [e_first, e_stop) of batch rows [b_first, b_stop).

    ``z`` and ``states`` [B, pieces, N, E] may be of length 0. ``add``: to what y holds.
    """
    w, n_states, rank = width(lanes), A.shape[1], weight.shape[1]
    row = padded(n_states)
    vectors = (e_stop - e_first + w - 1) // w
    block = (HEADER + 2 * row + rank) * w
    inputs = at(scratch, (vectors * block,))
    columns = at(scratch, (vectors * block + FIELDS * STEPS * w,))
    factors = beyond(columns, 2 * STEPS * row)
    places = np.empty(2 * STEPS, np.intp)
    for v in range(vectors):
        e = e_first + v * w
        load_channels(lanes, at(scratch, (v * block,)), row, A, D, bias, weight, e, e_stop - e)
    for b in range(b_first, b_stop):
        for v in range(vectors):
            for n in range(row):
                store(at(scratch, (v * block,)), (HEADER + row + n) * w, fill(lanes, 0.0))
        for first in range(0, u.shape[1], STEPS):
            steps = min(STEPS, u.shape[1] - first)
            load_columns(lanes, columns, places, B, C, delta, rank, b, first, steps, STEPS, chunks)
            for v in range(vectors):
                e, own = e_first + v * w, at(scratch, (v * block,))
                count = e_stop - e
                if states.shape[1] > 0:
                    after = min(first // STEPS + 1, states.shape[1] - 1)
                    for n in range(n_states):
                        prefetch(at(states, (b, after, n, e)))
                        store_some(at(states, (b, first // STEPS, n, e)), count,
                                   load(lanes, own, (HEADER + row + n) * w))
                weights = beyond(own, (HEADER + 2 * row) * w)
                safe = load_inputs(lanes, inputs, own, weights, factors, rank, places, u, delta, b,
                                   steps, e, count, softplus_delta, False)
                for n in range(0, row, BLOCK):
                    _advance(lanes, inputs, own, columns, row, n, steps, safe)
                for k in range(steps):
                    out = load(lanes, inputs, (FIELDS * k + OUT) * w)
                    prefetch(at(y, (b, places[STEPS + k], e)))
                    if z.shape[1] > 0:
                        prefetch(at(z, (b, places[STEPS + k], e)))
                        gate = load_some(lanes, at(z, (b, places[k], e)), count)
                        out = out * (gate * sigmoid(gate))
                    if add:
                        out = out + load_some(lanes, at(y, (b, places[k], e)), count)
                    store_some(at(y, (b, places[k], e)), count, out)
