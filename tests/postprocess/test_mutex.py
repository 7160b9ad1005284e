"""Mutex watershed: signs decide, long range repels, and wrong edges come late."""

import numpy as np
import pytest

from tests.postprocess.drifting import FAR, OFFSETS, columns, flipped, perfect
from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.metrics import score
from tokenunify_scale.postprocess.contacts import Contacts
from tokenunify_scale.postprocess.edges import Edges
from tokenunify_scale.postprocess.mutex import MutexConfig, fragments, segment, solve
from tokenunify_scale.registry import POSTPROCESS

SMALL = (8, 48, 56)
LONG = (*OFFSETS, *FAR)


@pytest.mark.parametrize("offsets", [OFFSETS, LONG])
@pytest.mark.parametrize("calm", [0.0, 1.0])
def test_perfect_affinities_of_gapless_labels_give_the_labels_back(offsets, calm):
    labels = columns(SMALL)
    found, pieces = segment(MutexConfig(calm=calm), perfect(labels, offsets), offsets=offsets)
    assert list(found) == [0.5] and found[0.5].dtype == pieces.dtype == np.uint64
    assert score(found[0.5], labels).voi < 0.01 and pieces.min() == 1


def test_a_long_range_edge_keeps_apart_what_a_hole_in_the_membrane_would_join():
    labels = np.ones((1, 12, 30), np.int64)
    labels[:, :, 15:] = 2
    affinities = perfect(labels, (*OFFSETS, (0, 0, 5)))
    affinities[2, :, :, 15] = 0.2
    affinities[2, :, 4:8, 15] = 0.9  # the hole
    config = MutexConfig(repair=0, threshold=0, calm=0, stride=(1, 1, 1))
    wrong = fragments(config, affinities[:3], offsets=OFFSETS)
    right = fragments(config, affinities, offsets=(*OFFSETS, (0, 0, 5)))
    assert score(wrong, labels).voi_merge > 0.5 and score(right, labels).voi_merge < 0.1


def test_an_edge_is_read_at_the_voxel_after_it():
    affinities = np.ones((3, 1, 1, 6), np.float32)
    affinities[2, 0, 0, 2] = 0  # between voxels 1 and 2
    found = fragments(MutexConfig(), affinities, offsets=OFFSETS)
    assert found.tolist() == [[[1, 1, 2, 2, 2, 2]]]


def test_calm_keeps_flipped_affinities_from_joining_everything():
    labels = columns()
    affinities = flipped(perfect(labels, LONG), 0.1)
    calm, wild = (
        score(segment(MutexConfig(calm=c), affinities, offsets=LONG)[0][0.5], labels).voi
        for c in (1.0, 0.0)
    )
    assert calm < 0.6 and wild > 2


def test_a_threshold_joins_what_was_left_apart_and_zero_joins_nothing():
    affinities = flipped(perfect(columns(SMALL), LONG), 0.1)
    found, pieces = segment(MutexConfig(threshold=(0.5, 0.0)), affinities, offsets=LONG)
    assert list(found) == [0.0, 0.5]
    assert np.array_equal(found[0.0], pieces)
    assert np.unique(found[0.5]).size < np.unique(pieces).size


def test_a_graph_without_edges_stays_as_it_is():
    nodes = np.array([4, 9], np.uint64)
    none = Contacts.of(Edges.empty(), nodes, needed="sums")
    assert solve(MutexConfig(), none, nodes)[0.5].tolist() == [4, 9]


@pytest.mark.parametrize(
    "option, value", [("stride", (0, 1, 1)), ("repair", -1), ("threshold", 2.0), ("threshold", ())]
)
def test_options_out_of_range_name_the_value(option, value):
    with pytest.raises(ConfigError, match=f"{option} is "):
        MutexConfig(**{option: value})


def test_channels_and_offsets_must_fit_and_values_be_sane():
    with pytest.raises(ValueError, match="3 channels of affinities have 6 offsets"):
        fragments(MutexConfig(), np.ones((3, 2, 4, 4), np.float32), offsets=LONG)
    with pytest.raises(DataError, match="range over"):
        segment(MutexConfig(), np.full((3, 2, 4, 4), 2.0), offsets=OFFSETS)


def test_it_is_in_the_registry():
    entry = POSTPROCESS.get("mutex")
    assert entry.factory is segment and entry.config == MutexConfig()
