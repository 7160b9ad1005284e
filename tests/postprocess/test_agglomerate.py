"""Agglomeration of a graph: the library's partition, to the last fragment."""

import contextlib
import os
import sys
import time

import numpy as np
import pytest
from scipy import ndimage

from tests.postprocess.drifting import columns, flipped, perfect
from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.metrics import score
from tokenunify_scale.postprocess.agglomerate import agglomerate, needed, parse_score, scorings
from tokenunify_scale.postprocess.contacts import Contacts
from tokenunify_scale.postprocess.edges import UNIT, Edges
from tokenunify_scale.postprocess.waterz import template

waterz = pytest.importorskip("waterz")
THRESHOLDS = (0.2, 0.5, 0.7)


def soft(seed=0):
    """Affinities with noise that neighbours share, and many small fragments."""
    generator = np.random.default_rng(seed)
    labels = columns((12, 48, 48), count=12)
    noise = ndimage.gaussian_filter(generator.normal(size=(3, *labels.shape)), (0, 0, 1, 1))
    affinities = ndimage.gaussian_filter(perfect(labels), (0, 0, 1, 1)) + noise
    cells = [np.arange(side) // size for side, size in zip(labels.shape, (1, 3, 4), strict=True)]
    z, y, x = np.meshgrid(*cells, indexing="ij")
    fragments = (z * 10_000 + y * 100 + x + 1) * (labels % 5 != 4)
    return np.clip(affinities, 0, 1).astype(np.float32), fragments.astype(np.uint64)


def sharp():
    affinities, fragments = soft()
    labels = columns((12, 48, 48), count=12)
    return flipped(perfect(labels), 0.03).astype(np.float32), fragments


def library(affinities, fragments, *, scoring, bins):
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        results = waterz.agglomerate(
            affinities,
            THRESHOLDS,
            fragments=fragments.copy(),
            scoring_function=template(scoring),
            discretize_queue=bins,
        )
        return [result.copy() for result in results]


def joined(edges, nodes, *, scoring, **options):
    """The segments of a graph, of which the agglomeration has a copy."""
    contacts = Contacts.of(edges, nodes, needed=needed(scoring))
    return agglomerate(contacts, nodes, scoring=scoring, **options)


def painted(nodes, segments, fragments):
    place = np.minimum(np.searchsorted(nodes, fragments), nodes.size - 1)
    return np.where(fragments, segments[place], 0)


@pytest.mark.parametrize("bins", [256, 0])
@pytest.mark.parametrize("scoring", ["paper", "median", "q25", "q75_max", "q60"])
@pytest.mark.parametrize("case", [soft, sharp])
def test_quantiles_give_the_library_s_partition_exactly(case, scoring, bins):
    affinities, fragments = case()
    nodes = np.unique(fragments[fragments > 0])
    found = joined(
        Edges.of(affinities, fragments), nodes, scoring=scoring, thresholds=THRESHOLDS, bins=bins
    )
    assert list(found) == list(THRESHOLDS)
    expected = library(affinities, fragments, scoring=scoring, bins=bins)
    for segments, volume in zip(found.values(), expected, strict=True):
        assert np.array_equal(painted(nodes, segments, fragments), volume)
    counts = [np.unique(segments).size for segments in found.values()]
    assert nodes.size > counts[0] and counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("bins", [256, 0])
@pytest.mark.parametrize("case", [soft, sharp])
def test_the_mean_gives_it_but_for_rounding(case, bins):
    affinities, fragments = case()
    nodes = np.unique(fragments[fragments > 0])
    found = joined(
        Edges.of(affinities, fragments), nodes, scoring="mean", thresholds=THRESHOLDS, bins=bins
    )
    expected = library(affinities, fragments, scoring="mean", bins=bins)
    for segments, volume in zip(found.values(), expected, strict=True):
        assert score(painted(nodes, segments, fragments), volume.astype(np.int64)).arand < 1e-3


def contacts(*rows):
    """A graph from (u, v, faces, affinity)."""
    pairs = np.array([row[:2] for row in rows], np.uint64)
    count = np.array([row[2] for row in rows], np.int64)
    affinity = np.array([row[3] for row in rows])
    bins = np.minimum(affinity * 256, 255).astype(np.uint8)
    total = (affinity * count * UNIT).astype(np.int64)
    return Edges(pairs, count, total, np.arange(len(rows) + 1), bins, count)


@pytest.mark.parametrize("scoring", ["mean", "median"])
def test_doubt_judges_large_contacts_first_and_changes_no_contact_s_side(scoring):
    # Halves of two neurons, 1-2 and 3-4, that one wrong face joins and fifty part.
    halves = contacts((1, 2, 40, 0.9), (1, 3, 50, 0.1), (2, 4, 1, 1.0), (3, 4, 40, 0.9))
    nodes = np.arange(1, 5, dtype=np.uint64)
    options = {"scoring": scoring, "thresholds": [0.5]}
    assert joined(halves, nodes, doubt=3, **options)[0.5].tolist() == [1, 1, 3, 3]
    for threshold in (0.1, 0.3, 0.5, 0.8):
        one = contacts((1, 2, 1, 1.0), (3, 4, 1, 0.0))
        sides = joined(one, nodes, scoring=scoring, thresholds=[threshold], doubt=3)
        assert sides[threshold].tolist() == [1, 1, 3, 4]


def test_without_doubt_the_wrong_face_is_first():
    halves = contacts((1, 2, 40, 0.9), (1, 3, 50, 0.3), (2, 4, 1, 1.0), (3, 4, 40, 0.9))
    nodes = np.arange(1, 5, dtype=np.uint64)
    found = joined(halves, nodes, scoring="mean", thresholds=[0.5])
    assert found[0.5].tolist() == [1, 1, 1, 1]


def test_nodes_without_edges_stay_alone_and_ids_may_be_large():
    nodes = np.array([5, 2**63, 2**63 + 9], np.uint64)
    lone = joined(Edges.empty(), nodes, scoring="q60", thresholds=[0.5, 0.2])
    assert list(lone) == [0.2, 0.5] and np.array_equal(lone[0.5], nodes)
    pair = contacts((2**63, 2**63 + 9, 3, 1.0))
    assert joined(pair, nodes, scoring="q60", thresholds=[0.5])[0.5].tolist() == [
        5, 2**63, 2**63,
    ]  # fmt: skip
    none = joined(Edges.empty(), nodes[:0], scoring="mean", thresholds=[0.5])
    assert none[0.5].size == 0


def test_an_edge_to_a_fragment_that_is_not_listed_is_refused():
    with pytest.raises(ValueError, match="not among the nodes"):
        joined(
            contacts((1, 7, 1, 1.0)), np.arange(3, dtype=np.uint64), scoring="mean", thresholds=[1]
        )


def test_a_score_is_named_or_the_nearest_name_is_told():
    assert parse_score("paper") == parse_score("q50_max") == (50, True)
    assert parse_score("median") == (50, False) and parse_score("mean") == (None, False)
    assert all(parse_score(word) for word in scorings())
    for word in ("q52", "q5", "medain", "q50_min", "100"):
        with pytest.raises(ConfigError, match=f"scoring is '{word}'"):
            parse_score(word)


def test_absence_of_numba_is_an_error_of_the_host(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenunify_scale.ops.agglomerate_kernel", None)
    monkeypatch.delattr("tokenunify_scale.ops.agglomerate_kernel", raising=False)
    with pytest.raises(HostError, match="pip install numba"):
        joined(Edges.empty(), np.ones(1, np.uint64), scoring="mean", thresholds=[0.5])


@pytest.mark.slow
def test_a_million_edges_take_seconds():
    generator = np.random.default_rng(0)
    side = 60
    fragments = np.arange(1, side**3 + 1, dtype=np.uint64).reshape((side,) * 3)
    affinities = ndimage.gaussian_filter(generator.normal(size=(3, side, side, side)), (0, 2, 2, 2))
    affinities = np.clip(0.6 + affinities * 4, 0, 1).astype(np.float32)
    edges = Edges.sum([Edges.of(affinities, fragments)])
    nodes = fragments.reshape(-1)
    joined(edges, nodes, scoring="q60", thresholds=[0.1])  # compiled
    start = time.perf_counter()
    joined(edges, nodes, scoring="q60", thresholds=[0.5], doubt=3)
    assert time.perf_counter() - start < 20
