"""The region graph of a whole volume, in as few bytes a pair as agglomeration can work in.

Of a noisy volume the graph is what needs memory: millions of pairs of fragments. Fragments are
therefore numbered, and what the parts of a volume counted is read from their files one by one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenunify_scale.postprocess.edges import UNIT, Edges, Needed

MOST = 2**31 - 1  # that an integer of 32 bits holds
SPARE, LONGEST = 1 / 8, 256  # of the pool, kept free for sums of histograms; bins of one


@dataclass(frozen=True)
class Contacts:
    """Pairs of fragments that touch; u and v are places in the list of all fragments."""

    ends: np.ndarray
    """int32 [E, 2], u < v, sorted, each pair once."""
    count: np.ndarray
    """int32 [E], faces; int64 where those of all pairs together need it."""
    total: np.ndarray
    """float64 [E], sum of their affinities, in whole parts of 2**-24."""
    begin: np.ndarray
    """int32 or int64 [E], where in the pool a pair's histogram begins; empty without them."""
    length: np.ndarray
    """uint16 [E], its bins that are not empty; empty without histograms."""
    bins: np.ndarray
    """uint8 [P], the pool: numbers of bins, ascending within a histogram; then room for sums."""
    times: np.ndarray
    """int32 (or as count) [P], the pool: how often each bin was hit."""
    used: int
    """How much of the pool is taken."""
    kept: Needed
    """What of the histograms is here."""

    def __len__(self) -> int:
        """Pairs."""
        return len(self.ends)

    @property
    def mean(self) -> np.ndarray:
        """float64 [E], the mean affinity of each pair."""
        return self.total / self.count

    def copy(self) -> "Contacts":
        """Another one with arrays of its own."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: v.copy() for k, v in own.items() if isinstance(v, np.ndarray)})

    @classmethod
    def of(cls, edges: Edges, nodes: np.ndarray, *, needed: Needed) -> "Contacts":
        """The graph of a table in memory.

        Args:
            edges: of the whole volume.
            nodes: uint64 [N], all fragments' ids, ascending and unique, without 0.
            needed: what to keep of the histograms.

        Raises:
            ValueError: an edge between fragments that ``nodes`` lacks, or too many fragments.
        """
        part = vars(edges.cut(needed))
        return cls._gathered([part], nodes, room=_room([part], nodes, needed), needed=needed)

    @classmethod
    def read(cls, paths: Sequence[Path], nodes: np.ndarray, *, needed: Needed) -> "Contacts":
        """The graph of a volume from its parts' tables, of which one at a time is in memory.

        Args:
            paths: npz files of the arrays of ``Edges``, cut to what is needed. No pair may stand
                in two of them: none does where the ids of each part's fragments are its own.
            nodes: uint64 [N], all fragments' ids, ascending and unique, without 0.
            needed: what to keep of the histograms.

        Raises:
            ValueError: a pair in two files, an edge between fragments that ``nodes`` lacks, or too
                many fragments or pairs.
        """
        room = _room(_opened(paths), nodes, needed)
        contacts = cls._gathered(_opened(paths), nodes, room=room, needed=needed)
        contacts._sort()
        return contacts

    @classmethod
    def _gathered(
        cls,
        parts: Iterable[Mapping[str, np.ndarray]],
        nodes: np.ndarray,
        *,
        room: "_Room",
        needed: Needed,
    ) -> "Contacts":
        """Tables one after the other; arrays are made once, as long as they will be."""
        pairs, entries, faces = room
        whole = _integer(faces)
        pool = entries + int(entries * SPARE) + 2 * LONGEST if needed != "sums" else 0
        with_histograms = pairs if needed != "sums" else 0
        contacts = cls(
            ends=np.empty((pairs, 2), np.int32),
            count=np.empty(pairs, whole),
            total=np.empty(pairs, np.float64),
            begin=np.empty(with_histograms, _integer(max(pool, faces))),
            length=np.empty(with_histograms, np.uint16),
            bins=np.empty(pool, np.uint8),
            times=np.empty(pool, whole),
            used=entries,
            kept=needed,
        )
        row = entry = 0
        for part in parts:
            rows = slice(row, row + len(part["count"]))
            contacts.ends[rows] = _places(part["pairs"], nodes)
            contacts.count[rows] = part["count"]
            contacts.total[rows] = part["total"] / UNIT
            if needed != "sums":
                starts = part["starts"]
                contacts.begin[rows] = starts[:-1] + entry
                contacts.length[rows] = np.diff(starts)
                taken = slice(entry, entry + int(starts[-1]))
                contacts.bins[taken], contacts.times[taken] = part["bins"], part["times"]
                entry = taken.stop
            row = rows.stop
        return contacts

    def _sort(self) -> None:
        """Bring pairs into their order; histograms stay where they are in the pool.

        Raises:
            ValueError: a pair stands twice.
        """
        key = self.ends[:, 0].astype(np.int64)
        key <<= 32
        key |= self.ends[:, 1]
        order = np.argsort(key)
        del key
        for column in (self.ends, self.count, self.total, self.begin, self.length):
            if column.size:
                column[...] = column[order]
        if (self.ends[1:] == self.ends[:-1]).all(axis=1).any():
            raise ValueError("a pair of fragments stands in the tables of two parts")


class _Room(NamedTuple):
    """How much tables hold together."""

    pairs: int
    entries: int
    """Of histograms."""
    faces: int


def _room(parts: Iterable[Mapping[str, np.ndarray]], nodes: np.ndarray, needed: Needed) -> _Room:
    """What arrays will hold, before any is made."""
    pairs = entries = faces = 0
    for part in parts:
        count = part["count"]
        pairs, faces = pairs + len(count), faces + int(count.sum())
        entries += int(part["starts"][-1]) if needed != "sums" else 0
    if max(nodes.size, 2 * pairs) > MOST:
        raise ValueError(f"{nodes.size} fragments and {pairs} pairs; at most {MOST}")
    return _Room(pairs, entries, faces)


def _opened(paths: Iterable[Path]) -> Iterable[Mapping[str, np.ndarray]]:
    """Tables on disk, whose arrays are read when they are asked for."""
    for path in paths:
        with np.load(path) as file:
            yield file


def _places(pairs: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Where the ids of pairs are among all, [E, 2]."""
    places = np.searchsorted(nodes, pairs)
    if pairs.size and not np.array_equal(nodes[np.minimum(places, nodes.size - 1)], pairs):
        raise ValueError("edges join fragments that are not among the nodes")
    return places


def _integer(largest: int) -> type:
    """The integer type that holds a number, as small as it gets."""
    return np.int32 if largest <= MOST else np.int64
