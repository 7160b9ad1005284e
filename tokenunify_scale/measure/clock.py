"""Time pieces of work side by side, in turns, so that a slow moment of the machine meets all."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

Clock = Callable[[], float]
"""Seconds since some moment."""

TURN = 0.02  # seconds of a turn at least, so that short work is timed often
COLD = 0.1  # seconds from which the caches at the start of a turn do not matter
LONG = 2.0  # seconds: such work has no first run to warm up, and is repeated while it fits LIMIT
LIMIT = 15.0


def own_clock(device: str) -> Clock:
    """The clock that other work on a busy machine moves least.

    On one thread of a CPU the processor's time of this process. That of several threads is no
    duration, and a GPU has none: there, as everywhere else, the time on the wall.
    """
    alone = device == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def medians(
    works: Mapping[str, Callable[[], object]], *, repeats: int, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each work.

    The first run of each only warms up, and so does the first of a turn, as the others have
    emptied the caches (but not where it takes longer than 0.1 s). Work of more than two seconds
    has no warm-up, and as many turns as fit 15 seconds, one at least.

    Args:
        works: by name; what they return is dropped at once.
        repeats: turns of each.
        clock: what tells the seconds.
    """
    first = {name: seconds_of(work, clock=clock) for name, work in works.items()}
    samples = {name: [spent] if spent > LONG else [] for name, spent in first.items()}
    for turn in range(repeats):
        for name, work in works.items():
            if first[name] <= LONG:
                if first[name] < COLD:
                    work()
                samples[name] += _turn(work, clock=clock)
            elif turn and sum(samples[name]) + first[name] < LIMIT:
                samples[name].append(seconds_of(work, clock=clock))
    return {name: statistics.median(values) for name, values in samples.items()}


def _turn(work: Callable[[], object], *, clock: Clock) -> list[float]:
    found = [seconds_of(work, clock=clock)]
    while sum(found) < TURN:
        found.append(seconds_of(work, clock=clock))
    return found


def seconds_of(work: Callable[[], object], *, clock: Clock) -> float:
    """How long one run of a work takes, a GPU's part of it included."""
    synchronize()
    start = clock()
    work()
    synchronize()
    return clock() - start


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
