"""A hash table of pairs of ids and how often each occurs, of the ids of any integer type."""

import numpy as np

from tokenunify_scale.metrics import kernels

PIECE = 1 << 16  # voxels whose ids are made uint64 at a time: they stay in the cache
FIRST = 1 << 12  # places of a new table


class Table:
    """An open hash table of pairs and their counts, kept at most two thirds full."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._new(FIRST)

    def _new(self, places: int) -> None:
        self.left, self.right = np.zeros((2, places), dtype=np.uint64)
        self.counts = np.zeros(places, dtype=np.int64)
        self.filled = 0

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Count the pairs of two flat arrays of integers."""
        count = kernels.count()
        for start in range(0, first.size, PIECE):
            a, b = (as_uint64(x[start : start + PIECE]) for x in (first, second))
            done = 0
            while done < a.size:
                done, self.filled = count(
                    a, b, done, self.left, self.right, self.counts, self.filled
                )
                if 3 * self.filled >= 2 * self.left.size:
                    self._grow()

    def _grow(self) -> None:
        before, filled = (self.left, self.right, self.counts), self.filled
        self._new(2 * self.left.size)
        kernels.insert()(*before, self.left, self.right, self.counts)
        self.filled = filled

    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs and counts, in no order."""
        taken = np.flatnonzero(self.counts)
        return self.left[taken], self.right[taken], self.counts[taken]


def as_uint64(ids: np.ndarray) -> np.ndarray:
    """Integers as contiguous uint64, negative ones as their bits; a view where that is possible."""
    ids = np.ascontiguousarray(ids)
    if ids.dtype.kind in "iu" and ids.dtype.itemsize == 8 and ids.dtype.isnative:
        return ids.view(np.uint64)
    return ids.astype(np.uint64)
