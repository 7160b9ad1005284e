"""The selective scan, backward: states and decays of a piece are recomputed, then walked back.

Scratch memory holds what ``scan_kernels`` says, and also
    saved     states [STEPS + 1, N], then decays [STEPS, N]
    sums      gradients of B [STEPS, N], then of C, summed over the vectors of channels
"""

import numpy as np
from numba.extending import register_jitable

from tokenunify_scale.ops.order import STEPS
from tokenunify_scale.ops.scan_kernels import (
    HEADER,
    LOG2E,
    SHIFT_SUM,
    SKIP,
    SKIP_SUM,
    load_channels,
    load_columns,
    load_inputs,
)
from tokenunify_scale.ops.simd import Lanes, Pointer, Vector, width
from tokenunify_scale.ops.simd_math import exp2, exp2_product, fill, sigmoid, totals
from tokenunify_scale.ops.simd_memory import at, load, load_some, peek, store, store_some


def scratch_size(vectors: int, states: int, lanes: int) -> int:
    """Numbers of scratch memory that ``scan_backward`` needs for so many vectors of channels."""
    saved_and_sums = (4 * STEPS + 1) * states
    return ((vectors * (HEADER + 3 * states) + saved_and_sums + 3 * STEPS) * lanes
            + 2 * STEPS * states)


@register_jitable
def _recompute(lanes: Lanes, inputs: Pointer, own: Pointer, saved: Pointer, columns: Pointer,
               n_states: int, steps: int, safe: bool) -> None:
    """States and decays of a piece, from the state before it."""
    w = width(lanes)
    row = n_states * w
    for k in range(steps):
        dt, x = load(lanes, inputs, 3 * k * w), load(lanes, inputs, (3 * k + 1) * w)
        dtx = dt * x
        for n in range(n_states):
            i = k * row + n * w
            if safe:
                decay = exp2_product(dt, load(lanes, own, (HEADER + n) * w))
            else:
                decay = exp2(dt * load(lanes, own, (HEADER + n) * w))
            store(saved, (STEPS + 1) * row + i, decay)
            store(saved, row + i,
                  decay * load(lanes, saved, i) + dtx * peek(columns, k * n_states + n))


@register_jitable
def _retreat(lanes: Lanes, own: Pointer, saved: Pointer, sums: Pointer, columns: Pointer,
             n_states: int, k: int, dt: Vector, x: Vector, grad: Vector,
             alone: bool) -> tuple[Vector, Vector, Vector]:
    """One step back through all states: gradients of dt x and of the rates, and the output."""
    w = width(lanes)
    row = n_states * w
    dtx, out = dt * x, load(lanes, own, SKIP * w) * x
    to_input, to_rate = fill(lanes, 0.0), fill(lanes, 0.0)
    for n in range(n_states):
        i, rate = k * row + n * w, (HEADER + n) * w
        h = load(lanes, saved, i + row)
        c = peek(columns, (STEPS + k) * n_states + n)
        adjoint = load(lanes, own, rate + row) + grad * c
        out = out + h * c
        to_b, to_c = adjoint * dtx, grad * h
        if not alone:
            to_b = to_b + load(lanes, sums, i)
            to_c = to_c + load(lanes, sums, STEPS * row + i)
        store(sums, i, to_b)
        store(sums, STEPS * row + i, to_c)
        to_input = to_input + adjoint * peek(columns, k * n_states + n)
        adjoint = adjoint * load(lanes, saved, (STEPS + 1) * row + i)
        store(own, rate + row, adjoint)
        adjoint = adjoint * load(lanes, saved, i)
        to_rate = to_rate + adjoint * load(lanes, own, rate)
        store(own, rate + 2 * row, load(lanes, own, rate + 2 * row) + adjoint * dt)
    return out, to_input, to_rate * (1.0 / LOG2E)


