"""The selective scan, backward: states and decays of a piece are recomputed, then walked back.

Scratch memory holds what ``scan_kernels`` says, and also
    saved     states [STEPS + 1, BLOCK], then decays [STEPS, BLOCK], of one block of states
    sums      [STEPS, N / BLOCK] times max(8, w) numbers: gradients of B and C, summed over channels
    factors   [STEPS, R]: gradients of factors of step sizes, summed over vectors of channels
"""

import numpy as np
from numba.extending import register_jitable

from tokenunify_scale.ops.order import STEPS
from tokenunify_scale.ops.scan_kernels import (
    BLOCK,
    FIELDS,
    GATE,
    GRAD,
    HEADER,
    INPUT,
    LOG2E,
    OUT,
    SHIFT_SUM,
    SKIP,
    SKIP_SUM,
    SLOPE,
    STEP,
    TO_INPUT,
    TO_RATE,
    decays,
    load_block,
    load_channels,
    load_columns,
    load_inputs,
    padded,
    store_block,
)
from tokenunify_scale.ops.scan_sums import factor, store_columns, store_factors
from tokenunify_scale.ops.simd import Lanes, Pointer, width
from tokenunify_scale.ops.simd_math import fill, sigmoid
from tokenunify_scale.ops.simd_memory import (
    at,
    beyond,
    load,
    load_some,
    peek,
    prefetch,
    store,
    store_some,
)
from tokenunify_scale.ops.simd_totals import EIGHT, add_totals

SAVED = (2 * STEPS + 1) * BLOCK


