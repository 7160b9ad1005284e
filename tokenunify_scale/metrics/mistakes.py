"""The worst objects of a segmentation: what is cut, what is joined, and where that is."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tokenunify_scale.metrics.overlaps import Overlaps
from tokenunify_scale.metrics.scores import Units

SHOWN = 5  # partners named of each mistake


@dataclass(frozen=True)
class Mistake:
    """An object that is cut into pieces, or a segment that joins several objects."""

    kind: Literal["split", "merge", "missed"]
    """Split: ``id`` is an object, its partners segments. Merge: ``id`` is a segment, its partners
    objects. Missed: the voxels of objects that are background 0 of the segmentation."""
    id: int
    voxels: int
    """Scored voxels that carry the id."""
    voi: float
    """What it adds to VOI split, or else to VOI merge, in the units asked for."""
    parts: int
    """How many partners it has."""
    partners: tuple[tuple[int, int], ...]
    """The largest of them: id and shared voxels, largest first."""

    @property
    def pair(self) -> tuple[int, int]:
        """Segment and object where the error is: its largest share beside the main one.

        Of a split that is the second segment; what an object lacks, if it has no other. What was
        missed has no main share.
        """
        if self.kind == "split":
            pieces = [one for one, _ in self.partners if one != 0]
            return (pieces[1] if len(pieces) > 1 else 0), self.id
        return self.id, self.partners[0 if self.kind == "missed" else 1][0]


def worst(overlaps: Overlaps, *, count: int, units: Units = "bits") -> list[Mistake]:
    """The objects that add most to VOI split, then the segments that add most to VOI merge.

    The contributions of all objects sum to VOI split, those of all segments to VOI merge.
    Background 0 of the segmentation, if it counts, is no merge but "missed", one row behind them.

    Args:
        overlaps: without the ids that do not count.
        count: most splits, and most merges.
        units: of the contributions.
    """
    scale = 1.0 / (overlaps.counts.sum() * (math.log(2) if units == "bits" else 1.0))
    splits = _ranked(overlaps.objects, overlaps.segments, overlaps.counts, scale)
    merges = _ranked(overlaps.segments, overlaps.objects, overlaps.counts, scale)
    found = [Mistake("split", *splits.row(place)) for place in splits.order[:count]]
    joined = [place for place in merges.order[: count + 1] if merges.ids[place] != 0]
    found += [Mistake("merge", *merges.row(place)) for place in joined[:count]]
    missed = [place for place in np.flatnonzero(merges.ids == 0) if count]
    return found + [Mistake("missed", *merges.row(place)) for place in missed]


@dataclass(frozen=True)
class _Ranked:
    """Rows of a table grouped by one of its ids."""

    ids: np.ndarray
    starts: np.ndarray
    """First row of each id, and the number of rows."""
    partners: np.ndarray
    counts: np.ndarray
    voi: np.ndarray
    """[ids]."""
    order: np.ndarray
    """Places in ``ids`` of those with several partners, worst first."""

    def row(self, place: int) -> tuple[int, int, float, int, tuple[tuple[int, int], ...]]:
        """The fields of a mistake, but for its kind."""
        rows = slice(self.starts[place], self.starts[place + 1])
        partners, counts = self.partners[rows], self.counts[rows]
        largest = np.argsort(-counts, kind="stable")[:SHOWN]
        named = tuple((int(partners[i]), int(counts[i])) for i in largest)
        voi = float(self.voi[place])
        return int(self.ids[place]), int(counts.sum()), voi, int(counts.size), named


def _ranked(ids: np.ndarray, partners: np.ndarray, counts: np.ndarray, scale: float) -> _Ranked:
    """Group rows by ``ids``; an id adds sum n log(total / n), times ``scale``, to VOI."""
    order = np.lexsort((partners, ids))
    ids, partners, counts = ids[order], partners[order], counts[order]
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])) if ids.size else np.empty(0, int)
    bounds = np.append(starts, ids.size)
    sizes = np.diff(bounds)
    totals = np.add.reduceat(counts, starts) if ids.size else counts
    terms = counts * np.log(np.repeat(totals, sizes) / counts)
    voi = scale * (np.add.reduceat(terms, starts) if ids.size else terms)
    several = np.flatnonzero(sizes > 1)
    ranked = several[np.argsort(-voi[several], kind="stable")]
    return _Ranked(ids[starts], bounds, partners, counts, voi, ranked)
