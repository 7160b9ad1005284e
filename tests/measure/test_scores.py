"""Scoring is timed beside scikit-image, on labels like a lab's, and both say the same."""

import numpy as np
import pytest

from tokenunify_scale.measure import clock, scores


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(clock, "TURN", 0.0)


def test_both_are_timed_and_agree(quick):
    measured = scores.compare((8, 40, 300), repeats=1)
    like, random = measured["inputs"].values()
    assert like["shape"] == [8, 40, 300] and random["shape"] == [2, 40, 300]
    assert all(value > 0 for found in (like, random) for value in found["seconds"].values())
    ratio, unjudged, equal = scores.scores_findings(measured)
    assert ratio.judged and not unjudged.judged and equal.met
    assert "scikit-image" in scores.scores_table(measured)


def test_supervoxels_cut_every_large_neuron_and_cross_some_borders():
    labels, segmentation = scores.supervoxels((8, 256, 512))
    found = scores.score(segmentation, labels)
    assert found.voi_split > 1 and 0 < found.voi_merge < found.voi_split
    assert labels[:, :, :256].max() < labels[:, :, 256:].max()
    for ids in (labels, segmentation):
        present = np.unique(ids)
        assert np.array_equal(present, np.arange(present[0], present[-1] + 1))


def test_a_difference_of_the_scores_fails():
    found = {"shape": [1, 1, 1], "seconds": {scores.OURS: 1.0, scores.THEIRS: 9.0}}
    measured = {"inputs": {scores.LIKE: {**found, "difference": 1e-6}}}
    ratio, equal = scores.scores_findings(measured)
    assert ratio.met and not equal.met
