"""The stream of training crops: an order that is a pure function of one integer, the position.

Each data set (a shard folder) has the same probability: it gives one sample in each round of as
many samples as there are data sets. Within a data set each epoch is another permutation. Who reads
the stream, on how many ranks, and where it was stopped do not change which sample stands where.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.augment import AugmentConfig, augment, generator, random_box
from tokenunify_scale.data.shards import open_shards
from tokenunify_scale.volumes.geometry import Box

WORD = (1 << 64) - 1
ROUNDS = 8


class Batch(TypedDict):
    """Crops uint8 [B, 1, D, H, W], and their positions int64 [B] in the stream."""

    crops: Tensor
    positions: Tensor


class Source(Protocol):
    """What gives a batch for any position: ``Stream``, ``LabelledCrops``."""

    def batch(self, position: int, size: int) -> Batch:
        """The ``size`` crops at ``position`` and after."""
        ...


def sample_at(position: int, *, seed: int, counts: tuple[int, ...]) -> tuple[int, int]:
    """Data set and sample that stand at ``position`` of the endless stream.

    Args:
        position: 0 and up.
        seed: another seed, another order.
        counts: samples in each data set.

    Raises:
        ValueError: a negative position, no data set, or an empty one.
    """
    if position < 0 or not counts or min(counts) < 1:
        raise ValueError(f"no sample at position {position} of data sets with {counts} samples")
    round_, slot = divmod(position, len(counts))
    dataset = _permuted(slot, size=len(counts), key=_mix(seed, len(counts), round_))
    epoch, slot = divmod(round_, counts[dataset])
    return dataset, _permuted(slot, size=counts[dataset], key=_mix(seed, 0, dataset, epoch))


def _permuted(value: int, *, size: int, key: int) -> int:
    """Where ``value`` goes in permutation ``key`` of range(size): a Feistel network, walked.

    Needs no memory, whatever the size, and does not depend on a library's random numbers, which
    may change between versions and would change the order of a run that is resumed.
    """
    low = max(size - 1, 2).bit_length() // 2
    high = max(size - 1, 2).bit_length() - low
    while True:
        left, right = value >> low, value & ((1 << low) - 1)
        for round_ in range(0, ROUNDS, 2):
            left ^= _mix(key, round_, right) & ((1 << high) - 1)
            right ^= _mix(key, round_ + 1, left) & ((1 << low) - 1)
        value = left << low | right
        if value < size:
            return value


def _mix(*words: int) -> int:
    """Hash words to 64 bits: splitmix64's finaliser, chained (Steele, Lea, Flood 2014)."""
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & WORD
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & WORD
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) & WORD
        state ^= state >> 31
    return state


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
) -> Iterator[Batch]:
    """One rank's micro-batches without end, loaded ahead by ``workers`` threads; see ``shares``.

    The order does not depend on ``workers`` (0: nothing is loaded ahead). An error in loading is
    raised where its batch would stand. Closing the iterator ends the threads.
    """
    plan = shares(start, global_batch=global_batch, rank=rank, world=world, micro=micro)
    if workers == 0:
        return (source.batch(position, size) for position, size in plan)
    return _ahead(source, plan, workers=workers)


def _ahead(source: Source, plan: Iterator[tuple[int, int]], *, workers: int) -> Iterator[Batch]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="stream")
    pending: deque[Future[Batch]] = deque()
    try:
        while True:
            while len(pending) < 2 * workers:
                pending.append(pool.submit(source.batch, *next(plan)))
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Stream:
    """Crops from one or more shard folders, in the order of ``sample_at``.

    ``voxel_size`` is that of the folders, in nm, or None where they differ or do not say.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        *,
        seed: int,
        crop: tuple[int, int, int] | None = None,
        augment: AugmentConfig | None = None,
    ) -> None:
        """Open the folders.

        Args:
            folders: what ``prepare`` wrote; each is a data set.
            seed: of order, sub-crops and augmentation.
            crop: a random part of this size of each stored crop; None: the stored crop.
            augment: random changes, or None.

        Raises:
            DataError: a folder is missing, damaged or empty.
            ConfigError: no folder, or a crop that does not fit into the stored ones.
        """
        if not folders:
            raise ConfigError("no shard folder to read from")
        self.sets = [open_shards(folder) for folder in folders]
        self.counts = tuple(len(shards) for shards in self.sets)
        self.crop = tuple(crop or self.sets[0].index.crop)
        self.seed, self.augment = seed, augment
        for shards in self.sets:
            stored = shards.index.crop
            if len(shards) == 0:
                raise DataError(f"{shards.folder} holds no samples")
            if not Box.of(stored).contains(Box.of(self.crop)):
                raise ConfigError(f"crop {self.crop} does not fit {stored}, as {shards.folder} has")
            if crop is None and stored != self.crop:
                raise ConfigError(
                    f"{shards.folder} stores crops of {stored}, {self.sets[0].folder} of "
                    f"{self.crop}: say which crop to take"
                )
        sizes = {shards.index.voxel_size for shards in self.sets}
        self.voxel_size = sizes.pop() if len(sizes) == 1 else None

    def batch(self, position: int, size: int) -> Batch:
        """The ``size`` crops at ``position`` and after; a pure function of these, and the seed."""
        positions = range(position, position + size)
        crops = np.stack([self._crop(p) for p in positions])
        return {"crops": torch.from_numpy(crops).unsqueeze(1), "positions": torch.tensor(positions)}

    def batches(self, start: int, *, global_batch: int, **split: int | None) -> Iterator[Batch]:
        """One rank's micro-batches from position ``start``; ``split`` as in ``batches``."""
        return batches(self, start, global_batch=global_batch, **split)

    def _crop(self, position: int) -> np.ndarray:
        dataset, sample = sample_at(position, seed=self.seed, counts=self.counts)
        crop, _ = self.sets[dataset].read(sample)
        rng = generator(self.seed, position)
        if crop.shape != self.crop:
            crop = crop[random_box(rng, crop.shape, crop=self.crop).slices]
        if self.augment is not None:
            size = self.sets[dataset].index.voxel_size
            crop, _ = augment(crop, config=self.augment, rng=rng, voxel_size=size)
        return crop
