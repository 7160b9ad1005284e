"""The kind of error at a voxel follows from which segment is which object."""

import numpy as np

from tokenunify_scale.metrics import ERRORS, Matches, Overlaps


def test_voxels_are_called_split_merged_missed_or_right_by_the_best_partners():
    labels = np.array([1, 1, 1, 1, 1, 2, 2, 3, 3, 3, 0])
    segmentation = np.array([5, 5, 5, 6, 6, 7, 0, 8, 8, 5, 9])
    kinds = Matches.of(Overlaps.of(segmentation, labels)).errors(segmentation, labels)
    names = [ERRORS[kind] for kind in kinds]
    assert names[:7] == ["right"] * 3 + ["split"] * 2 + ["right", "missed"]
    assert names[7:] == ["right", "right", "merge", "ignored"]
