"""The selective scan, forward: one vector holds neighbouring channels, state stays in cache.

Arrays are [B, L, E] with channels contiguous. The sequence is cut into pieces of ``STEPS``; the
state before each piece is kept, and the backward pass (``scan_adjoint``) recomputes within a
piece, so memory is O(B E L). Steps are visited in the order of ``chunks`` (see ``ops.order``)
without moving data.

Scratch memory holds vectors unless said, of w numbers each:
    own       for each vector of channels: HEADER numbers, rates [N], then what the pass carries
    inputs    [STEPS, 3]: step size, input, and one more
    columns   B [STEPS, N], then C: plain numbers
"""

import math

import numpy as np
from numba.extending import register_jitable

from tokenunify_scale.ops.kernels import position
from tokenunify_scale.ops.order import STEPS
from tokenunify_scale.ops.simd import Lanes, Pointer, width
from tokenunify_scale.ops.simd_math import (
    exp2,
    exp2_product,
    fill,
    larger,
    moderate,
    sigmoid,
    softplus,
)
from tokenunify_scale.ops.simd_memory import at, load, load_some, peek, poke, store, store_some

LOG2E = math.log2(math.e)
LIMIT, SKIP, SHIFT, SKIP_SUM, SHIFT_SUM, HEADER = range(6)


def scratch_size(vectors: int, states: int, lanes: int) -> int:
    """Numbers of scratch memory that ``scan_forward`` needs for so many vectors of channels."""
    return (vectors * (HEADER + 2 * states) + 3 * STEPS) * lanes + 2 * STEPS * states


@register_jitable
def load_channels(lanes: Lanes, own: Pointer, A2: np.ndarray, D: np.ndarray, bias: np.ndarray,
                  e: int, count: int) -> None:
    """Rates and weights of one vector of channels, and the largest magnitude of its rates."""
    w, limit = width(lanes), fill(lanes, 0.0)
    for n in range(A2.shape[0]):
        rate = load_some(lanes, at(A2, (n, e)), count)
        store(own, (HEADER + n) * w, rate)
        limit = larger(limit, rate)
    store(own, LIMIT * w, limit)
    store(own, SKIP * w, load_some(lanes, at(D, (e,)), count))
    store(own, SHIFT * w, load_some(lanes, at(bias, (e,)), count))


@register_jitable
def load_columns(columns: Pointer, places: np.ndarray, B: np.ndarray, C: np.ndarray, b: int,
                 first: int, steps: int, chunks: int) -> None:
    """Positions of the steps of a piece, and B and C there."""
    n_states = B.shape[2]
    for k in range(steps):
        p = position(first + k, B.shape[1], chunks)
        places[k] = p
        for n in range(n_states):
            poke(columns, k * n_states + n, B[b, p, n])
            poke(columns, (STEPS + k) * n_states + n, C[b, p, n])


@register_jitable
def load_inputs(lanes: Lanes, inputs: Pointer, own: Pointer, places: np.ndarray, u: np.ndarray,
                delta: np.ndarray, b: int, steps: int, e: int, count: int, softplus_delta: bool,
                slopes: bool) -> bool:
    """Step sizes and inputs of a piece, and slopes of softplus; returns whether exp2 is safe."""
    w, safe = width(lanes), True
    limit, shift = load(lanes, own, LIMIT * w), load(lanes, own, SHIFT * w)
    for k in range(steps):
        raw = load_some(lanes, at(delta, (b, places[k], e)), count) + shift
        dt = raw
        if softplus_delta:
            dt = softplus(raw)
            if slopes:
                store(inputs, (3 * k + 2) * w, sigmoid(raw))
        store(inputs, 3 * k * w, dt)
        store(inputs, (3 * k + 1) * w, load_some(lanes, at(u, (b, places[k], e)), count))
        safe = safe and moderate(dt * limit)
    return safe


@register_jitable
def _advance(lanes: Lanes, inputs: Pointer, own: Pointer, columns: Pointer, n_states: int,
             steps: int, safe: bool) -> None:
    """The recurrence over a piece: the state moves on in place, outputs go into ``inputs``."""
    w = width(lanes)
    for k in range(steps):
        dt, x = load(lanes, inputs, 3 * k * w), load(lanes, inputs, (3 * k + 1) * w)
        dtx, out = dt * x, load(lanes, own, SKIP * w) * x
        for n in range(n_states):
            rate, state = (HEADER + n) * w, (HEADER + n_states + n) * w
            if safe:
                decay = exp2_product(dt, load(lanes, own, rate))
            else:
                decay = exp2(dt * load(lanes, own, rate))
            h = decay * load(lanes, own, state) + dtx * peek(columns, k * n_states + n)
            store(own, state, h)
            out = out + h * peek(columns, (STEPS + k) * n_states + n)
        store(inputs, (3 * k + 2) * w, out)


def scan_forward(lanes: Lanes, u: np.ndarray, delta: np.ndarray, A2: np.ndarray, B: np.ndarray,
                 C: np.ndarray, D: np.ndarray, z: np.ndarray, bias: np.ndarray, y: np.ndarray,
                 states: np.ndarray, scratch: np.ndarray, softplus_delta: bool, chunks: int,
                 b_first: int, b_stop: int, e_first: int, e_stop: int) -> None:
    """y of channels [e_first, e_stop) of batch rows [b_first, b_stop).

    A2 is [N, E], A times log2(e). ``z`` and ``states`` [B, pieces, N, E] may be of length 0.
    """
    w, n_states = width(lanes), A2.shape[0]
    vectors = (e_stop - e_first + w - 1) // w
    block = (HEADER + 2 * n_states) * w
    inputs = at(scratch, (vectors * block,))
    columns = at(scratch, (vectors * block + 3 * STEPS * w,))
    places = np.empty(STEPS, np.intp)
    for v in range(vectors):
        e = e_first + v * w
        load_channels(lanes, at(scratch, (v * block,)), A2, D, bias, e, e_stop - e)
    for b in range(b_first, b_stop):
        for v in range(vectors):
            for n in range(n_states):
                store(at(scratch, (v * block,)), (HEADER + n_states + n) * w, fill(lanes, 0.0))
        for first in range(0, u.shape[1], STEPS):
            steps = min(STEPS, u.shape[1] - first)
            load_columns(columns, places, B, C, b, first, steps, chunks)
            for v in range(vectors):
                e, own = e_first + v * w, at(scratch, (v * block,))
                count = e_stop - e
                if states.shape[1] > 0:
                    for n in range(n_states):
                        store_some(at(states, (b, first // STEPS, n, e)), count,
                                   load(lanes, own, (HEADER + n_states + n) * w))
                safe = load_inputs(lanes, inputs, own, places, u, delta, b, steps, e, count,
                                    softplus_delta, False)
                _advance(lanes, inputs, own, columns, n_states, steps, safe)
                for k in range(steps):
                    out = load(lanes, inputs, (3 * k + 2) * w)
                    if z.shape[1] > 0:
                        gate = load_some(lanes, at(z, (b, places[k], e)), count)
                        out = out * (gate * sigmoid(gate))
                    store_some(at(y, (b, places[k], e)), count, out)
