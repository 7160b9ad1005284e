"""How numba kernels are compiled, kept on disk and spread over threads of our own."""

import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numba import njit, types
from numba.extending import register_jitable
from numba.np.numpy_support import from_dtype
from torch import Tensor

from tokenunify_scale.ops.compiled import say_uncached
from tokenunify_scale.ops.simd import Lanes

DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
WORTH_A_THREAD = 16_384
"""Elements (B E L) below which starting another thread costs more than it saves."""

_compiling = threading.Lock()


@register_jitable
def position(k: int, length: int, chunks: int) -> int:
    """Where the visiting order goes at step k; ``chunks`` as in ``ops.order``."""
    if chunks < 0:
        return length - 1 - k
    if chunks == 1:
        return k
    return (k % chunks) * (length // chunks) + k // chunks


@functools.cache
def lanes_for(dtype: torch.dtype) -> Lanes:
    """The host's vector of float32 or float64."""
    return Lanes(DTYPES[dtype])


def computing_dtype(x: Tensor) -> torch.dtype:
    """The precision of the state: float64 if the input is, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def call(kernel: Callable, dtype: torch.dtype, arrays: Sequence[np.ndarray],
         integers: Sequence[int]) -> None:
    """Run a kernel, compiled for these types of arrays or loaded from numba's cache on disk.

    Args:
        kernel: takes a ``Lanes``, then the arrays, of any strides, then the integers; the
            interpreter lock is released while it runs.
        dtype: of its vectors, float32 or float64.
        arrays: of that type, or bfloat16 as uint16.
        integers: whole numbers and flags.
    """
    kinds = tuple((a.dtype.char, a.ndim) for a in arrays)
    _compiled(kernel, dtype, kinds, len(integers))(lanes_for(dtype), *arrays, *integers)


@functools.cache
def _compiled(kernel: Callable, dtype: torch.dtype, arrays: tuple[tuple[str, int], ...],
              integers: int) -> Callable:
    kinds = [types.Array(from_dtype(np.dtype(char)), ndim, "A") for char, ndim in arrays]
    signature = types.void(lanes_for(dtype).numba_type, *kinds, *[types.intp] * integers)
    with _compiling:
        try:
            return njit(signature, nogil=True, cache=True)(kernel)
        except (RuntimeError, OSError):
            say_uncached()
            return njit(signature, nogil=True)(kernel)


def stored_dtype(x: Tensor) -> torch.dtype:
    """How kernels read and write what belongs to ``x``: as it is, but float16 as float32."""
    return torch.float32 if x.dtype == torch.float16 else x.dtype


def array(x: Tensor) -> np.ndarray:
    """The memory of a tensor; bfloat16 as uint16, which the kernels know."""
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def as_stored(x: Tensor, dtype: torch.dtype) -> np.ndarray:
    """A tensor as kernels of one precision read it: a view where its type allows."""
    if x.dtype == dtype:
        return x.numpy()
    narrow = x.dtype == torch.bfloat16 and dtype == torch.float32
    return array(x) if narrow else x.to(dtype).numpy()


def rows(x: Tensor, dtype: torch.dtype) -> np.ndarray:
    """[B, E, L] as an array [B, L, E] with channels contiguous; a view where the memory allows."""
    x = x.transpose(1, 2)
    return as_stored(x if x.shape[2] <= 1 or x.stride(2) == 1 else x.contiguous(), dtype)


class Task(NamedTuple):
    """One thread's part: batch rows and channels, and which group of channels that is."""

    b_first: int
    b_stop: int
    e_first: int
    e_stop: int
    group: int


def split(batch: int, channels: int, length: int, *, lanes: Lanes) -> list[Task]:
    """Cut (batch, channels) into parts for torch's number of threads, whole vectors each."""
    vectors = -(-channels // lanes.width)
    threads = min(torch.get_num_threads(), 1 + batch * channels * length // WORTH_A_THREAD)
    parts = math.gcd(batch, threads)
    groups = min(vectors, threads // parts)
    if parts * groups < threads:
        parts = min(batch, threads)
    cuts = [batch * i // parts for i in range(parts + 1)]
    edges = [min(channels, vectors * i // groups * lanes.width) for i in range(groups + 1)]
    return [Task(cuts[i], cuts[i + 1], edges[g], edges[g + 1], g)
            for i in range(parts) for g in range(groups)]


def run_tasks(work: Callable[[Task], None], tasks: list[Task], *, name: str = "kernel") -> None:
    """Do every task, the first one in this thread; the first error is raised here.

    A profiler sees them as ``tokenunify::name``.
    """
    watched = torch.autograd._profiler_enabled()
    with torch.profiler.record_function(f"tokenunify::{name}") if watched else nullcontext():
        others = [_pool().submit(work, task) for task in tasks[1:]]
        try:
            work(tasks[0])
        finally:
            for future in others:
                future.result()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="tokenunify-ops")


# A forked child has the pool but not its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
