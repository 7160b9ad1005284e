"""At once: each threshold its segmentation, specks dissolved, what is left numbered from 1."""

import numpy as np
import pytest

from tests.postprocess.drifting import columns, flipped, perfect, predicted
from tokenunify_scale.metrics import score
from tokenunify_scale.postprocess.source import open_affinities
from tokenunify_scale.postprocess.waterz import WaterzConfig
from tokenunify_scale.postprocess.whole import segment_whole

SHAPE = (6, 40, 44)


def test_perfect_affinities_give_the_labels_back(tmp_path):
    labels = columns(SHAPE, count=8)
    source = open_affinities(predicted(tmp_path, perfect(labels)))
    found = segment_whole(
        source, method="waterz", options=WaterzConfig(), min_size=0, dissolve="nearest"
    )
    assert score(found.arrays["segmentation"], labels).voi < 0.01
    assert found.blocks == 1 and found.fragments == len(np.unique(found.arrays["fragments"]))
    assert found.segments["segmentation"].count == labels.max()


@pytest.mark.parametrize("dissolve", ["nearest", "background"])
def test_every_threshold_is_dissolved_and_numbered_on_its_own(tmp_path, dissolve):
    source = open_affinities(predicted(tmp_path, flipped(perfect(columns(SHAPE, count=8)), 0.1)))
    options = WaterzConfig(scoring="mean", threshold=(0.5, 0.2, 0.6))
    found = segment_whole(source, method="waterz", options=options, min_size=30, dissolve=dissolve)
    assert list(found.segments) == ["segmentation", "segmentation_0.2", "segmentation_0.6"]
    counts = [found.segments[name].count for name in found.segments]
    assert counts[1] >= counts[0] >= counts[2]
    for name, told in found.segments.items():
        ids, sizes = np.unique(found.arrays[name], return_counts=True)
        assert ids[ids > 0].tolist() == list(range(1, told.count + 1))
        assert sizes[ids > 0].min() >= 30
        assert told.background == np.mean(found.arrays[name] == 0)
        assert (told.background == 0) == (dissolve == "nearest" or told.removed == 0)
    assert found.segments["segmentation_0.2"].removed > 0
