"""Time pieces of work side by side, in turns, so that a slow moment of the machine meets all."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

TURN = 0.02  # seconds of a turn at least, so that short work is timed often
COLD = 0.1  # seconds from which the caches at the start of a turn do not matter
LONG = 2.0  # seconds: such work has no first run to warm up, and is repeated while it fits LIMIT
LIMIT = 15.0


def medians(works: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, float]:
    """Median seconds of each work.

    The first run of each only warms up, and so does the first of a turn, as the others have
    emptied the caches (but not where it takes longer than 0.1 s). Work of more than two seconds
    has no warm-up, and as many turns as fit 15 seconds, one at least.

    Args:
        works: by name; what they return is dropped at once.
        repeats: turns of each.
    """
    first = {name: _seconds(work) for name, work in works.items()}
    samples = {name: [spent] if spent > LONG else [] for name, spent in first.items()}
    for turn in range(repeats):
        for name, work in works.items():
            if first[name] <= LONG:
                if first[name] < COLD:
                    work()
                samples[name] += _turn(work)
            elif turn and sum(samples[name]) + first[name] < LIMIT:
                samples[name].append(_seconds(work))
    return {name: statistics.median(values) for name, values in samples.items()}


def _turn(work: Callable[[], object]) -> list[float]:
    found = [_seconds(work)]
    while sum(found) < TURN:
        found.append(_seconds(work))
    return found


def _seconds(work: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Compute with so many threads of torch, or as many as it has; yields how many."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
