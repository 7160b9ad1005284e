"""How numba kernels are compiled, kept on disk and spread over threads of our own."""

import functools
import logging
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numba import njit, types
from numba.extending import register_jitable
from torch import Tensor

from tokenunify_scale.ops.simd import Lanes

log = logging.getLogger(__name__)
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


@functools.cache
def compiled(kernel: Callable, dtype: torch.dtype, *, arrays: tuple[int, ...],
             integers: int) -> Callable:
    """Compile a kernel for one precision, or load it from numba's cache on disk.

    Args:
        kernel: takes a ``Lanes``, then arrays of any strides, then integers.
        dtype: float32 or float64.
        arrays: dimensions of each array argument.
        integers: how many integers follow.

    Returns:
        The kernel bound to its ``Lanes``; releases the interpreter lock while it runs.
    """
    lanes = lanes_for(dtype)
    scalar = lanes.numba_type.scalar
    signature = types.void(lanes.numba_type, *(types.Array(scalar, n, "A") for n in arrays),
                           *[types.intp] * integers)
    with _compiling:
        try:
            function = njit(signature, nogil=True, cache=True)(kernel)
        except (RuntimeError, OSError):
            say_uncached()
            function = njit(signature, nogil=True)(kernel)
    return functools.partial(function, lanes)


@functools.cache
def say_uncached() -> None:
    """Warn, once, that compiled kernels cannot be kept on disk."""
    log.warning("numba can write to no cache folder: kernels compile again in every process, "
                "which takes seconds; NUMBA_CACHE_DIR names another folder")


def rows(x: Tensor, dtype: torch.dtype) -> np.ndarray:
    """[B, E, L] as an array [B, L, E] with channels contiguous; a view where the memory allows."""
    x = x.to(dtype).transpose(1, 2)
    return (x if x.shape[2] <= 1 or x.stride(2) == 1 else x.contiguous()).numpy()


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


def run_tasks(work: Callable[[Task], None], tasks: list[Task]) -> None:
    """Do every task, the first one in this thread; the first error is raised here."""
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
