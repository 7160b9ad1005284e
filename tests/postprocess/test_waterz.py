"""Agglomeration: exact on perfect affinities, silent, and strict about its options."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.postprocess.drifting import columns as drifting
from tokenunify_scale.config import ConfigError, DataError, HostError, build
from tokenunify_scale.data.affinities import NEAREST, affinities_from_labels
from tokenunify_scale.metrics import score
from tokenunify_scale.postprocess import waterz
from tokenunify_scale.postprocess.waterz import WaterzConfig, template
from tokenunify_scale.registry import POSTPROCESS

PAPER = WaterzConfig(scoring="paper", doubt=0, repair=0, attach="flood")


def columns(shape=(10, 60, 60), *, count=12):
    return drifting(shape, count=count)


def segment(config, affinities):
    """The first segmentation, and the fragments."""
    found, pieces = waterz.segment(config, affinities, offsets=NEAREST)
    return next(iter(found.values())), pieces


def perfect(labels):
    return affinities_from_labels(torch.from_numpy(labels))[0].numpy()


def with_gaps(labels):
    size = (1, 3, 3)
    same = ndimage.maximum_filter(labels, size) == ndimage.minimum_filter(labels, size)
    return np.where(same, labels, 0)


@pytest.mark.parametrize("doubt", [0, 3])
@pytest.mark.parametrize("scoring", ["paper", "q60", "mean"])
@pytest.mark.parametrize("fragments", ["sections", "volume"])
def test_perfect_affinities_of_gapless_labels_give_the_labels_back(scoring, fragments, doubt):
    labels = columns()
    config = WaterzConfig(scoring=scoring, fragments=fragments, doubt=doubt)
    found, pieces = segment(config, perfect(labels))
    assert found.dtype == pieces.dtype == np.uint64
    assert score(found, labels).voi < 0.01
    assert len(np.unique(pieces)) > len(np.unique(found))


def test_labels_with_gaps_come_back_and_by_the_papers_flooding_but_for_slivers():
    labels = with_gaps(columns())
    found, _ = segment(WaterzConfig(), perfect(labels))
    assert score(found, labels).voi < 0.01
    flooded, _ = segment(PAPER, perfect(labels))
    assert 0.01 < score(flooded, labels).voi < 0.05


def test_flooding_alone_joins_gapless_neurites_however_perfect_the_affinities():
    labels = columns()
    found, _ = segment(PAPER, perfect(labels))
    assert score(found, labels).voi_merge > 1


def test_a_few_wrong_affinities_cost_little():
    labels = with_gaps(columns())
    affinities = perfect(labels)
    generator = np.random.default_rng(0)
    noisy = np.where(generator.random(affinities.shape) < 0.02, 1 - affinities, affinities)
    found, _ = segment(WaterzConfig(fragments="volume"), noisy)
    assert score(found, labels).voi < 0.1


def test_reversed_channels_are_far_off():
    labels = columns()
    found, _ = segment(WaterzConfig(scoring="mean"), perfect(labels)[::-1])
    assert score(found, labels).voi > 0.1


def test_the_input_is_left_alone_and_a_lower_threshold_joins_less():
    affinities = ndimage.gaussian_filter(perfect(with_gaps(columns())), (0, 1, 1, 1))
    kept = affinities.copy()
    thresholds = (0.3, 0.0, 0.9, 0.3)
    for doubt in (0, 3):
        config = WaterzConfig(scoring="mean", doubt=doubt, threshold=thresholds)
        found, pieces = waterz.segment(config, affinities, offsets=NEAREST)
        assert list(found) == [0.0, 0.3, 0.9] and np.array_equal(found[0.0], pieces)
        counts = [len(np.unique(segmentation)) for segmentation in found.values()]
        assert counts[0] > counts[1] > counts[2]
        alone, _ = segment(replace(config, threshold=0.3), affinities)
        assert np.array_equal(alone, found[0.3])
    assert np.array_equal(affinities, kept)


def test_nothing_is_printed(capfd):
    segment(PAPER, perfect(columns((3, 20, 20), count=3)))
    print("still here")
    assert capfd.readouterr().out == "still here\n"


def test_nan_is_refused():
    affinities = perfect(columns((3, 20, 20), count=3))
    affinities[1, 2, 3, 4] = np.nan
    with pytest.raises(DataError, match=r"\[1, 2, 3, 4\]"):
        segment(WaterzConfig(), affinities)


@pytest.mark.parametrize(
    "option, value", [("bins", -1), ("threshold", 1.5), ("boundary", -1), ("doubt", -1)]
)
def test_options_out_of_range_name_the_value(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        WaterzConfig(**{option: value})


def test_absence_of_the_library_is_an_error_of_the_host(monkeypatch):
    monkeypatch.setitem(sys.modules, "waterz", None)
    with pytest.raises(HostError, match="pip install waterz"):
        segment(PAPER, np.full((3, 2, 4, 4), 0.5, np.float32))


def test_several_thresholds_come_from_plain_data_and_none_or_a_wrong_one_is_refused():
    assert build(WaterzConfig, {"threshold": "0.3,0.5"}).threshold == (0.3, 0.5)
    assert build(WaterzConfig, {"threshold": [0.3, 0.5]}).threshold == (0.3, 0.5)
    assert build(WaterzConfig, {"threshold": 0.3}).threshold == 0.3
    for wrong in ((), (0.5, 1.5)):
        with pytest.raises(ConfigError, match="threshold is "):
            WaterzConfig(threshold=wrong)


def test_a_template_of_the_library_is_taken_as_written():
    labels = with_gaps(columns())
    word, written = (
        segment(replace(PAPER, scoring=scoring), perfect(labels))[0]
        for scoring in ("median", template("median"))
    )
    assert np.array_equal(word, written)
    with pytest.raises(ConfigError, match="set doubt to 0, not 3"):
        WaterzConfig(scoring=template("median"))
    with pytest.raises(ConfigError, match="did you mean 'median'"):
        WaterzConfig(scoring="medain")


def test_a_template_that_needs_a_compiler_names_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "witty", None)
    config = replace(PAPER, scoring="OneMinus<MaxAffinity<RegionGraphType, ScoreValue>>")
    with pytest.raises(HostError, match=r"MaxAffinity.*g\+\+, the boost headers"):
        segment(config, np.full((3, 2, 4, 4), 0.5, np.float32))


def test_it_is_in_the_registry():
    entry = POSTPROCESS.get("waterz")
    assert entry.factory is waterz.segment and entry.config == WaterzConfig()
