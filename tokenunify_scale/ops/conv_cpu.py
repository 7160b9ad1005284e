"""The causal convolution on a CPU: numba kernels, fused with bias and SiLU, and their tensors."""

import numpy as np
import torch
from numba.extending import register_jitable
from torch import Tensor

from tokenunify_scale.ops.kernels import (
    Task,
    array,
    call,
    computing_dtype,
    lanes_for,
    position,
    rows,
    run_tasks,
    split,
    stored_dtype,
)
from tokenunify_scale.ops.order import STEPS
from tokenunify_scale.ops.simd import Lanes, Pointer, width
from tokenunify_scale.ops.simd_math import fill, sigmoid
from tokenunify_scale.ops.simd_memory import at, beyond, load, load_some, store, store_some


@register_jitable
def _load_taps(lanes: Lanes, taps: Pointer, weight: np.ndarray, bias: np.ndarray, e_first: int,
               e_stop: int) -> None:
    """Taps and bias of every vector of channels: [vectors, K + 1]."""
    w, n_taps = width(lanes), weight.shape[0]
    for v in range((e_stop - e_first + w - 1) // w):
        e, own = e_first + v * w, beyond(taps, v * (n_taps + 1) * w)
        for j in range(n_taps):
            store(own, j * w, load_some(lanes, at(weight, (j, e)), e_stop - e))
        store(own, n_taps * w, load_some(lanes, at(bias, (e,)), e_stop - e))


@register_jitable
def _visit(places: np.ndarray, first: int, steps: int, length: int, chunks: int) -> None:
    """Positions of the steps of a piece, after those of the K - 1 steps before, which may lack."""
    before = len(places) - STEPS
    for i in range(max(0, before - first), before + steps):
        places[i] = position(first - before + i, length, chunks)


@register_jitable
def _filter(lanes: Lanes, x: np.ndarray, taps: Pointer, sums: Pointer, places: np.ndarray,
            first: int, steps: int, b: int, e: int, count: int) -> None:
    """bias + sum over taps of weight x, for one vector of channels over a piece."""
    w, before = width(lanes), len(places) - STEPS
    bias = load(lanes, taps, (before + 1) * w)
    for k in range(steps):
        store(sums, k * w, bias)
    for j in range(before + 1):
        tap = load(lanes, taps, j * w)
        for k in range(max(0, before - j - first), steps):
            there = load_some(lanes, at(x, (b, places[k + j], e)), count)
            store(sums, k * w, load(lanes, sums, k * w) + tap * there)


def conv_forward(lanes: Lanes, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, y: np.ndarray,
                 scratch: np.ndarray, silu: bool, chunks: int, b_first: int, b_stop: int,
                 e_first: int, e_stop: int) -> None:
    """y of channels [e_first, e_stop) of some batch rows; weight is [K, E].

    A piece of ``STEPS`` is filtered tap by tap in the first cache. Scratch memory holds vectors:
    taps [vectors, K + 1] and sums [STEPS].
    """
    w, n_taps, length = width(lanes), weight.shape[0], x.shape[1]
    vectors = (e_stop - e_first + w - 1) // w
    taps, sums = at(scratch, (0,)), at(scratch, (vectors * (n_taps + 1) * w,))
    places = np.empty(STEPS + n_taps - 1, np.intp)
    _load_taps(lanes, taps, weight, bias, e_first, e_stop)
    for b in range(b_first, b_stop):
        for first in range(0, length, STEPS):
            steps = min(STEPS, length - first)
            _visit(places, first, steps, length, chunks)
            for v in range(vectors):
                e = e_first + v * w
                own = beyond(taps, v * (n_taps + 1) * w)
                _filter(lanes, x, own, sums, places, first, steps, b, e, e_stop - e)
                for k in range(steps):
                    out = load(lanes, sums, k * w)
                    if silu:
                        out = out * sigmoid(out)
                    store_some(at(y, (b, places[n_taps - 1 + k], e)), e_stop - e, out)


@register_jitable
def _differentiate(lanes: Lanes, x: np.ndarray, dx: np.ndarray, taps: Pointer, totals: Pointer,
                   grads: Pointer, places: np.ndarray, first: int, steps: int, b: int, e: int,
                   count: int, add: bool) -> None:
    """From gradients [STEPS + K - 1] before the activation to those of x, taps and bias."""
    w, before = width(lanes), len(places) - STEPS
    for j in range(before + 1):
        total = fill(lanes, 0.0)
        for k in range(max(0, before - j - first), steps):
            there = load_some(lanes, at(x, (b, places[k + j], e)), count)
            total = total + load(lanes, grads, k * w) * there
        store(totals, j * w, load(lanes, totals, j * w) + total)
    total = fill(lanes, 0.0)
    for k in range(steps):
        total = total + load(lanes, grads, k * w)
        back = fill(lanes, 0.0)
        for j in range(before + 1):
            back = back + load(lanes, taps, j * w) * load(lanes, grads, (k + before - j) * w)
        if add:
            back = back + load_some(lanes, at(dx, (b, places[before + k], e)), count)
        store_some(at(dx, (b, places[before + k], e)), count, back)
    store(totals, (before + 1) * w, load(lanes, totals, (before + 1) * w) + total)


def conv_backward(lanes: Lanes, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, dy: np.ndarray,
                  dx: np.ndarray, dweight: np.ndarray, dbias: np.ndarray, scratch: np.ndarray,
                  silu: bool, chunks: int, add: bool, b_first: int, b_stop: int, e_first: int,
                  e_stop: int) -> None:
    """Gradients; dweight [B, K, E] and dbias [B, E] are sums over the sequence of a batch row.

    ``add``: dx to what is there. Scratch memory holds taps and sums as in ``conv_forward``, then
    totals [vectors, K + 1] of the gradients of taps and bias, the first K - 1 gradients of the
    piece that follows [vectors, K + 1], and gradients [STEPS + K - 1].
    """
    w, n_taps, length = width(lanes), weight.shape[0], x.shape[1]
    before, block = n_taps - 1, (n_taps + 1) * w
    vectors = (e_stop - e_first + w - 1) // w
    taps, totals = at(scratch, (0,)), at(scratch, (vectors * block,))
    ahead, sums = at(scratch, (2 * vectors * block,)), at(scratch, (3 * vectors * block,))
    grads = beyond(sums, STEPS * w)
    places = np.empty(STEPS + before, np.intp)
    _load_taps(lanes, taps, weight, bias, e_first, e_stop)
    for b in range(b_first, b_stop):
        for i in range(2 * vectors * (n_taps + 1)):
            store(totals, i * w, fill(lanes, 0.0))
        for piece in range((length + STEPS - 1) // STEPS - 1, -1, -1):
            first = piece * STEPS
            steps = min(STEPS, length - first)
            _visit(places, first, steps, length, chunks)
            for v in range(vectors):
                e, own = e_first + v * w, beyond(taps, v * block)
                count = e_stop - e
                if silu:
                    _filter(lanes, x, own, sums, places, first, steps, b, e, count)
                for k in range(steps):
                    grad = load_some(lanes, at(dy, (b, places[before + k], e)), count)
                    if silu:
                        out = load(lanes, sums, k * w)
                        opening = sigmoid(out)
                        grad = grad * (opening + out * opening * (1.0 - opening))
                    store(grads, k * w, grad)
                for i in range(before):
                    store(grads, (steps + i) * w, load(lanes, ahead, v * block + i * w))
                for i in range(before):
                    store(ahead, v * block + i * w, load(lanes, grads, i * w))
                _differentiate(lanes, x, dx, own, beyond(totals, v * block), grads, places, first,
                               steps, b, e, count, add)
        for v in range(vectors):
            e, own = e_first + v * w, beyond(totals, v * block)
            for j in range(n_taps):
                store_some(at(dweight, (b, j, e)), e_stop - e, load(lanes, own, j * w))
            store_some(at(dbias, (b, e)), e_stop - e, load(lanes, own, n_taps * w))


def _scratch(task: Task, blocks: int, taps: int, dtype: torch.dtype) -> np.ndarray:
    """Aligned memory for ``blocks`` numbers a tap, bias included, and channel, and two pieces."""
    lanes = lanes_for(dtype)
    vectors = -(-(task.e_stop - task.e_first) // lanes.width)
    size = blocks * vectors * (taps + 1) + 2 * STEPS + taps
    return torch.empty(size * lanes.width, dtype=dtype).numpy()


def _prepare(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple:
    shift = torch.zeros(x.shape[1], dtype=dtype) if bias is None else bias.to(dtype).contiguous()
    return rows(x, dtype), weight.to(dtype).t().contiguous().numpy(), shift.numpy()


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *, silu: bool, chunks: int,
            out: Tensor | None = None) -> Tensor:
    """Convolve x [B, E, L] with weight [E, K]; the result is of x's type, its memory [B, L, E].

    It goes to ``out`` [B, L, E] of that type, where that is given; not for float16.
    """
    dtype = computing_dtype(x)
    (batch, channels, length), taps = x.shape, weight.shape[1]
    y = torch.empty(batch, length, channels, dtype=stored_dtype(x)) if out is None else out
    given = (*_prepare(x, weight, bias, dtype), array(y))

    def work(task: Task) -> None:
        call(conv_forward, dtype, (*given, _scratch(task, 1, taps, dtype)),
             (silu, chunks, *task[:4]))

    run_tasks(work, split(batch, channels, length, lanes=lanes_for(dtype)),
              name="conv1d_kernel")
    return y.to(x.dtype).transpose(1, 2)


def backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *, silu: bool,
             chunks: int, out: Tensor | None = None,
             add: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias (empty if there is none), each of its input's type.

    That of x goes to ``out`` [B, L, E], where that is given (not for float16), or is added to
    what ``out`` holds.
    """
    dtype = computing_dtype(x)
    (batch, channels, length), taps = x.shape, weight.shape[1]
    dx = torch.empty(batch, length, channels, dtype=stored_dtype(x)) if out is None else out
    dweight = torch.empty(batch, taps, channels, dtype=dtype)
    dbias = torch.empty(batch, channels, dtype=dtype)
    given = (*_prepare(x, weight, bias, dtype), rows(dy, dtype), array(dx), dweight.numpy(),
             dbias.numpy())

    def work(task: Task) -> None:
        call(conv_backward, dtype, (*given, _scratch(task, 3, taps, dtype)),
             (silu, chunks, add, *task[:4]))

    run_tasks(work, split(batch, channels, length, lanes=lanes_for(dtype)),
              name="conv1d_kernel")
    shift = dbias.new_empty(0) if bias is None else dbias.sum(0).to(bias.dtype)
    return dx.to(x.dtype).transpose(1, 2), dweight.sum(0).t().to(weight.dtype), shift
