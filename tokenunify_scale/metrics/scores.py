"""Variation of information and Rand scores of one table of overlaps."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from tokenunify_scale.config import DataError

Units = Literal["bits", "nats"]


@dataclass(frozen=True)
class Score:
    """How far a segmentation is from the ground truth."""

    voi_split: float
    """H(segmentation | ground truth): objects cut into pieces. Lower is better."""
    voi_merge: float
    """H(ground truth | segmentation): objects joined."""
    voi: float
    """Variation of information: split + merge."""
    arand: float
    """Adapted Rand error in [0, 1]: 1 - the harmonic mean of precision and recall."""
    precision: float
    """Of the voxel pairs inside one segment, the part inside one object: low when objects merge."""
    recall: float
    """Of the voxel pairs inside one object, the part inside one segment: low when objects split."""
    rand: float
    """Adjusted Rand index: 1 for equal labellings, about 0 for chance. Higher is better."""
    cremi: float
    """CREMI score: sqrt(VOI * adapted Rand error), with VOI in bits whatever the units."""

    @classmethod
    def of(
        cls, segments: np.ndarray, objects: np.ndarray, counts: np.ndarray, *, units: Units = "bits"
    ) -> "Score":
        """The scores of a contingency table.

        As scikit-image and the published numbers have them: pairs are of two different voxels.
        A segmentation without any pair has precision 1, a ground truth without any recall 1.

        Args:
            segments: [N], the segment id of each row.
            objects: [N], the ground-truth id of each row; a pair of ids stands in one row only.
            counts: [N], voxels that carry both, at least one row.
            units: of variation of information.

        Raises:
            DataError: there is no voxel.
        """
        total = float(counts.sum())
        if not total:
            raise DataError("nothing to score: no voxel is left")
        n = counts.astype(np.float64)
        a, b = marginal(segments, n), marginal(objects, n)
        joint, left, right = (-(x / total) @ np.log2(x / total) for x in (n, a, b))
        both, in_segments, in_objects = (float(x @ (x - 1)) for x in (n, a, b))
        pairs = in_segments + in_objects
        split, merge = max(float(joint - right), 0.0), max(float(joint - left), 0.0)
        arand = 1.0 - 2.0 * both / pairs if pairs else 0.0
        unit = math.log(2) if units == "nats" else 1.0
        return cls(
            voi_split=split * unit,
            voi_merge=merge * unit,
            voi=(split + merge) * unit,
            arand=arand,
            precision=both / in_segments if in_segments else 1.0,
            recall=both / in_objects if in_objects else 1.0,
            rand=_adjusted(both, in_segments, in_objects, total * (total - 1)),
            cremi=math.sqrt((split + merge) * max(arand, 0.0)),
        )

    def to_dict(self) -> dict[str, float]:
        """Plain data for result.json."""
        return asdict(self)


def marginal(ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Total count of each id, in ascending order of the ids."""
    if 0 <= ids.min() and ids.max() < 4 * ids.size:
        totals = np.bincount(ids.astype(np.int64), weights=counts)
        return totals[totals > 0]
    return np.bincount(np.unique(ids, return_inverse=True)[1], weights=counts)


def _adjusted(both: float, in_segments: float, in_objects: float, pairs: float) -> float:
    """Adjusted Rand index from numbers of ordered pairs of voxels; Hubert and Arabie 1985."""
    chance = in_segments * in_objects / pairs if pairs else 0.0
    most = (in_segments + in_objects) / 2
    # Both are one piece, or both single voxels: they are equal.
    return (both - chance) / (most - chance) if most != chance else 1.0
