"""The stream of training crops: shard folders, mixed and shuffled, read by position.

What stands at a position is ``data.order``'s to say, and depends on nothing else; so who reads the
stream, with how many ranks and threads, and where it was stopped, do not change it.
"""

import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.augment import (
    AugmentConfig,
    augment,
    generator,
    only,
    random_box,
)
from tokenunify_scale.data.batches import Batch, batches
from tokenunify_scale.data.buffers import Buffers
from tokenunify_scale.data.order import Order, SampleKey, turns_of
from tokenunify_scale.data.shards.folders import GB, common_channels, common_crop, open_folders
from tokenunify_scale.volumes.geometry import Triple

SUBSTITUTES = 100
OWN, PARTNER, CHANGES = range(1, 4)  # of a position's random numbers: places of crops, changes


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How shards are mixed, shuffled and read."""

    weights: tuple[float, ...] | None = None
    """Of each folder in the mixture; by default all are equally probable."""
    window: int = 16
    """Shards of a folder that are shuffled together, sample by sample."""
    damaged: Literal["stop", "skip"] = "stop"
    """What a missing or damaged shard does: stop the run, or have other samples read instead."""
    cache: Path | None = None
    """Folder on a disk of this machine where shards of a URL are kept."""
    cache_gb: float = 100.0
    """Largest size of all shards in the cache, in 10^9 bytes."""
    workers: int = 2
    """Threads of each rank that load batches; 0: each is loaded when it is needed."""
    prefetch: int = 4
    """Micro-batches loaded ahead."""
    pin: Literal["auto", "off"] = "auto"
    """Page-locked memory for batches, which a GPU copies faster: where there is a GPU, or never."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.weights is not None:
            turns_of(self.weights)
        for name, least in (("window", 1), ("workers", 0), ("prefetch", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if not 0 < self.cache_gb < float("inf"):
            raise ConfigError(f"cache_gb must be positive and finite, got {self.cache_gb}")
        for name, valid in (("damaged", ("stop", "skip")), ("pin", ("auto", "off"))):
            if getattr(self, name) not in valid:
                words = " or ".join(valid)
                raise ConfigError(f"{name} is {words}, got {getattr(self, name)!r}")


DEFAULT = StreamConfig()


class Stream:
    """Crops from one or more shard folders, in the order of ``Order``.

    ``voxel_size`` is that of the folders, in nm, or None where they differ or do not say;
    ``channels`` is 1 for volumes, 3 for photographs.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        *,
        seed: int,
        crop: Triple | None = None,
        config: StreamConfig = DEFAULT,
        augment: AugmentConfig | None = None,
    ) -> None:
        """Open the folders.

        Args:
            folders: what ``prepare`` wrote, or URLs of it; each is a data set.
            seed: of order, sub-crops and augmentation.
            crop: a random part of this size of each stored crop; None: the stored crop.
            config: mixture, shuffling, damaged samples, cache.
            augment: random changes, or None.

        Raises:
            DataError: a folder is missing, damaged or empty.
            ConfigError: no folder, folders of different channels, a crop that does not fit into the
                stored ones, weights that do not fit the folders, a URL without a cache, or a cache
                too small for the window.
        """
        self.seed, self.config = seed, config
        never = augment is None or augment.p == 0 or augment == only(augment)
        self.augment = None if never else augment
        self.sets, self._ahead = open_folders(
            folders,
            damaged=config.damaged,
            window=config.window,
            cache=config.cache,
            cache_bytes=round(config.cache_gb * GB),
        )
        self.counts = tuple(len(shards) for shards in self.sets)
        self.channels = common_channels(self.sets)
        self.crop = common_crop(self.sets, crop=crop)
        counts = [[shard.count for shard in shards.index.shards] for shards in self.sets]
        self.order = Order(counts, seed=seed, weights=config.weights, window=config.window)
        sizes = {shards.index.voxel_size for shards in self.sets}
        self.voxel_size = sizes.pop() if len(sizes) == 1 else None
        pin = config.pin == "auto" and torch.cuda.is_available()
        self._buffers = Buffers("pinned" if pin else "plain", keep=config.workers + config.prefetch)
        self._lock = threading.Lock()
        self._told: set[tuple[int, int]] = set()
        self._fetched: deque[tuple[int, int, int]] = deque(maxlen=4 * len(folders))

    def batch(self, position: int, size: int) -> Batch:
        """The ``size`` crops at ``position`` and after; a pure function of these, and the seed.

        Raises:
            DataError: a damaged sample; where these are skipped, too many in a row.
        """
        crops = self._buffers.take((size, self.channels, *self.crop))
        positions = range(position, position + size)
        # All keys before the first read: each read flushes what the hashes need from the caches.
        keys = [self.order.at(p) for p in positions]
        if self._ahead:
            for p in positions:
                self._fetch(self.order.window_of(p))
        # As a sample is stored, the sections of a channel lie behind those of the one before.
        stored = crops.numpy().reshape(size, -1, *self.crop[1:])
        places = zip(stored, positions, keys, strict=True)
        fill = self._read if self.augment is None else self._read_and_change
        skipped = [fill(out, p, key) for out, p, key in places]
        numbers = np.arange(position, position + size, dtype=np.int64)
        batch: Batch = {"crops": crops, "positions": torch.from_numpy(numbers)}
        if self.config.damaged == "skip":
            batch["skipped"] = torch.tensor(skipped)
        return batch

    def batches(self, start: int, *, global_batch: int, **split: int | None) -> Iterator[Batch]:
        """One rank's micro-batches from position ``start``; ``split`` as in ``batches``."""
        threads = {"workers": self.config.workers, "prefetch": self.config.prefetch}
        return batches(self, start, global_batch=global_batch, **{**threads, **split})

    def _read_and_change(self, out: np.ndarray, position: int, key: SampleKey) -> int:
        """As ``_read``, with the random changes of the position, the same for each channel."""
        skipped = self._read(out, position, key)

        @cache
        def partner() -> np.ndarray:
            nonlocal skipped
            other, key = np.empty_like(out), self.order.partner(position)
            skipped += self._read(other, position, key, use=PARTNER)
            return self._channels(other, self.crop)

        for number, channel in enumerate(self._channels(out, self.crop)):
            changed, _ = augment(
                channel,
                config=self.augment,
                rng=generator(self.seed, position, CHANGES),
                voxel_size=self.sets[key.dataset].index.voxel_size,
                partner=lambda number=number: partner()[number],
            )
            if changed is not channel:
                channel[...] = changed
        return skipped

    def _channels(self, stored: np.ndarray, crop: Triple) -> np.ndarray:
        """A sample [C*D, H, W] as [C, D, H, W] of crops of this size."""
        return stored.reshape(self.channels, *crop)

    def _read(self, out: np.ndarray, position: int, key: SampleKey, *, use: int = OWN) -> int:
        """Write the crop of a position to ``out`` [C*D, H, W], of its sample or of a substitute.

        Returns:
            How many damaged samples were met before a whole one.
        """
        for attempt in range(1, SUBSTITUTES + 2):
            shards = self.sets[key.dataset]
            try:
                if shards.index.crop == self.crop:
                    shards.read_into(key.sample, out)
                else:
                    stored, whole = np.empty(shards.index.stored, np.uint8), shards.index.crop
                    shards.read_into(key.sample, stored)
                    box = random_box(generator(self.seed, position, use), whole, crop=self.crop)
                    part = self._channels(stored, whole)[(slice(None), *box.slices)]
                    self._channels(out, self.crop)[...] = part
                return attempt - 1
            except DataError as error:
                if self.config.damaged == "stop":
                    raise
                self._tell(key, error)
                last = error
            choose = self.order.at if use == OWN else self.order.partner
            key = choose(position, attempt=attempt)
        raise DataError(
            f"position {position}: {SUBSTITUTES} substitutes are damaged too, the last: {last}"
        )

    def _fetch(self, window: tuple[int, int, int]) -> None:
        """Have the cache fetch a window and what it has room for of the next, asking once."""
        with self._lock:
            if window in self._fetched:
                return
            self._fetched.append(window)
        for key in self.order.upcoming(window, ahead=self._ahead):
            self.sets[key.dataset].prefetch(key.sample)

    def _tell(self, key: SampleKey, error: DataError) -> None:
        """Say once for each shard that samples of it are skipped."""
        shard = key.dataset, self.order.shard_of(key)
        with self._lock:
            if shard in self._told:
                return
            self._told.add(shard)
            print(f"skipped: {error}; of this shard no more is said", file=sys.stderr, flush=True)
