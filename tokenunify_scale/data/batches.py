"""One rank's micro-batches of a source of samples, loaded ahead by threads."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from queue import Empty, SimpleQueue
from threading import Thread, main_thread
from typing import Protocol, TypedDict

from torch import Tensor

from tokenunify_scale.config import ConfigError

POLL = 1.0  # seconds in which a thread with nothing to do sees that the program ends


class Crops(TypedDict):
    """Crops uint8 [B, C, D, H, W], and their positions int64 [B] in the stream."""

    crops: Tensor
    positions: Tensor


class Batch(Crops, total=False):
    """Crops, positions, and where damaged samples are skipped: how many for each, int64 [B]."""

    skipped: Tensor


class Source(Protocol):
    """What gives a batch for any position: ``Stream``, ``LabelledCrops``."""

    def batch(self, position: int, size: int) -> Batch:
        """The ``size`` crops at ``position`` and after."""
        ...


def shares(
    start: int, *, global_batch: int, rank: int = 0, world: int = 1, micro: int | None = None
) -> Iterator[tuple[int, int]]:
    """The endless (position, size) of one rank's micro-batches, from ``start``.

    Each step takes the next ``global_batch`` positions; rank k has the k-th of ``world`` equal
    runs of them, and its micro-batches are consecutive parts of that.

    Args:
        start: first position of the first step; the whole resume state.
        global_batch: samples a step, over all ranks and micro-batches.
        rank: this rank.
        world: number of ranks.
        micro: samples a micro-batch; all of the rank's share if None.

    Raises:
        ConfigError: the batch cannot be split evenly.
    """
    if global_batch < 1 or world < 1 or global_batch % world:
        raise ConfigError(f"a global batch of {global_batch} cannot be split over {world} ranks")
    share = global_batch // world
    micro = share if micro is None else micro
    if micro < 1 or share % micro:
        raise ConfigError(f"a rank's {share} samples cannot be split into micro-batches of {micro}")
    if start < 0 or not 0 <= rank < world:
        raise ConfigError(f"no stream from position {start} for rank {rank} of {world}")
    return _shares(start, global_batch=global_batch, first=rank * share, share=share, micro=micro)


def _shares(
    start: int, *, global_batch: int, first: int, share: int, micro: int
) -> Iterator[tuple[int, int]]:
    while True:
        for offset in range(first, first + share, micro):
            yield start + offset, micro
        start += global_batch


def batches(
    source: Source,
    start: int,
    *,
    global_batch: int,
    rank: int = 0,
    world: int = 1,
    micro: int | None = None,
    workers: int = 1,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """One rank's micro-batches without end, loaded ahead by threads; see ``shares``.

    The order does not depend on ``workers`` or ``prefetch``. An error in loading is raised where
    its batch would stand. Closing the iterator ends the threads.

    Args:
        source: where batches come from; its ``batch`` is called by several threads at once.
        start: first position of the first step.
        global_batch: samples a step, over all ranks and micro-batches.
        rank: this rank.
        world: number of ranks.
        micro: samples a micro-batch; all of the rank's share if None.
        workers: threads; 0: a batch is loaded when it is asked for.
        prefetch: micro-batches that are loaded or being loaded ahead; at least one a thread.

    Raises:
        ConfigError: the batch cannot be split evenly.
    """
    plan = shares(start, global_batch=global_batch, rank=rank, world=world, micro=micro)
    if workers == 0:
        return (source.batch(position, size) for position, size in plan)
    return _ahead(source, plan, workers=workers, depth=max(workers, prefetch))


def _ahead(
    source: Source, plan: Iterator[tuple[int, int]], *, workers: int, depth: int
) -> Iterator[Batch]:
    # Bare queues, as a pool and its futures would cost as much as reading a crop.
    asked: SimpleQueue[tuple[int, tuple[int, int]] | None] = SimpleQueue()
    loaded: list[SimpleQueue[tuple[Batch | None, BaseException | None]]] = [
        SimpleQueue() for _ in range(depth)
    ]
    threads = [
        Thread(target=_load, args=(source, asked, loaded), name=f"stream-{number}")
        for number in range(workers)
    ]
    for thread in threads:
        thread.start()
    try:
        for slot in range(depth):
            asked.put((slot, next(plan)))
        for slot in cycle(range(depth)):
            batch, error = loaded[slot].get()
            if error is not None:
                raise error
            asked.put((slot, next(plan)))
            yield batch
            del batch  # who took it may have let go of it, and its memory is used again
    finally:
        with suppress(Empty):
            while True:
                asked.get_nowait()
        for _ in threads:
            asked.put(None)
        for thread in threads:
            thread.join()


def _load(source: Source, asked: SimpleQueue, loaded: list[SimpleQueue]) -> None:
    """Load what is asked for, in a thread, until None is."""
    while True:
        try:
            task = asked.get(timeout=POLL)
        except Empty:
            if main_thread().is_alive():
                continue
            return  # the program ends, and nobody has closed the iterator
        if task is None:
            return
        slot, place = task
        try:
            loaded[slot].put((source.batch(*place), None))
        except BaseException as error:  # whatever it is, it is raised where it is waited for
            loaded[slot].put((None, error))
