"""The order of the stream: which sample of which data set stands at a position.

A pure function of the position, the seed, the mixture, the shards' counts and the window. It
keeps no state, so a stream is resumed from one integer, and by any number of readers.

Data sets take turns in cycles that hold their shares of the mixture exactly. A data set's turns
walk through its own epochs: an epoch permutes the shards, and each ``window`` of them in that order
is shuffled jointly, sample by sample. So a reader has one window of a data set in hand at a time.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.permutation import mix, permutation, shuffled, stir

LONGEST = 10_000
"""Turns of the longest cycle."""
TOLERANCE = 0.005
"""How far a share in the cycle may be from its weight, relative to it."""
NEAR = 10
"""Substitutes that are taken from the same window, before all of the data set is tried."""
CYCLE, SHARDS, WINDOW, SUBSTITUTE, PARTNER = range(1, 6)  # keep the hashes' uses apart


class SampleKey(NamedTuple):
    """A data set's number, and a sample's number in it."""

    dataset: int
    sample: int


class Window(NamedTuple):
    """Shards that are shuffled together: turns ``start`` and after of an epoch.

    ``ends`` are the cumulated counts of ``shards``, ``numbers`` the shuffled range of them all.
    """

    start: int
    shards: tuple[int, ...]
    ends: tuple[int, ...]
    numbers: Sequence[int]

    def span(self, slot: int) -> tuple[int, int]:
        """First and last plus one of the numbers that the shard in ``slot`` has here."""
        return self.ends[slot - 1] if slot else 0, self.ends[slot]


class Order:
    """The endless order of the samples of some data sets; immutable, and safe for threads."""

    def __init__(
        self,
        counts: Sequence[Sequence[int]],
        *,
        seed: int,
        weights: Sequence[float] | None = None,
        window: int = 16,
    ) -> None:
        """Plan the cycle; an epoch's shards are permuted when it is asked for.

        Args:
            counts: samples in each shard, for each data set.
            seed: another seed, another order.
            weights: of the data sets in the mixture, as ``turns_of`` takes them; None: all equal.
            window: shards of a data set that are shuffled together; all of them if there are less.

        Raises:
            ConfigError: the weights do not fit the data sets; a window below 1.
            ValueError: no data set, or an empty one.
        """
        if not counts or not all(sum(shards) > 0 and min(shards) >= 0 for shards in counts):
            raise ValueError(f"no sample in one of {len(counts)} data sets, or a negative count")
        if window < 1:
            raise ConfigError(f"window is a number of shards >= 1, got {window}")
        if weights is not None and len(weights) != len(counts):
            raise ConfigError(f"{len(weights)} weights for {len(counts)} data sets: {weights}")
        self.seed, self.window = seed, window
        self.turns = turns_of(weights or (1.0,) * len(counts))
        self.counts = tuple(tuple(shards) for shards in counts)
        self._ends = tuple(tuple(accumulate(shards)) for shards in counts)
        self.length = sum(self.turns)
        # Readers are at neighbouring positions, so few tables are alive at a time.
        self._cycle = lru_cache(16)(self._cycle)
        self._epoch = lru_cache(2 * len(counts))(self._epoch)
        self._window = lru_cache(4 * len(counts))(self._window)

    def at(self, position: int, *, attempt: int = 0) -> SampleKey:
        """What stands at a position.

        Args:
            position: 0 and up.
            attempt: 0: the sample itself. 1, 2, ...: substitutes for it, should it be damaged, of
                the same data set but of another shard, if there is one; first from the same window.

        Raises:
            ValueError: a negative position.
        """
        if attempt:
            return self._near(position, use=SUBSTITUTE, attempt=attempt)
        return self._key(*self._place(position))

    def partner(self, position: int, *, attempt: int = 0) -> SampleKey:
        """A sample to mix with that at ``position``: chosen as its substitutes are, not them."""
        return self._near(position, use=PARTNER, attempt=attempt + 1)

    def shard_of(self, key: SampleKey) -> int:
        """Number of the shard that holds a sample."""
        return bisect_right(self._ends[key.dataset], key.sample)

    def window_of(self, position: int) -> tuple[int, int, int]:
        """Data set, epoch and number of the window that a position's sample is in."""
        dataset, turn = self._turn(position)
        epoch, turn = divmod(turn, self._ends[dataset][-1])
        return dataset, epoch, self._number(dataset, epoch, turn)

    def upcoming(self, window: tuple[int, int, int], *, ahead: int) -> list[SampleKey]:
        """A sample of each shard of a window, then of the ``ahead`` first of the next window."""
        dataset, epoch, number = window
        now = self._window(*window).shards
        last = number + 1 == len(self._epoch(dataset, epoch)[1])
        after = self._window(dataset, epoch + last, 0 if last else number + 1).shards
        ends, counts = self._ends[dataset], self.counts[dataset]
        shards = dict.fromkeys((*now, *after[:ahead]))
        return [SampleKey(dataset, ends[shard] - counts[shard]) for shard in shards]

    def _turn(self, position: int) -> tuple[int, int]:
        """Whose turn it is at a position, and how many turns that data set had before."""
        if position < 0:
            raise ValueError(f"no sample at position {position}")
        if self.length == 1:
            return 0, position
        cycle, slot = divmod(position, self.length)
        dataset, turn = self._cycle(cycle)[slot]
        return dataset, cycle * self.turns[dataset] + turn

    def _place(self, position: int) -> tuple[int, Window, int]:
        """Data set and window at a position, and the number in the window that stands there."""
        dataset, turn = self._turn(position)
        epoch, turn = divmod(turn, self._ends[dataset][-1])
        window = self._window(dataset, epoch, self._number(dataset, epoch, turn))
        return dataset, window, window.numbers[turn - window.start]

    def _key(self, dataset: int, window: Window, value: int) -> SampleKey:
        """The sample of number ``value`` in a window."""
        slot = bisect_right(window.ends, value)
        last = self._ends[dataset][window.shards[slot]]
        return SampleKey(dataset, last - window.ends[slot] + value)

    def _near(self, position: int, *, use: int, attempt: int) -> SampleKey:
        """Another sample than the one at a position, drawn by a hash of the arguments."""
        dataset, window, value = self._place(position)
        number = mix(self.seed, use, position, attempt)
        start, stop = window.span(bisect_right(window.ends, value))
        if attempt <= NEAR and window.ends[-1] > stop - start:
            other = _draw(number, size=window.ends[-1], without=(start, stop))
            return self._key(dataset, window, other)
        key, size = self._key(dataset, window, value), self._ends[dataset][-1]
        start = key.sample - (value - start)
        stop = start + self.counts[dataset][self.shard_of(key)]
        if size == stop - start:  # the only shard
            start, stop = key.sample, key.sample + (size > 1)
        return SampleKey(dataset, _draw(number, size=size, without=(start, stop)))

    def _cycle(self, number: int) -> list[tuple[int, int]]:
        """For each turn of a cycle: the data set, and how many turns it had before in the cycle."""
        key, events = mix(self.seed, CYCLE, number), []
        for dataset, turns in enumerate(self.turns):
            own = mix(key, dataset)
            # The k-th turn comes at a random time within the k-th of equal parts of the cycle.
            times = ((k << 64 | stir(own + k)) // turns for k in range(turns))
            events += [(time, dataset, k) for k, time in enumerate(times)]
        return [(dataset, k) for _, dataset, k in sorted(events)]

    def _epoch(self, dataset: int, epoch: int) -> tuple[list[int], list[int]]:
        """The shards as an epoch permutes them, and the turn where each window of them ends."""
        counts = self.counts[dataset]
        shards = shuffled(len(counts), key=mix(self.seed, SHARDS, dataset, epoch))
        ends = list(accumulate(counts[shard] for shard in shards))
        return shards, [*ends[self.window - 1 : -1 : self.window], ends[-1]]

    def _number(self, dataset: int, epoch: int, turn: int) -> int:
        """Which window a turn of an epoch is in."""
        return bisect_right(self._epoch(dataset, epoch)[1], turn)

    def _window(self, dataset: int, epoch: int, number: int) -> Window:
        """A window of an epoch."""
        shards, ends = self._epoch(dataset, epoch)
        shards = tuple(shards[number * self.window : (number + 1) * self.window])
        cumulated = tuple(accumulate(self.counts[dataset][shard] for shard in shards))
        key = mix(self.seed, WINDOW, dataset, epoch, number)
        start = ends[number - 1] if number else 0
        return Window(start, shards, cumulated, permutation(cumulated[-1], key=key))


def turns_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Turns of each data set in a cycle: of the shortest with the weights' shares to 0.5 %.

    Where none of up to 10,000 turns comes so close, the one that comes closest.

    Args:
        weights: positive; they need not sum to 1.

    Raises:
        ConfigError: none, one that is not positive and finite, or too small beside the others.
    """
    if not weights:
        raise ConfigError("no weights; leave them out for equal ones")
    for number, weight in enumerate(weights):
        if weight == 0:
            raise ConfigError(f"weight {number} of {tuple(weights)} is 0: leave the folder out")
        if not 0 < weight < float("inf"):
            raise ConfigError(f"weight {number} of {tuple(weights)} is not positive and finite")
    shares = np.array(weights, np.float64)[:, None] / max(weights)
    shares /= math.fsum(shares[:, 0])
    lengths = np.arange(1, LONGEST + 1)
    turns = np.rint(shares * lengths)
    errors = np.abs(turns / lengths / shares - 1).max(axis=0)
    errors[turns.sum(axis=0) != lengths] = np.inf
    errors[turns.min(axis=0) < 1] = np.inf
    best = int(np.argmax(errors <= TOLERANCE))
    if errors[best] > TOLERANCE:
        best = int(np.argmin(errors))
    if not np.isfinite(errors[best]):
        raise ConfigError(
            f"weight {int(np.argmin(shares))} of {tuple(weights)} is too small: less than one "
            f"sample in {LONGEST}"
        )
    return tuple(int(n) for n in turns[:, best])


def _draw(number: int, *, size: int, without: tuple[int, int]) -> int:
    """One of range(size) outside of ``without``, as a hash says."""
    start, stop = without
    value = number % (size - (stop - start))
    return value if value < start else value + stop - start
