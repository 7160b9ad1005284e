"""How many voxels lie in segment s and in ground-truth object t: one sparse table, in one pass.

Scores and errors compare two labellings only through this table. The tables of disjoint parts of
a volume add up, so that a volume larger than memory is counted part by part.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.metrics.scores import Score, Units
from tokenunify_scale.metrics.tables import Table

WORTH_A_THREAD = 1 << 21  # voxels


@dataclass(frozen=True)
class Overlaps:
    """A sparse contingency table; row i says that ``counts[i]`` voxels carry both of its ids."""

    segments: np.ndarray
    """[N], the segment id of each row, in the segmentation's dtype (native bytes); ascending."""
    objects: np.ndarray
    """[N], the ground-truth id of each row, in the dtype of the labels; ascending in a segment."""
    counts: np.ndarray
    """[N] int64, voxels; each pair of ids stands once."""

    @classmethod
    def of(
        cls,
        segmentation: np.ndarray,
        labels: np.ndarray,
        *,
        ignore_label: int | None = 0,
        ignore_segment: int | None = None,
    ) -> "Overlaps":
        """Count the pairs of ids of two volumes.

        Args:
            segmentation: [D, H, W] (or any shape) of integers; ids up to 2**64 - 1 stay exact.
            labels: ground truth of the same shape.
            ignore_label: voxels with this ground-truth id do not count; None counts all.
            ignore_segment: voxels with this segment id do not count; None counts all.

        Raises:
            DataError: shapes differ, or ids are not integers.
        """
        counter = Counter()
        counter.add(segmentation, labels)
        table = counter.overlaps()
        return table.without(ignore_label=ignore_label, ignore_segment=ignore_segment)

    @classmethod
    def sum(cls, parts: "Sequence[Overlaps]") -> "Overlaps":
        """The table of a volume from the tables of its disjoint parts; at least one."""
        if len(parts) == 1:
            return parts[0]
        segments = np.concatenate([part.segments for part in parts])
        objects = np.concatenate([part.objects for part in parts])
        counts = np.concatenate([part.counts for part in parts])
        order = _order(segments, objects)
        segments, objects, counts = segments[order], objects[order], counts[order]
        new = np.ones(counts.size, dtype=bool)
        new[1:] = (segments[1:] != segments[:-1]) | (objects[1:] != objects[:-1])
        starts = np.flatnonzero(new)
        totals = np.add.reduceat(counts, starts) if starts.size else counts
        return cls(segments[starts], objects[starts], totals)

    def without(
        self, *, ignore_label: int | None = None, ignore_segment: int | None = None
    ) -> "Overlaps":
        """The table without the voxels of one object, or of one segment; None keeps all."""
        kept = np.ones(self.counts.size, dtype=bool)
        if ignore_label is not None:
            kept &= self.objects != ignore_label
        if ignore_segment is not None:
            kept &= self.segments != ignore_segment
        return Overlaps(self.segments[kept], self.objects[kept], self.counts[kept])

    def score(self, *, units: Units = "bits") -> Score:
        """The scores of this table; see ``Score.of``.

        Raises:
            DataError: no voxel counts, as every one carries an ignored id.
        """
        if not self.counts.size:
            raise DataError("nothing to score: labels are all background (the ignored id)")
        return Score.of(self.segments, self.objects, self.counts, units=units)


