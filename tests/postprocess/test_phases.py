"""What all methods have in common: exact on truth, graceful with noise, unmoved by odd volumes."""

import numpy as np
import pytest
import torch

from tests.postprocess.drifting import FAR, OFFSETS, columns, flipped, perfect
from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.affinities import affinities_from_labels
from tokenunify_scale.metrics import score
from tokenunify_scale.postprocess.contacts import Contacts
from tokenunify_scale.postprocess.edges import Edges
from tokenunify_scale.postprocess.phases import METHODS, check_graph, needed, phases
from tokenunify_scale.postprocess.waterz import WaterzConfig, template
from tokenunify_scale.registry import POSTPROCESS
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.synthetic import SyntheticConfig, synthesize

SHARES = (0, 0.01, 0.02, 0.05, 0.1)


def run(name, affinities, **options):
    entry = POSTPROCESS.get(name)
    config = type(entry.config)(**options)
    return entry.factory(config, affinities, offsets=(*OFFSETS, *FAR)[: len(affinities)])


@pytest.mark.parametrize("name", METHODS)
def test_the_phases_one_after_the_other_are_the_method(name):
    affinities = flipped(perfect(columns((6, 40, 40), count=10)), 0.02).astype(np.float32)
    config, method = POSTPROCESS.get(name).config, phases(name)
    pieces = method.fragments(config, affinities, offsets=OFFSETS)
    nodes = np.unique(pieces[pieces > 0])
    contacts = Contacts.of(Edges.of(affinities, pieces), nodes, needed=needed(config))
    solved = method.solve(config, contacts, nodes)
    found, fragments = run(name, affinities)
    assert np.array_equal(fragments, pieces) and list(solved) == list(found)
    for key, segments in solved.items():
        assert np.array_equal(segments[np.searchsorted(nodes, pieces)] * (pieces > 0), found[key])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (4, 1, 16), (5, 16, 1), (1, 1, 8), (1, 1, 1)])
def test_one_object_and_none_are_found_in_volumes_however_thin(name, shape):
    whole, _ = run(name, np.ones((3, *shape), np.float32))
    assert all(np.unique(found).size == 1 and found.min() > 0 for found in whole.values())
    apart, _ = run(name, np.zeros((3, *shape), np.float32))
    for found in apart.values():
        kept = found[found > 0]
        assert np.unique(kept).size == kept.size, "no two voxels are joined"


@pytest.mark.parametrize("name", ["waterz", "multicut"])
@pytest.mark.parametrize("fragments", ["sections", "volume"])
def test_a_single_section_is_segmented(name, fragments):
    labels = columns((1, 60, 60), count=12)
    found, _ = run(name, perfect(labels), fragments=fragments)
    assert score(next(iter(found.values())), labels).voi < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("voxel_size", [(35.0, 8.0, 8.0), (16.0, 16.0, 16.0)])
def test_scores_of_the_synthetic_volume_are_perfect_and_degrade_smoothly_with_noise(
    name, voxel_size
):
    _, labels = synthesize(SyntheticConfig(shape=(24, 128, 128), voxel_size=voxel_size))
    labels = labels.astype(np.int64)
    offsets = (*OFFSETS, *FAR) if name == "mutex" else OFFSETS
    truth = affinities_from_labels(torch.from_numpy(labels), offsets)[0].numpy()
    curve = []
    for share in SHARES:
        found, _ = run(name, flipped(truth, share).astype(np.float32))
        curve.append(score(next(iter(found.values())), labels).voi)
    everything_merged = score(np.ones_like(labels), labels).voi
    print(name, voxel_size, [round(voi, 4) for voi in curve], everything_merged)
    assert curve[0] < 0.01
    assert all(after > before - 0.01 for before, after in zip(curve, curve[1:], strict=False))
    assert curve[2] < 0.1 and curve[4] < everything_merged / 4


@pytest.mark.parametrize("scoring", ["mean", "paper", "median"])
def test_what_is_cut_of_the_histograms_is_not_needed(scoring):
    affinities = flipped(perfect(columns((6, 40, 40), count=10)), 0.02).astype(np.float32)
    config, method = WaterzConfig(scoring=scoring), phases("waterz")
    pieces = method.fragments(config, affinities, offsets=OFFSETS)
    nodes, edges = np.unique(pieces[pieces > 0]), Edges.of(affinities, pieces)
    cut = edges.cut(needed(config))
    assert (cut.bins.size < edges.bins.size) == (scoring != "median")
    halves = [
        Edges.of(affinities, pieces, box=Box((a, 0, 0), (b, 40, 40))).cut(needed(config))
        for a, b in ((0, 3), (3, 6))
    ]
    whole, some, summed = (
        method.solve(config, Contacts.of(each, nodes, needed=needed(config)), nodes)[0.5]
        for each in (edges, cut, Edges.sum(halves))
    )
    assert np.array_equal(whole, some) and np.array_equal(whole, summed)


def test_a_name_is_one_of_the_registry():
    assert set(METHODS) == set(POSTPROCESS.names())
    assert all(phases(name).bytes_a_voxel > 0 for name in METHODS)
    with pytest.raises(ConfigError, match="did you mean 'multicut'"):
        phases("multcut")


def test_what_a_graph_cannot_do_is_refused_before_work():
    for name in METHODS:
        check_graph(POSTPROCESS.get(name).config)
    config = WaterzConfig(scoring=template("mean"), doubt=0)
    with pytest.raises(ConfigError, match="whole volumes in memory only"):
        check_graph(config)
    with pytest.raises(ConfigError, match="whole volumes in memory only"):
        none = Contacts.of(Edges.empty(), np.zeros(0, np.uint64), needed="sums")
        phases("waterz").solve(config, none, np.zeros(0, np.uint64))