def scratch_size(vectors: int, states: int, rank: int, lanes: int) -> int:
    """Numbers of scratch memory that ``scan_backward`` needs for so many vectors of channels."""
    n = padded(states)
    own = HEADER + 3 * n + 2 * rank
    return ((vectors * own + SAVED + (FIELDS + rank) * STEPS) * lanes
            + STEPS * (n // BLOCK) * max(EIGHT, lanes) + STEPS * (2 * n + rank))


@register_jitable
def _recompute(lanes: Lanes, inputs: Pointer, own: Pointer, saved: Pointer, columns: Pointer,
               row: int, first: int, steps: int, safe: bool) -> None:
    """States and decays of a block over a piece, from the state before it, which lies in saved."""
    w = width(lanes)
    r0, r1, r2, r3 = load_block(lanes, own, HEADER + first)
    h0, h1, h2, h3 = load_block(lanes, saved, 0)
    for k in range(steps):
        dt = load(lanes, inputs, (FIELDS * k + STEP) * w)
        dtx = load(lanes, inputs, (FIELDS * k + INPUT) * w)
        d0, d1, d2, d3 = decays(lanes, dt, r0, r1, r2, r3, safe)
        i = k * row + first
        h0 = d0 * h0 + dtx * peek(columns, i)
        h1 = d1 * h1 + dtx * peek(columns, i + 1)
        h2 = d2 * h2 + dtx * peek(columns, i + 2)
        h3 = d3 * h3 + dtx * peek(columns, i + 3)
        store_block(lanes, saved, (k + 1) * BLOCK, h0, h1, h2, h3)
        store_block(lanes, saved, (STEPS + 1 + k) * BLOCK, d0, d1, d2, d3)


@register_jitable
def _retreat(lanes: Lanes, inputs: Pointer, own: Pointer, saved: Pointer, sums: Pointer,
             columns: Pointer, row: int, first: int, steps: int) -> None:
    """Walk a block of states back over a piece: ``own`` holds the adjoints and sums of rates."""
    w = width(lanes)
    stride = row // BLOCK * max(EIGHT, w)
    r0, r1, r2, r3 = load_block(lanes, own, HEADER + first)
    g0, g1, g2, g3 = load_block(lanes, own, HEADER + row + first)
    # Sums of a piece first, then of the pieces: float32 loses too much in one long sum.
    zero = fill(lanes, 0.0)
    s0, s1, s2, s3 = zero, zero, zero, zero
    h0, h1, h2, h3 = load_block(lanes, saved, steps * BLOCK)
    for k in range(steps - 1, -1, -1):
        at_k = FIELDS * k
        dt, dtx = load(lanes, inputs, (at_k + STEP) * w), load(lanes, inputs, (at_k + INPUT) * w)
        grad = load(lanes, inputs, (at_k + GRAD) * w)
        i, j = k * row + first, (STEPS + k) * row + first
        c0, c1, c2, c3 = (peek(columns, j), peek(columns, j + 1), peek(columns, j + 2),
                          peek(columns, j + 3))
        g0, g1, g2, g3 = g0 + grad * c0, g1 + grad * c1, g2 + grad * c2, g3 + grad * c3
        out = load(lanes, inputs, (at_k + OUT) * w) + h0 * c0 + h1 * c1
        store(inputs, (at_k + OUT) * w, out + (h2 * c2 + h3 * c3))
        add_totals(lanes, beyond(sums, k * stride + first // BLOCK * max(EIGHT, w)),
                   g0 * dtx, g1 * dtx, g2 * dtx, g3 * dtx,
                   grad * h0, grad * h1, grad * h2, grad * h3)
        to_input = load(lanes, inputs, (at_k + TO_INPUT) * w) + g0 * peek(columns, i)
        to_input = to_input + g1 * peek(columns, i + 1)
        more = g2 * peek(columns, i + 2) + g3 * peek(columns, i + 3)
        store(inputs, (at_k + TO_INPUT) * w, to_input + more)
        d0, d1, d2, d3 = load_block(lanes, saved, (STEPS + 1 + k) * BLOCK)
        h0, h1, h2, h3 = load_block(lanes, saved, k * BLOCK)
        g0, g1, g2, g3 = g0 * d0, g1 * d1, g2 * d2, g3 * d3
        t0, t1, t2, t3 = g0 * h0, g1 * h1, g2 * h2, g3 * h3
        to_rate = load(lanes, inputs, (at_k + TO_RATE) * w) + t0 * r0 + t1 * r1
        store(inputs, (at_k + TO_RATE) * w, to_rate + (t2 * r2 + t3 * r3))
        s0, s1, s2, s3 = s0 + t0 * dt, s1 + t1 * dt, s2 + t2 * dt, s3 + t3 * dt
    store_block(lanes, own, HEADER + row + first, g0, g1, g2, g3)
    a0, a1, a2, a3 = load_block(lanes, own, HEADER + 2 * row + first)
    store_block(lanes, own, HEADER + 2 * row + first, a0 + s0, a1 + s1, a2 + s2, a3 + s3)


@register_jitable
def _load_gradients(lanes: Lanes, inputs: Pointer, places: np.ndarray, z: np.ndarray,
                    dy: np.ndarray, du: np.ndarray, ddelta: np.ndarray, dz: np.ndarray, b: int,
                    steps: int, e: int, count: int, rank: int) -> None:
    """Gradients of the outputs before the gate, and how far the gate is open."""
    w = width(lanes)
    for k in range(steps):
        after = places[STEPS + k]
        prefetch(at(dy, (b, after, e)))
        prefetch(at(du, (b, after, e)))
        if rank == 0:
            prefetch(at(ddelta, (b, after, e)))
        grad = load_some(lanes, at(dy, (b, places[k], e)), count)
        if z.shape[1] > 0:
            prefetch(at(z, (b, after, e)))
            prefetch(at(dz, (b, after, e)))
            gate = load_some(lanes, at(z, (b, places[k], e)), count)
            opening = sigmoid(gate)
            store(inputs, (FIELDS * k + GATE) * w, opening)
            grad = grad * (gate * opening)
        store(inputs, (FIELDS * k + GRAD) * w, grad)
        store(inputs, (FIELDS * k + TO_INPUT) * w, fill(lanes, 0.0))
        store(inputs, (FIELDS * k + TO_RATE) * w, fill(lanes, 0.0))


@register_jitable
def _store_gradients(lanes: Lanes, inputs: Pointer, own: Pointer, places: np.ndarray,
                     u: np.ndarray, z: np.ndarray, dy: np.ndarray, du: np.ndarray,
                     ddelta: np.ndarray, dz: np.ndarray, b: int, steps: int, e: int, count: int,
                     rank: int, softplus_delta: bool, add: bool) -> None:
    """Gradients of one vector of channels over a piece; ``add``: dz to what is there.

    Those of step sizes stay in ``inputs`` where the steps are products.
    """
    w = width(lanes)
    skip = load(lanes, own, SKIP * w)
    skip_sum, shift_sum = fill(lanes, 0.0), fill(lanes, 0.0)
    for k in range(steps):
        p, at_k = places[k], FIELDS * k
        dt, grad = load(lanes, inputs, (at_k + STEP) * w), load(lanes, inputs, (at_k + GRAD) * w)
        x = load_some(lanes, at(u, (b, p, e)), count)
        to_input = load(lanes, inputs, (at_k + TO_INPUT) * w)
        to_delta = load(lanes, inputs, (at_k + TO_RATE) * w) * (1.0 / LOG2E) + to_input * x
        if softplus_delta:
            to_delta = to_delta * load(lanes, inputs, (at_k + SLOPE) * w)
        store_some(at(du, (b, p, e)), count, to_input * dt + skip * grad)
        if rank == 0:
            store_some(at(ddelta, (b, p, e)), count, to_delta)
        store(inputs, (at_k + TO_RATE) * w, to_delta)
        if z.shape[1] > 0:
            gate = load_some(lanes, at(z, (b, p, e)), count)
            opening = load(lanes, inputs, (at_k + GATE) * w)
            slope = opening + gate * opening * (1.0 - opening)
            gated = load_some(lanes, at(dy, (b, p, e)), count)
            to_gate = gated * slope * load(lanes, inputs, (at_k + OUT) * w)
            if add:
                to_gate = to_gate + load_some(lanes, at(dz, (b, p, e)), count)
            store_some(at(dz, (b, p, e)), count, to_gate)
        skip_sum, shift_sum = skip_sum + grad * x, shift_sum + to_delta
    store(own, SKIP_SUM * w, load(lanes, own, SKIP_SUM * w) + skip_sum)
    store(own, SHIFT_SUM * w, load(lanes, own, SHIFT_SUM * w) + shift_sum)


def scan_backward(lanes: Lanes, u: np.ndarray, delta: np.ndarray, A: np.ndarray, B: np.ndarray,
                  C: np.ndarray, D: np.ndarray, z: np.ndarray, bias: np.ndarray, weight: np.ndarray,
                  states: np.ndarray, dy: np.ndarray, du: np.ndarray, ddelta: np.ndarray,
                  dfactor: np.ndarray, dA: np.ndarray, dB: np.ndarray, dC: np.ndarray,
                  dD: np.ndarray, dz: np.ndarray, dbias: np.ndarray, dweight: np.ndarray,
                  scratch: np.ndarray, softplus_delta: bool, chunks: int, add: bool, b_first: int,
                  b_stop: int, e_first: int, e_stop: int, group: int) -> None:
    """Gradients of channels [e_first, e_stop); dB and dC [groups, B, L, N] go to their group.

    So does dfactor [groups, B, L, R], in place of ddelta [B, L, E], where steps are products. dA
    [B, N, E], dD and dbias [B, E] and dweight [B, R, E] are sums over the sequence, one a batch
    row. ``add``: dz to what is there.
    """
    w, n_states, rank = width(lanes), A.shape[1], weight.shape[1]
    row = padded(n_states)
    vectors = (e_stop - e_first + w - 1) // w
    block = (HEADER + 3 * row + 2 * rank) * w
    saved = at(scratch, (vectors * block,))
    inputs = at(scratch, (vectors * block + SAVED * w,))
    sums_start = vectors * block + (SAVED + FIELDS * STEPS) * w
    sums_size = STEPS * (row // BLOCK) * max(EIGHT, w)
    sums, factor_sums = at(scratch, (sums_start,)), at(scratch, (sums_start + sums_size,))
    columns = beyond(factor_sums, STEPS * rank * w)
    factors = beyond(columns, 2 * STEPS * row)
    places = np.empty(2 * STEPS, np.intp)
    for v in range(vectors):
        e = e_first + v * w
        load_channels(lanes, at(scratch, (v * block,)), 2 * row, A, D, bias, weight, e, e_stop - e)
    for b in range(b_first, b_stop):
        for v in range(vectors):
            own = at(scratch, (v * block,))
            store(own, SKIP_SUM * w, fill(lanes, 0.0))
            store(own, SHIFT_SUM * w, fill(lanes, 0.0))
            for n in range(2 * row):
                store(own, (HEADER + row + n) * w, fill(lanes, 0.0))
            for r in range(rank):
                store(own, (HEADER + 3 * row + rank + r) * w, fill(lanes, 0.0))
        for piece in range((u.shape[1] + STEPS - 1) // STEPS - 1, -1, -1):
            steps = min(STEPS, u.shape[1] - piece * STEPS)
            load_columns(lanes, columns, places, B, C, delta, rank, b, piece * STEPS, steps, -STEPS,
                         chunks)
            for i in range(0, sums_size, w):
                store(sums, i, fill(lanes, 0.0))
            for i in range(STEPS * rank):
                store(factor_sums, i * w, fill(lanes, 0.0))
            for v in range(vectors):
                e, own = e_first + v * w, at(scratch, (v * block,))
                count, weights = e_stop - e, beyond(own, (HEADER + 3 * row) * w)
                safe = load_inputs(lanes, inputs, own, weights, factors, rank, places, u, delta, b,
                                   steps, e, count, softplus_delta, True)
                _load_gradients(lanes, inputs, places, z, dy, du, ddelta, dz, b, steps, e, count,
                                rank)
                for first in range(0, row, BLOCK):
                    for n in range(BLOCK):
                        before = fill(lanes, 0.0)
                        if first + n < n_states:
                            prefetch(at(states, (b, max(piece - 1, 0), first + n, e)))
                            before = load_some(lanes, at(states, (b, piece, first + n, e)), count)
                        store(saved, n * w, before)
                    _recompute(lanes, inputs, own, saved, columns, row, first, steps, safe)
                    _retreat(lanes, inputs, own, saved, sums, columns, row, first, steps)
                _store_gradients(lanes, inputs, own, places, u, z, dy, du, ddelta, dz, b, steps, e,
                                 count, rank, softplus_delta, add)
                factor(lanes, inputs, weights, factors, factor_sums, rank, steps)
            store_factors(lanes, factor_sums, saved, places, dfactor, group, b, steps, rank)
            store_columns(lanes, sums, places, dB, dC, group, b, steps, row)
        for v in range(vectors):
            e, own = e_first + v * w, at(scratch, (v * block,))
            for n in range(n_states):
                store_some(at(dA, (b, n, e)), e_stop - e,
                           load(lanes, own, (HEADER + 2 * row + n) * w))
            for r in range(rank):
                store_some(at(dweight, (b, r, e)), e_stop - e,
                           load(lanes, own, (HEADER + 3 * row + rank + r) * w))
            store_some(at(dD, (b, e)), e_stop - e, load(lanes, own, SKIP_SUM * w))
            store_some(at(dbias, (b, e)), e_stop - e, load(lanes, own, SHIFT_SUM * w))