class Counter:
    """Overlaps of a volume that is read part by part; memory grows with the pairs of ids only."""

    def __init__(self) -> None:
        """Count nothing yet."""
        self._tables = [Table() for _ in range(threads())]
        self._dtypes: tuple[np.dtype, np.dtype] | None = None

    def add(self, segmentation: np.ndarray, labels: np.ndarray) -> None:
        """Count the pairs of ids of one part.

        Args:
            segmentation: any shape, of integers; all parts of one dtype.
            labels: of the same shape.

        Raises:
            DataError: shapes differ, or ids are not integers.
            ValueError: the dtype differs from that of the parts before.
        """
        segmentation, labels = np.asarray(segmentation), np.asarray(labels)
        if segmentation.shape != labels.shape:
            raise DataError(
                f"segmentation has shape {segmentation.shape} and labels {labels.shape}; "
                "they must be equal (zyx voxels)"
            )
        check_ids("segmentation", segmentation.dtype)
        check_ids("labels", labels.dtype)
        dtypes = (segmentation.dtype, labels.dtype)
        if self._dtypes not in (None, dtypes):
            raise ValueError(f"parts of {self._dtypes} and {dtypes} are not of one volume")
        self._dtypes = dtypes
        first, second = segmentation.reshape(-1), labels.reshape(-1)
        parts = max(min(len(self._tables), first.size // WORTH_A_THREAD), 1)
        cuts = [first.size * i // parts for i in range(parts + 1)]
        work = [
            (table, first[a:b], second[a:b])
            for table, a, b in zip(self._tables, cuts, cuts[1:], strict=False)
        ]
        if parts == 1:
            Table.add(*work[0])
            return
        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(lambda task: Table.add(*task), work))

    def overlaps(self) -> Overlaps:
        """The table of all parts so far; at least one."""
        first, second = self._dtypes
        rows = [table.rows() for table in self._tables]
        empty = Overlaps(np.empty(0, first), np.empty(0, second), np.empty(0, np.int64))
        parts = [Overlaps(_as(a, first), _as(b, second), counts) for a, b, counts in rows]
        return Overlaps.sum([empty, *parts])


def check_ids(name: str, dtype: np.dtype) -> None:
    """Refuse ids that are not integers.

    Raises:
        DataError: naming the volume and its dtype.
    """
    if np.dtype(dtype).kind not in "iub":
        raise DataError(f"{name} has dtype {dtype}; ids must be integers")


def threads() -> int:
    """Threads to count with: OMP_NUM_THREADS, as torch has it, or the processors there are."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) else (os.cpu_count() or 1)


def _order(segments: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """What sorts rows by segment, then object; by one key where the two fit into 63 bits."""
    if segments.size and min(segments.min(), objects.min()) >= 0:
        base = int(objects.max()) + 1
        if (int(segments.max()) + 1) * base < 1 << 63:
            return np.argsort(segments.astype(np.int64) * base + objects.astype(np.int64))
    return np.lexsort((objects, segments))


def _as(ids: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The inverse of ``as_uint64``."""
    return ids.view(np.int64).astype(dtype) if dtype.kind == "i" else ids.astype(dtype)


# Paper: Eq. 13 prints the adjusted Rand index; its tables hold the adapted Rand error. Both here.
def score(
    segmentation: np.ndarray,
    labels: np.ndarray,
    *,
    ignore_label: int | None = 0,
    ignore_segment: int | None = None,
    units: Units = "bits",
) -> Score:
    """Compare a segmentation with the ground truth.

    Args:
        segmentation: [D, H, W] integer ids.
        labels: [D, H, W] integer ids of the ground truth.
        ignore_label: ground-truth id whose voxels do not count; None counts all.
        ignore_segment: segment id whose voxels do not count. None, as in the paper, counts all, so
            that background in the segmentation is one more segment; 0 scores only what was
            segmented, which flatters a segmentation that leaves the hard places out.
        units: of VOI.

    Returns:
        VOI (split = H(segmentation | labels), merge = H(labels | segmentation)), the adapted Rand
        *error* with its precision and recall, the adjusted Rand index and the CREMI score.
        scikit-image returns precision and recall under each other's name.

    Raises:
        DataError: shapes differ, ids are not integers, or no voxel counts.

    Source: Meila 2007, doi 10.1016/j.jmva.2006.11.013; Arganda-Carreras et al. 2015,
    doi 10.3389/fnana.2015.00142; Hubert and Arabie 1985, doi 10.1007/BF01908075.
    """
    table = Overlaps.of(
        segmentation, labels, ignore_label=ignore_label, ignore_segment=ignore_segment
    )
    return table.score(units=units)
