"""Scores of a segmentation: variation of information and adapted Rand error, from one sparse table.

Both compare two labellings only through their overlaps: how many voxels lie in segment s and in
ground-truth object t. Neighbouring voxels mostly share both ids, so runs are counted, not voxels.
Overlaps of disjoint parts of a volume add up, so a volume can be scored part by part.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tokenunify_scale.config import DataError

PART_VOXELS = 1 << 24  # voxels counted at a time: bounds the temporary memory
ERRORS = ("ignored", "right", "split", "merge", "missed")  # kinds of Matches.errors
DENSE_CELLS = 1 << 22  # a table of ids of at most this many cells is counted without sorting


@dataclass(frozen=True)
class Score:
    """How far a segmentation is from the ground truth; lower is better, but for the last two."""

    voi_split: float
    """H(segmentation | ground truth) in bits: objects cut into pieces."""
    voi_merge: float
    """H(ground truth | segmentation) in bits: objects joined."""
    voi: float
    """Variation of information: split + merge."""
    arand: float
    """Adapted Rand error in [0, 1]: 1 - the harmonic mean of precision and recall."""
    precision: float
    """Of the voxel pairs inside one segment, the part inside one object: low when objects merge."""
    recall: float
    """Of the voxel pairs inside one object, the part inside one segment: low when objects split."""

    def to_dict(self) -> dict[str, float]:
        """Plain data for result.json."""
        return asdict(self)


@dataclass(frozen=True)
class Overlaps:
    """A sparse contingency table; row i says that ``counts[i]`` voxels carry both of its ids."""

    segments: np.ndarray
    """[N], the segment id of each row, in the dtype of the segmentation."""
    objects: np.ndarray
    """[N], the ground-truth id of each row, in the dtype of the labels."""
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
        segmentation, labels = np.asarray(segmentation), np.asarray(labels)
        if segmentation.shape != labels.shape:
            raise DataError(
                f"segmentation has shape {segmentation.shape} and labels {labels.shape}; "
                "they must be equal (zyx voxels)"
            )
        for name, ids in (("segmentation", segmentation), ("labels", labels)):
            if ids.dtype.kind not in "iub":
                raise DataError(f"{name} has dtype {ids.dtype}; ids must be integers")
        left, right = segmentation.reshape(-1), labels.reshape(-1)
        cuts = [slice(i, i + PART_VOXELS) for i in range(0, max(left.size, 1), PART_VOXELS)]
        table = cls.sum([cls._runs(left[cut], right[cut]) for cut in cuts])
        kept = np.ones(table.counts.size, dtype=bool)
        if ignore_label is not None:
            kept &= table.objects != ignore_label
        if ignore_segment is not None:
            kept &= table.segments != ignore_segment
        return cls(table.segments[kept], table.objects[kept], table.counts[kept])

    @classmethod
    def sum(cls, parts: "Sequence[Overlaps]") -> "Overlaps":
        """The table of a volume from the tables of its disjoint parts."""
        segments = np.concatenate([part.segments for part in parts])
        objects = np.concatenate([part.objects for part in parts])
        counts = np.concatenate([part.counts for part in parts])
        return cls(segments, objects, counts)._merged() if len(parts) > 1 else parts[0]

    @classmethod
    def _runs(cls, segments: np.ndarray, objects: np.ndarray) -> "Overlaps":
        """The table of two flat arrays, by the lengths of runs of equal pairs."""
        change = np.empty(segments.size, dtype=bool)
        change[:1] = True
        np.not_equal(segments[1:], segments[:-1], out=change[1:])
        change[1:] |= objects[1:] != objects[:-1]
        starts = np.flatnonzero(change)
        counts = np.diff(starts, append=segments.size)
        return cls(segments[starts], objects[starts], counts)._merged()

    def _merged(self) -> "Overlaps":
        """The same table with each pair of ids once."""
        rows, row = np.unique(self.segments, return_inverse=True)
        columns, column = np.unique(self.objects, return_inverse=True)
        cell = row * np.int64(columns.size) + column
        if rows.size * columns.size <= DENSE_CELLS:
            totals = np.bincount(cell, weights=self.counts)
            cells = np.flatnonzero(totals)
            totals = totals[cells]
        else:
            cells, cell = np.unique(cell, return_inverse=True)
            totals = np.bincount(cell, weights=self.counts)
        row, column = np.divmod(cells, max(columns.size, 1))
        return Overlaps(rows[row], columns[column], totals.astype(np.int64))

    def score(self) -> Score:
        """Variation of information and adapted Rand error of this table.

        As scikit-image and the published numbers have them: pairs are of two different voxels.
        A segmentation without any pair has precision 1, a ground truth without any recall 1.

        Raises:
            DataError: no voxel counts, as every one carries an ignored id.
        """
        total = float(self.counts.sum())
        if not total:
            raise DataError("nothing to score: labels are all background (the ignored id)")
        n = self.counts.astype(np.float64)
        a = _marginal(self.segments, n)
        b = _marginal(self.objects, n)
        joint, left, right = (-(x / total) @ np.log2(x / total) for x in (n, a, b))
        both, in_segments, in_objects = (float(x @ (x - 1)) for x in (n, a, b))
        pairs = in_segments + in_objects
        split, merge = max(joint - right, 0.0), max(joint - left, 0.0)
        return Score(
            voi_split=float(split),
            voi_merge=float(merge),
            voi=float(split + merge),
            arand=1.0 - 2.0 * both / pairs if pairs else 0.0,
            precision=both / in_segments if in_segments else 1.0,
            recall=both / in_objects if in_objects else 1.0,
        )


@dataclass(frozen=True)
class Matches:
    """For each segment the object it mostly lies in, and for each object its largest part."""

    segments: np.ndarray
    """[S] segment ids, ascending."""
    object_of: np.ndarray
    """[S] the object each segment shares most voxels with."""
    objects: np.ndarray
    """[T] ground-truth ids, ascending."""
    segment_of: np.ndarray
    """[T] the segment each object shares most voxels with."""

    @classmethod
    def of(cls, overlaps: Overlaps) -> "Matches":
        """The best partners of a table that has at least one row."""
        order = np.lexsort((overlaps.counts, overlaps.segments))
        segments, object_of = _last_of_each(overlaps.segments[order], overlaps.objects[order])
        order = np.lexsort((overlaps.counts, overlaps.objects))
        objects, segment_of = _last_of_each(overlaps.objects[order], overlaps.segments[order])
        return cls(segments, object_of, objects, segment_of)

    def errors(self, segmentation: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The kind of error at each voxel.

        Args:
            segmentation: integer ids, any part of the volume the table was made of.
            labels: ground truth of the same shape.

        Returns:
            uint8 of that shape, one of ``ERRORS`` by position: "ignored" where an id is not in the
            table, "right" where segment and object are each other's best partner, "split" where
            the segment lies in this object but is not its largest part, "merge" where it mostly
            lies in another, "missed" where there is only background, id 0.
        """
        segment, known = _places(self.segments, segmentation)
        target, labelled = _places(self.objects, labels)
        here = self.object_of[segment] == labels
        main = self.segment_of[target] == segmentation
        kinds = np.where(here, np.where(main, 1, 2), 3)
        kinds[segmentation == 0] = 4
        return np.where(known & labelled, kinds, 0).astype(np.uint8)


