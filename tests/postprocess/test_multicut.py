"""Multicut: costs have the sign of the evidence, and the solution has the least cost."""

import itertools
import sys

import numpy as np
import pytest

from tests.postprocess.drifting import OFFSETS, columns, flipped, perfect
from tokenunify_scale.config import ConfigError, DataError, HostError
from tokenunify_scale.metrics import score
from tokenunify_scale.postprocess.contacts import Contacts
from tokenunify_scale.postprocess.edges import UNIT, Edges
from tokenunify_scale.postprocess.multicut import MulticutConfig, costs, segment, solve
from tokenunify_scale.registry import POSTPROCESS

SMALL = (8, 48, 56)


def graph(pairs, affinities, faces):
    count = np.array(faces, np.int64)
    total = np.array(affinities) * count * UNIT
    starts = np.arange(len(pairs) + 1)
    edges = Edges(
        np.array(pairs, np.uint64), count, total.astype(np.int64), starts,
        (np.array(affinities) * 255).astype(np.uint8), count,
    )  # fmt: skip
    return Contacts.of(edges, np.unique(edges.pairs), needed="sums")


def test_costs_are_log_odds_weighted_by_faces():
    edges = graph([(1, 2), (2, 3), (3, 4)], [0.9, 0.5, 0.1], [10, 20, 30])
    plain = costs(MulticutConfig(weighting="none"), edges)
    assert plain == pytest.approx([np.log(9), 0, -np.log(9)], abs=1e-5)
    assert costs(MulticutConfig(), edges) == pytest.approx(plain * [0.5, 1, 1.5], abs=1e-5)
    joining = costs(MulticutConfig(weighting="none", beta=0.8), edges)
    assert joining == pytest.approx(plain + np.log(4), abs=1e-5)
    sure = costs(MulticutConfig(weighting="none"), graph([(1, 2), (2, 3)], [1, 0], [1, 1]))
    assert np.isfinite(sure).all() and sure[0] == pytest.approx(-sure[1])


@pytest.mark.parametrize("seed", range(5))
def test_the_solution_of_a_small_graph_is_the_best_of_all_partitions(seed):
    generator = np.random.default_rng(seed)
    nodes = np.array([3, 5, 6, 8, 11, 20], np.uint64)
    pairs = list(itertools.combinations(nodes.tolist(), 2))
    edges = graph(pairs, generator.random(len(pairs)), generator.integers(1, 9, len(pairs)))
    weights, ends = costs(MulticutConfig(), edges), edges.ends

    def energy(labels):
        return weights[labels[ends[:, 0]] != labels[ends[:, 1]]].sum()

    best = min(energy(np.array(labels)) for labels in itertools.product(range(6), repeat=6))
    found = solve(MulticutConfig(), edges, nodes)[None]
    greedy = solve(MulticutConfig(solver="greedy_additive"), edges, nodes)[None]
    assert energy(found) == pytest.approx(best) and energy(found) <= energy(greedy) + 1e-9
    assert set(found) <= set(nodes) and found[0] == nodes[0]


@pytest.mark.parametrize("solver", ["kernighan_lin", "greedy_additive", "greedy_fixation"])
@pytest.mark.parametrize("fragments", ["sections", "volume"])
def test_perfect_affinities_of_gapless_labels_give_the_labels_back(solver, fragments):
    labels = columns(SMALL)
    config = MulticutConfig(solver=solver, fragments=fragments)
    found, pieces = segment(config, perfect(labels), offsets=OFFSETS)
    assert list(found) == [None] and found[None].dtype == pieces.dtype == np.uint64
    assert score(found[None], labels).voi < 0.01


def test_the_papers_fragments_can_be_had():
    labels = columns()
    paper = MulticutConfig(boundary_of="weakest", boundary=0.25, smooth=2, repair=0, attach="flood")
    gaps = np.where(perfect(labels).min(axis=0) == 1, labels, 0)
    affinities = perfect(labels) * (gaps > 0)
    found, pieces = segment(paper, affinities, offsets=OFFSETS)
    assert np.unique(pieces).size < np.unique(segment(MulticutConfig(), affinities,
                                                      offsets=OFFSETS)[1]).size  # fmt: skip
    assert score(found[None], gaps).voi < 0.3


def test_a_higher_beta_joins_more():
    affinities = flipped(perfect(columns(SMALL)), 0.2)
    counts = [
        np.unique(segment(MulticutConfig(beta=beta), affinities, offsets=OFFSETS)[0][None]).size
        for beta in (0.2, 0.5, 0.8)
    ]
    assert counts[0] > counts[1] > counts[2]


def test_a_graph_without_edges_stays_as_it_is():
    nodes = np.array([4, 9], np.uint64)
    none = Contacts.of(Edges.empty(), nodes, needed="sums")
    assert solve(MulticutConfig(), none, nodes)[None].tolist() == [4, 9]
    assert solve(MulticutConfig(), none, nodes[:0])[None].size == 0


@pytest.mark.parametrize("beta", [0, 1, -0.5])
def test_a_beta_that_decides_everything_is_refused(beta):
    with pytest.raises(ConfigError, match=f"beta is {beta}"):
        MulticutConfig(beta=beta)


def test_absence_of_the_library_is_said_before_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "bioimage_cpp", None)
    with pytest.raises(HostError, match="pip install bioimage-cpp"):
        segment(MulticutConfig(), np.full((3, 2, 4, 4), np.nan), offsets=OFFSETS)


def test_nan_is_refused():
    with pytest.raises(DataError, match="NaN"):
        segment(MulticutConfig(), np.full((3, 2, 4, 4), np.nan), offsets=OFFSETS)


def test_it_is_in_the_registry():
    entry = POSTPROCESS.get("multicut")
    assert entry.factory is segment and entry.config == MulticutConfig()