@register_jitable
def _retreat_piece(lanes: Lanes, own: Pointer, inputs: Pointer, saved: Pointer, sums: Pointer,
                   columns: Pointer, places: np.ndarray, z: np.ndarray, dy: np.ndarray,
                   du: np.ndarray, ddelta: np.ndarray, dz: np.ndarray, n_states: int, steps: int,
                   b: int, e: int, count: int, softplus_delta: bool, alone: bool) -> None:
    """Gradients of one vector of channels over a piece, from its last step to its first."""
    w = width(lanes)
    skip = load(lanes, own, SKIP * w)
    skip_sum, shift_sum = load(lanes, own, SKIP_SUM * w), load(lanes, own, SHIFT_SUM * w)
    for k in range(steps - 1, -1, -1):
        p = places[k]
        dt, x = load(lanes, inputs, 3 * k * w), load(lanes, inputs, (3 * k + 1) * w)
        gated = load_some(lanes, at(dy, (b, p, e)), count)
        grad = gated
        if z.shape[1] > 0:
            gate = load_some(lanes, at(z, (b, p, e)), count)
            opening = sigmoid(gate)
            grad = gated * (gate * opening)
        out, to_input, to_delta = _retreat(lanes, own, saved, sums, columns, n_states, k, dt, x,
                                           grad, alone)
        if z.shape[1] > 0:
            slope = opening + gate * opening * (1.0 - opening)
            store_some(at(dz, (b, p, e)), count, gated * out * slope)
        store_some(at(du, (b, p, e)), count, to_input * dt + skip * grad)
        to_delta = to_delta + to_input * x
        if softplus_delta:
            to_delta = to_delta * load(lanes, inputs, (3 * k + 2) * w)
        store_some(at(ddelta, (b, p, e)), count, to_delta)
        skip_sum, shift_sum = skip_sum + grad * x, shift_sum + to_delta
    store(own, SKIP_SUM * w, skip_sum)
    store(own, SHIFT_SUM * w, shift_sum)


def scan_backward(lanes: Lanes, u: np.ndarray, delta: np.ndarray, A2: np.ndarray, B: np.ndarray,
                  C: np.ndarray, D: np.ndarray, z: np.ndarray, bias: np.ndarray, states: np.ndarray,
                  dy: np.ndarray, du: np.ndarray, ddelta: np.ndarray, dA: np.ndarray,
                  dB: np.ndarray, dC: np.ndarray, dD: np.ndarray, dz: np.ndarray, dbias: np.ndarray,
                  scratch: np.ndarray, softplus_delta: bool, chunks: int, b_first: int, b_stop: int,
                  e_first: int, e_stop: int, group: int) -> None:
    """Gradients of channels [e_first, e_stop); dB and dC [groups, B, L, N] go to their group.

    dA [B, N, E], dD and dbias [B, E] are sums over the sequence, one a batch row.
    """
    w, n_states = width(lanes), A2.shape[0]
    vectors = (e_stop - e_first + w - 1) // w
    block, row = (HEADER + 3 * n_states) * w, n_states * w
    saved = at(scratch, (vectors * block,))
    sums_start = vectors * block + (2 * STEPS + 1) * row
    sums = at(scratch, (sums_start,))
    inputs = at(scratch, (sums_start + 2 * STEPS * row,))
    columns = at(scratch, (sums_start + 2 * STEPS * row + 3 * STEPS * w,))
    places = np.empty(STEPS, np.intp)
    for v in range(vectors):
        e = e_first + v * w
        load_channels(lanes, at(scratch, (v * block,)), A2, D, bias, e, e_stop - e)
    for b in range(b_first, b_stop):
        for v in range(vectors):
            own = at(scratch, (v * block,))
            store(own, SKIP_SUM * w, fill(lanes, 0.0))
            store(own, SHIFT_SUM * w, fill(lanes, 0.0))
            for n in range(2 * n_states):
                store(own, (HEADER + n_states + n) * w, fill(lanes, 0.0))
        for piece in range((u.shape[1] + STEPS - 1) // STEPS - 1, -1, -1):
            steps = min(STEPS, u.shape[1] - piece * STEPS)
            load_columns(columns, places, B, C, b, piece * STEPS, steps, chunks)
            for v in range(vectors):
                e, own = e_first + v * w, at(scratch, (v * block,))
                count = e_stop - e
                for n in range(n_states):
                    store(saved, n * w, load_some(lanes, at(states, (b, piece, n, e)), count))
                safe = load_inputs(lanes, inputs, own, places, u, delta, b, steps, e, count,
                                    softplus_delta, True)
                _recompute(lanes, inputs, own, saved, columns, n_states, steps, safe)
                _retreat_piece(lanes, own, inputs, saved, sums, columns, places, z, dy, du, ddelta,
                               dz, n_states, steps, b, e, count, softplus_delta, v == 0)
            for i in range(0, 2 * STEPS * n_states, w):
                store(columns, i, totals(lanes, at(scratch, (sums_start + i * w,))))
            for k in range(steps):
                for n in range(n_states):
                    dB[group, b, places[k], n] = peek(columns, k * n_states + n)
                    dC[group, b, places[k], n] = peek(columns, (STEPS + k) * n_states + n)
        for v in range(vectors):
            e, own = e_first + v * w, at(scratch, (v * block,))
            for n in range(n_states):
                store_some(at(dA, (b, n, e)), e_stop - e,
                           load(lanes, own, (HEADER + 2 * n_states + n) * w))
            store_some(at(dD, (b, e)), e_stop - e, load(lanes, own, SKIP_SUM * w))
            store_some(at(dbias, (b, e)), e_stop - e, load(lanes, own, SHIFT_SUM * w))