def _last_of_each(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of sorted keys each once, with the value that stands last beside it."""
    last = np.flatnonzero(np.append(keys[1:] != keys[:-1], True))
    return keys[last], values[last]


def _places(table: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of each id in a sorted table, and whether it is there."""
    place = np.minimum(np.searchsorted(table, ids), table.size - 1)
    return place, table[place] == ids


def _marginal(ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Total count of each id."""
    return np.bincount(np.unique(ids, return_inverse=True)[1], weights=counts)


# Paper: Eq. 13 prints the adjusted Rand index; its tables hold the adapted Rand error, as here.
def score(
    segmentation: np.ndarray,
    labels: np.ndarray,
    *,
    ignore_label: int | None = 0,
    ignore_segment: int | None = None,
) -> Score:
    """Compare a segmentation with the ground truth.

    Args:
        segmentation: [D, H, W] integer ids.
        labels: [D, H, W] integer ids of the ground truth.
        ignore_label: ground-truth id whose voxels do not count; None counts all.
        ignore_segment: segment id whose voxels do not count. None, as in the paper, counts all, so
            that background in the segmentation is one more segment; 0 scores only what was
            segmented, which flatters a segmentation that leaves the hard places out.

    Returns:
        VOI in bits (split = H(segmentation | labels), merge = H(labels | segmentation)) and the
        adapted Rand *error* with its precision and recall. scikit-image returns the latter two
        under each other's name.

    Raises:
        DataError: shapes differ, ids are not integers, or no voxel counts.

    Source: Meila 2007, doi 10.1016/j.jmva.2006.11.013; Arganda-Carreras et al. 2015,
    doi 10.3389/fnana.2015.00142.
    """
    table = Overlaps.of(
        segmentation, labels, ignore_label=ignore_label, ignore_segment=ignore_segment
    )
    return table.score()
