"""The causal convolution on a CPU: numba kernels, fused with bias and SiLU, and their tensors."""

import numpy as np
import torch
from numba.extending import register_jitable
from torch import Tensor

from tokenunify_scale.ops.kernels import (
    Task,
    compiled,
    computing_dtype,
    lanes_for,
    position,
    rows,
    run_tasks,
    split,
)
from tokenunify_scale.ops.simd import Lanes, Pointer, Vector, width
from tokenunify_scale.ops.simd_math import fill, sigmoid
from tokenunify_scale.ops.simd_memory import at, load, load_some, store, store_some


@register_jitable
def _load_taps(lanes: Lanes, scratch: np.ndarray, weight: np.ndarray, bias: np.ndarray,
               e_first: int, e_stop: int) -> None:
    """Taps and bias of every vector of channels to scratch [vectors, K + 1]."""
    w, taps = width(lanes), weight.shape[0]
    for v in range((e_stop - e_first + w - 1) // w):
        e = e_first + v * w
        for j in range(taps):
            store(at(scratch, (0,)), (v * (taps + 1) + j) * w,
                  load_some(lanes, at(weight, (j, e)), e_stop - e))
        store(at(scratch, (0,)), (v * (taps + 1) + taps) * w,
              load_some(lanes, at(bias, (e,)), e_stop - e))


@register_jitable
def _visible(places: np.ndarray, k: int, length: int, chunks: int) -> int:
    """Set ``places`` to the positions of steps k - K + 1 .. k; return the first that exists."""
    taps = len(places)
    first = max(0, taps - 1 - k)
    for j in range(first, taps):
        places[j] = position(k - taps + 1 + j, length, chunks)
    return first


@register_jitable
def _filter(lanes: Lanes, x: np.ndarray, own: Pointer, places: np.ndarray, first: int, b: int,
            e: int, count: int) -> Vector:
    """bias + sum over taps of weight x, for one vector of channels."""
    w, taps = width(lanes), len(places)
    out = load(lanes, own, taps * w)
    for j in range(first, taps):
        out = out + load(lanes, own, j * w) * load_some(lanes, at(x, (b, places[j], e)), count)
    return out


def conv_forward(lanes: Lanes, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, y: np.ndarray,
                 scratch: np.ndarray, silu: bool, chunks: int, b_first: int, b_stop: int,
                 e_first: int, e_stop: int) -> None:
    """y of channels [e_first, e_stop) of some batch rows; weight is [K, E]."""
    w, taps = width(lanes), weight.shape[0]
    places = np.empty(taps, np.intp)
    _load_taps(lanes, scratch, weight, bias, e_first, e_stop)
    for b in range(b_first, b_stop):
        for k in range(x.shape[1]):
            first = _visible(places, k, x.shape[1], chunks)
            p = places[taps - 1]
            for v in range((e_stop - e_first + w - 1) // w):
                e = e_first + v * w
                own = at(scratch, (v * (taps + 1) * w,))
                out = _filter(lanes, x, own, places, first, b, e, e_stop - e)
                if silu:
                    out = out * sigmoid(out)
                store_some(at(y, (b, p, e)), e_stop - e, out)


def conv_backward(lanes: Lanes, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, dy: np.ndarray,
                  dx: np.ndarray, dweight: np.ndarray, dbias: np.ndarray, scratch: np.ndarray,
                  silu: bool, chunks: int, b_first: int, b_stop: int, e_first: int,
                  e_stop: int) -> None:
    """Gradients; dweight [B, K, E] and dbias [B, E] are sums over the sequence of a batch row.

    The last K gradients before the activation wait in a ring until the inputs they reach are done.
    """
    w, taps, length = width(lanes), weight.shape[0], x.shape[1]
    vectors = (e_stop - e_first + w - 1) // w
    places = np.empty(taps, np.intp)
    _load_taps(lanes, scratch, weight, bias, e_first, e_stop)
    block = (taps + 1) * w
    for b in range(b_first, b_stop):
        for i in range(2 * vectors * (taps + 1)):
            store(at(scratch, (vectors * block,)), i * w, fill(lanes, 0.0))
        for k in range(length - 1, -1, -1):
            first = _visible(places, k, length, chunks)
            p, slot = places[taps - 1], k % taps
            for v in range(vectors):
                e = e_first + v * w
                count = e_stop - e
                own = at(scratch, (v * block,))
                sums = at(scratch, ((vectors + v) * block,))
                ring = at(scratch, ((2 * vectors + v) * block,))
                grad = load_some(lanes, at(dy, (b, p, e)), count)
                if silu:
                    out = _filter(lanes, x, own, places, first, b, e, count)
                    open_ = sigmoid(out)
                    grad = grad * (open_ + out * open_ * (1.0 - open_))
                store(ring, slot * w, grad)
                store(sums, taps * w, load(lanes, sums, taps * w) + grad)
                for j in range(first, taps):
                    store(sums, j * w, load(lanes, sums, j * w)
                          + grad * load_some(lanes, at(x, (b, places[j], e)), count))
                back, turn = load(lanes, own, (taps - 1) * w) * grad, slot
                for j in range(taps - 2, -1, -1):
                    turn = turn + 1 if turn + 1 < taps else 0
                    back = back + load(lanes, own, j * w) * load(lanes, ring, turn * w)
                store_some(at(dx, (b, p, e)), count, back)
        for v in range(vectors):
            e = e_first + v * w
            sums = at(scratch, ((vectors + v) * block,))
            for j in range(taps):
                store_some(at(dweight, (b, j, e)), e_stop - e, load(lanes, sums, j * w))
            store_some(at(dbias, (b, e)), e_stop - e, load(lanes, sums, taps * w))


def _scratch(task: Task, blocks: int, taps: int, dtype: torch.dtype) -> np.ndarray:
    """Aligned memory for ``blocks`` numbers a tap, bias included, and channel of the task."""
    lanes = lanes_for(dtype)
    vectors = -(-(task.e_stop - task.e_first) // lanes.width)
    return torch.empty(blocks * vectors * (taps + 1) * lanes.width, dtype=dtype).numpy()


def _prepare(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple:
    shift = torch.zeros(x.shape[1], dtype=dtype) if bias is None else bias.to(dtype).contiguous()
    return rows(x, dtype), weight.to(dtype).t().contiguous().numpy(), shift.numpy()


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *, silu: bool, chunks: int) -> Tensor:
    """Convolve x [B, E, L] with weight [E, K]; the result is of x's type, its memory [B, L, E]."""
    dtype = computing_dtype(x)
    (batch, channels, length), taps = x.shape, weight.shape[1]
    y = torch.empty(batch, length, channels, dtype=dtype)
    kernel = compiled(conv_forward, dtype, arrays=(3, 2, 1, 3, 1), integers=6)
    given = _prepare(x, weight, bias, dtype)

    def work(task: Task) -> None:
        kernel(*given, y.numpy(), _scratch(task, 1, taps, dtype), silu, chunks, *task[:4])

    run_tasks(work, split(batch, channels, length, lanes=lanes_for(dtype)))
    return y.to(x.dtype).transpose(1, 2)


def backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *, silu: bool,
             chunks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias (empty if there is none), each of its input's type."""
    dtype = computing_dtype(x)
    (batch, channels, length), taps = x.shape, weight.shape[1]
    dx = torch.empty(batch, length, channels, dtype=dtype)
    dweight = torch.empty(batch, taps, channels, dtype=dtype)
    dbias = torch.empty(batch, channels, dtype=dtype)
    kernel = compiled(conv_backward, dtype, arrays=(3, 2, 1, 3, 3, 3, 2, 1), integers=6)
    given = (*_prepare(x, weight, bias, dtype), rows(dy, dtype))

    def work(task: Task) -> None:
        kernel(*given, dx.numpy(), dweight.numpy(), dbias.numpy(),
               _scratch(task, 3, taps, dtype), silu, chunks, *task[:4])

    run_tasks(work, split(batch, channels, length, lanes=lanes_for(dtype)))
    shift = dbias.new_empty(0) if bias is None else dbias.sum(0).to(bias.dtype)
    return dx.to(x.dtype).transpose(1, 2), dweight.sum(0).t().to(weight.dtype), shift
