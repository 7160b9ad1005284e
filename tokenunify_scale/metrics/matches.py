"""Which segment is which object, and the kind of error at each voxel."""

from dataclasses import dataclass

import numpy as np

from tokenunify_scale.metrics.overlaps import Overlaps

ERRORS = ("ignored", "right", "split", "merge", "missed")  # kinds of Matches.errors


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
