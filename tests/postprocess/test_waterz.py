"""Agglomeration: exact on perfect affinities, silent, and strict about its options."""

import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

from tokenunify_scale.config import ConfigError, DataError, HostError
from tokenunify_scale.data.affinities import affinities_from_labels
from tokenunify_scale.metrics import score
from tokenunify_scale.postprocess.waterz import WaterzConfig, segment
from tokenunify_scale.registry import POSTPROCESS


def columns(shape=(10, 60, 60), *, count=12, seed=1):
    """Gapless neurites that run through all sections, drifting."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int64)
    centres = generator.uniform(0, shape[1:], (count, 2))
    rows, cols = np.mgrid[: shape[1], : shape[2]]
    for z in range(shape[0]):
        moved = centres + z * 0.4
        distance = (rows - moved[:, 0, None, None]) ** 2 + (cols - moved[:, 1, None, None]) ** 2
        labels[z] = distance.argmin(axis=0) + 1
    return labels


def perfect(labels):
    return affinities_from_labels(torch.from_numpy(labels))[0].numpy()


def with_gaps(labels):
    size = (1, 3, 3)
    same = ndimage.maximum_filter(labels, size) == ndimage.minimum_filter(labels, size)
    return np.where(same, labels, 0)


@pytest.mark.parametrize("scoring", ["paper", "median", "mean"])
@pytest.mark.parametrize("fragments", ["sections", "volume"])
def test_perfect_affinities_of_gapless_labels_give_the_labels_back(scoring, fragments):
    labels = columns()
    config = WaterzConfig(scoring=scoring, fragments=fragments)
    found, pieces = segment(config, perfect(labels))
    assert found.dtype == pieces.dtype == np.uint64
    assert score(found, labels).voi < 0.01
    assert len(np.unique(pieces)) > len(np.unique(found))


def test_labels_with_gaps_come_back_and_by_the_papers_flooding_but_for_slivers():
    labels = with_gaps(columns())
    found, _ = segment(WaterzConfig(), perfect(labels))
    assert score(found, labels).voi < 0.01
    flooded, _ = segment(WaterzConfig(attach="flood"), perfect(labels))
    assert 0.01 < score(flooded, labels).voi < 0.05


def test_flooding_alone_joins_gapless_neurites_however_perfect_the_affinities():
    labels = columns()
    found, _ = segment(WaterzConfig(attach="flood"), perfect(labels))
    assert score(found, labels).voi_merge > 1


def test_a_few_wrong_affinities_cost_little():
    labels = with_gaps(columns())
    affinities = perfect(labels)
    generator = np.random.default_rng(0)
    noisy = np.where(generator.random(affinities.shape) < 0.02, 1 - affinities, affinities)
    found, _ = segment(WaterzConfig(scoring="mean", fragments="volume"), noisy)
    assert score(found, labels).voi < 0.5


def test_reversed_channels_are_far_off():
    labels = columns()
    found, _ = segment(WaterzConfig(scoring="mean"), perfect(labels)[::-1])
    assert score(found, labels).voi > 0.1


def test_the_input_is_left_alone_and_a_lower_threshold_joins_less():
    affinities = ndimage.gaussian_filter(perfect(with_gaps(columns())), (0, 1, 1, 1))
    kept = affinities.copy()
    counts = [
        len(np.unique(segment(WaterzConfig(scoring="mean", threshold=t), affinities)[0]))
        for t in (0.0, 0.3, 0.9)
    ]
    assert counts[0] > counts[1] > counts[2]
    assert np.array_equal(affinities, kept)


def test_nothing_is_printed(capfd):
    segment(WaterzConfig(), perfect(columns((3, 20, 20), count=3)))
    print("still here")
    assert capfd.readouterr().out == "still here\n"


def test_nan_is_refused():
    affinities = perfect(columns((3, 20, 20), count=3))
    affinities[1, 2, 3, 4] = np.nan
    with pytest.raises(DataError, match=r"\[1, 2, 3, 4\]"):
        segment(WaterzConfig(), affinities)


@pytest.mark.parametrize("option, value", [("bins", 100), ("threshold", 1.5), ("boundary", -1)])
def test_options_out_of_range_name_the_value(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        WaterzConfig(**{option: value})


def test_absence_of_the_library_is_an_error_of_the_host(monkeypatch):
    monkeypatch.setitem(sys.modules, "waterz", None)
    with pytest.raises(HostError, match="pip install waterz"):
        segment(WaterzConfig(), np.ones((3, 2, 4, 4), np.float32))


def test_it_is_in_the_registry():
    entry = POSTPROCESS.get("waterz")
    assert entry.factory is segment and entry.config == WaterzConfig()
