"""The region graph of fragments: who touches whom, over how many faces, with which affinities.

A face is an edge (p, p - e) of the voxel grid between two fragments; it belongs to the part of a
volume that owns p. Everything is kept in integers, so that the tables of parts add up to exactly
the table of the whole, in whatever order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tokenunify_scale.volumes.geometry import Box, edges

Needed = Literal["all", "highest", "sums"]
UNIT = 1 << 24  # affinities are counted in parts of it: all that float32 tells apart above 0.5
BINS = 256
FACES = 1 << 22  # faces sorted at a time: bounds the temporary memory
MOST_NODES = 1 << 20  # fragments whose pairs fit in a key beside an affinity


@dataclass(frozen=True)
class Edges:
    """Pairs of fragments that touch, and histograms of the affinities between them."""

    pairs: np.ndarray
    """uint64 [E, 2], ids u < v, sorted, each pair once."""
    count: np.ndarray
    """int64 [E], faces."""
    total: np.ndarray
    """int64 [E], sum of their affinities in parts of ``UNIT``."""
    starts: np.ndarray
    """int64 [E + 1], where in ``bins`` and ``times`` each pair's histogram begins."""
    bins: np.ndarray
    """uint8 [N], the bins of [0, 1] that are not empty, ascending within a pair."""
    times: np.ndarray
    """int64 [N], the faces in each."""

    def __len__(self) -> int:
        """Pairs."""
        return len(self.pairs)

    @property
    def highest(self) -> np.ndarray:
        """uint8 [E], the bin of the highest affinity of each pair."""
        return self.bins[self.starts[1:] - 1]

    def cut(self, needed: Needed) -> "Edges":
        """The same table with no more of the histograms than is needed, which are most of it.

        Args:
            needed: "all" of them; the "highest" bin of each pair; only the "sums", for means.
        """
        if needed == "all":
            return self
        bins, times = self.highest, np.ones_like(self.count)
        if needed == "sums":
            bins, times = np.zeros_like(bins), self.count
        return replace(self, starts=np.arange(len(self) + 1), bins=bins, times=times)

    @classmethod
    def empty(cls) -> "Edges":
        """The table of a volume without pairs."""
        return cls(
            pairs=np.zeros((0, 2), np.uint64),
            count=np.zeros(0, np.int64),
            total=np.zeros(0, np.int64),
            starts=np.zeros(1, np.int64),
            bins=np.zeros(0, np.uint8),
            times=np.zeros(0, np.int64),
        )

    @classmethod
    def of(
        cls, affinities: np.ndarray, fragments: np.ndarray, *, box: Box | None = None
    ) -> "Edges":
        """Count the faces of a volume, or of the part of it that owns ``box``.

        Args:
            affinities: [C, D, H, W] float32 in [0, 1], of which the first three channels are read;
                channel c at p is the edge (p, p - e_c).
            fragments: [D, H, W] ids; 0 is no fragment.
            box: the voxels p whose faces count, in voxels of these arrays; the voxels p - e are
                read from one plane before it, where the arrays have one. All voxels unless said.

        Raises:
            ValueError: the shapes differ, there are fewer than three channels, or the box lies
                outside.
        """
        shape = fragments.shape
        if affinities.ndim != 4 or len(affinities) < 3 or affinities.shape[1:] != shape:
            raise ValueError(f"affinities {affinities.shape} do not fit fragments {shape} (zyx)")
        box = Box.of(shape) if box is None else box
        if not Box.of(shape).contains(box):
            raise ValueError(f"box {box.start} to {box.stop} is not within {shape} (zyx voxels)")
        depth = max(1, FACES // max(1, 3 * box.shape[1] * box.shape[2]))
        parts = []
        for z in range(box.start[0], box.stop[0], depth):
            slab = Box((z, *box.start[1:]), (min(z + depth, box.stop[0]), *box.stop[1:]))
            parts.append(cls._slab(affinities, fragments, slab))
        return cls.sum(parts)

    @classmethod
    def _slab(cls, affinities: np.ndarray, fragments: np.ndarray, box: Box) -> "Edges":
        """The table of a box small enough to be counted at once."""
        first = tuple(max(a - 1, 0) for a in box.start)
        window = Box(first, box.stop)
        own = box.shift(tuple(-a for a in first)).start
        ids, nodes = _dense(fragments[window.slices])
        values = affinities[(slice(0, 3), *window.slices)]
        faces = [
            _faces(nodes, values[axis], own=own, axis=axis, background=bool(ids[0] == 0))
            for axis in range(3)
        ]
        return cls._count(ids, *(np.concatenate(column) for column in zip(*faces, strict=True)))

    @classmethod
    def _count(cls, ids: np.ndarray, u: np.ndarray, v: np.ndarray, units: np.ndarray) -> "Edges":
        """The table of faces between the u-th and the v-th of ``ids``, u < v."""
        if not u.size:
            return cls.empty()
        if ids.size > MOST_NODES:
            half = u.size // 2
            parts = [(x[:half], x[half:]) for x in (u, v, units)]
            if u.size > MOST_NODES // 2:
                return cls.sum([cls._count(ids, *(x[i] for x in parts)) for i in (0, 1)])
            used, place = np.unique(np.concatenate([u, v]), return_inverse=True)
            ids, u, v = ids[used], place[: u.size], place[u.size :]
        pair = u.astype(np.uint64) * np.uint64(ids.size) + v.astype(np.uint64)
        key = pair << np.uint64(24) | units
        key.sort()
        rows = np.flatnonzero(_changes(key >> np.uint64(16)))  # a pair and a bin
        pair = key[rows] >> np.uint64(24)
        new = _changes(pair)
        first = rows[new]  # of the faces of each pair
        units = (key & np.uint64(UNIT - 1)).astype(np.int64)
        units += units == UNIT - 1  # stands for 1
        u, v = np.divmod(pair[new], np.uint64(ids.size))
        return cls(
            pairs=np.stack([ids[u], ids[v]], axis=1).astype(np.uint64),
            count=np.diff(first, append=key.size),
            total=np.add.reduceat(units, first),
            starts=np.append(np.flatnonzero(new), rows.size),
            bins=(key[rows] >> np.uint64(16)).astype(np.uint8),
            times=np.diff(rows, append=key.size),
        )

    @classmethod
    def sum(cls, parts: "Sequence[Edges]") -> "Edges":
        """The table of a volume from those of parts that own its voxels between them."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return cls.empty()
        if len(parts) == 1:
            return parts[0]
        pairs = np.concatenate([part.pairs for part in parts])
        ids, place = np.unique(pairs, return_inverse=True)
        place = place.reshape(-1, 2).astype(np.uint64)
        pair = place[:, 0] * np.uint64(ids.size) + place[:, 1]
        distinct, row = np.unique(pair, return_inverse=True)
        lengths = np.concatenate([np.diff(part.starts) for part in parts])
        bins = np.concatenate([part.bins for part in parts])
        key = np.repeat(row, lengths) * BINS + bins
        order = np.argsort(key, kind="stable")
        key = key[order]
        rows = np.flatnonzero(_changes(key))
        times = np.add.reduceat(np.concatenate([part.times for part in parts])[order], rows)
        starts = np.flatnonzero(_changes(key[rows] // BINS))
        count, total = np.zeros((2, distinct.size), np.int64)
        np.add.at(count, row, np.concatenate([part.count for part in parts]))
        np.add.at(total, row, np.concatenate([part.total for part in parts]))
        u, v = np.divmod(distinct, np.uint64(ids.size))
        return cls(
            pairs=np.stack([ids[u], ids[v]], axis=1),
            count=count,
            total=total,
            starts=np.append(starts, rows.size),
            bins=(key[rows] % BINS).astype(np.uint8),
            times=times,
        )


def _changes(values: np.ndarray) -> np.ndarray:
    """Where a value differs from the one before; the first one does."""
    new = np.ones(values.size, dtype=bool)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return new


def _dense(fragments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a volume, ascending, and the number of each voxel's among them, int32."""
    flat = np.ascontiguousarray(fragments).reshape(-1)
    begin = np.flatnonzero(_changes(flat))  # neighbours mostly share an id: runs are looked up
    ids, number = np.unique(flat[begin], return_inverse=True)
    lengths = np.diff(begin, append=flat.size)
    return ids, np.repeat(number.astype(np.int32), lengths).reshape(fragments.shape)


def _faces(
    nodes: np.ndarray, affinities: np.ndarray, *, own: tuple, axis: int, background: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Faces of one channel that the voxels from ``own`` on have: both ends u < v, and units."""
    offset = tuple(int(k == axis) for k in range(3))
    here, there = edges(offset, sides=nodes.shape)
    shift = [max(a - s.start, 0) for a, s in zip(own, here, strict=True)]
    here = tuple(slice(s.start + d, s.stop) for s, d in zip(here, shift, strict=True))
    there = tuple(slice(s.start + d, s.stop) for s, d in zip(there, shift, strict=True))
    p, q = nodes[here], nodes[there]
    faces = p != q
    if background:
        faces &= (p != 0) & (q != 0)
    p, q = p[faces], q[faces]
    units = np.minimum(affinities[here][faces] * np.float32(UNIT), UNIT - 1).astype(np.uint64)
    return np.minimum(p, q), np.maximum(p, q), units
