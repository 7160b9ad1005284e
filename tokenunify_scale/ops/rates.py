"""What a scan needs of a machine at least, and work that shows how much of it a machine does.

The floor of forward and backward of a gated scan with softplus is the time to move its bytes once
at the rate of a copy in main memory, plus the time of its exponentials at the rate of ours:

    bytes         forward reads u, delta, z, B, C and writes y; backward reads u, delta, z, dy, B,
                  C and writes du, ddelta, dz, dB, dC
    exponentials  per step and channel N decays, one of softplus (backward: of its slope) and one
                  of the gate; in both directions, since nothing of size B E L N is kept

The roofline beside it lets moving and computing overlap, and moves what fits in a cache at the
rate of that cache: the longer of the bytes at the rate of a copy as large as the scan, and of the
exponentials and multiply-adds, which want the same units of the processor, one after another.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch

from tokenunify_scale.ops.kernels import Task, call, lanes_for, run_tasks
from tokenunify_scale.ops.simd import Lanes, width
from tokenunify_scale.ops.simd_math import exp2_product
from tokenunify_scale.ops.simd_memory import at, load, store

VECTORS = 32  # of exponentials in a row: they stay in the first cache
EXPONENTIALS = 2**25  # that a thread does in one run: milliseconds, as long as the others
CHAINS = 12  # independent multiply-adds, enough to hide their latency
MULTIPLY_ADDS = 2**28
LARGEST_COPY = 2**29  # bytes read and written, beyond most caches
COPIED = 2**26  # bytes in one run at least: small copies are repeated


class Needs(NamedTuple):
    """What forward and backward of one scan cannot do without."""

    exponentials: int
    multiply_adds: int
    moved_bytes: int
    footprint: int
    """Bytes of the tensors, each counted once: what a cache must hold."""


class Rates(NamedTuple):
    """Per second, by all threads together."""

    exponentials: float
    multiply_adds: float
    moved_bytes: float
    """In main memory."""

    near_bytes: float
    """In a working set as large as the scan's."""

    @classmethod
    def of(cls, work: Mapping[str, "Load"], seconds: Mapping[str, float]) -> "Rates":
        """The rates of some work that took ``seconds``, both by name."""
        return cls(**{name: work[name].amount / seconds[name] for name in cls._fields})


class Load(NamedTuple):
    """Work to be timed, and how many exponentials, multiply-adds or bytes it is."""

    run: Callable[[], object]
    amount: float


def needs(*, batch: int, channels: int, length: int, states: int, itemsize: int = 4) -> Needs:
    """Count what a scan needs; the module's docstring says what is counted.

    Multiply-adds are 3 forward and 11 backward per step, channel and state, without those inside
    an exponential.

    Args:
        batch: B.
        channels: E.
        length: L.
        states: N.
        itemsize: bytes of a number in memory.
    """
    wide, narrow = batch * channels * length, batch * states * length
    return Needs(
        exponentials=2 * wide * (states + 2),
        multiply_adds=14 * wide * states,
        moved_bytes=itemsize * (11 * wide + 6 * narrow),
        footprint=itemsize * (8 * wide + 4 * narrow),
    )


def floor_seconds(need: Needs, rates: Rates) -> float:
    """The floor of a scan on a machine of these rates; see the module's docstring."""
    return need.moved_bytes / rates.moved_bytes + need.exponentials / rates.exponentials


def roofline_seconds(need: Needs, rates: Rates) -> float:
    """The roofline of a scan on a machine of these rates; see the module's docstring."""
    computing = need.exponentials / rates.exponentials + need.multiply_adds / rates.multiply_adds
    return max(need.moved_bytes / rates.near_bytes, computing)


def loads(*, footprint: int) -> dict[str, Load]:
    """Work for each of ``Rates``, on as many threads as torch has now.

    Args:
        footprint: the near copy reads and writes so many different bytes, 512 MiB at most.
    """
    lanes = lanes_for(torch.float32).width
    return {
        "exponentials": _in_threads(_exponentials, EXPONENTIALS, VECTORS * lanes),
        "multiply_adds": _in_threads(_multiply_adds, MULTIPLY_ADDS, CHAINS * lanes),
        "moved_bytes": _copies(LARGEST_COPY),
        "near_bytes": _copies(min(footprint, LARGEST_COPY)),
    }


def _in_threads(kernel: Callable, amount: int, each: int) -> Load:
    """A kernel that does ``each`` operations a round, for about ``amount`` in every thread."""
    rounds, threads = max(1, amount // each), torch.get_num_threads()
    # Decays of a scan lie between 0 and 1, as do these; no result is denormal or infinite.
    arrays = [np.full((2, 4096), 0.5, np.float32) for _ in range(threads)]

    def work(task: Task) -> None:
        call(kernel, torch.float32, [arrays[task.group]], [rounds])

    tasks = [Task(0, 0, 0, 0, thread) for thread in range(threads)]
    return Load(lambda: run_tasks(work, tasks), rounds * each * threads)


def _copies(footprint: int) -> Load:
    source = torch.ones(max(1, footprint // 8))
    target = torch.zeros_like(source)
    moved = source.nbytes + target.nbytes
    times = -(-COPIED // moved)

    def run() -> None:
        for _ in range(times):
            target.copy_(source)

    return Load(run, times * moved)


def _exponentials(lanes: Lanes, x: np.ndarray, rounds: int) -> None:
    # Sums, not stores: as in a scan, the results are used where they are.
    w = width(lanes)
    factor = load(lanes, at(x, (0, 0)), 0)
    a = b = c = d = factor
    for _ in range(rounds):
        for i in range(0, VECTORS, 4):
            row = at(x, (0, i * w))
            a = a + exp2_product(factor, load(lanes, row, 0))
            b = b + exp2_product(factor, load(lanes, row, w))
            c = c + exp2_product(factor, load(lanes, row, 2 * w))
            d = d + exp2_product(factor, load(lanes, row, 3 * w))
    store(at(x, (1, 0)), 0, a + b + c + d)


def _multiply_adds(lanes: Lanes, x: np.ndarray, rounds: int) -> None:
    factor = load(lanes, at(x, (0, 0)), 0)
    a = b = c = d = e = f = g = h = i = j = k = m = factor
    for _ in range(rounds):
        a, b, c = a * factor + factor, b * factor + factor, c * factor + factor
        d, e, f = d * factor + factor, e * factor + factor, f * factor + factor
        g, h, i = g * factor + factor, h * factor + factor, i * factor + factor
        j, k, m = j * factor + factor, k * factor + factor, m * factor + factor
    store(at(x, (1, 0)), 0, a + b + c + d + e + f + g + h + i + j + k + m)
