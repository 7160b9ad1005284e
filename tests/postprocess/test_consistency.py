"""Overruling: true partitions stay to the bit, lone contradictions go."""

import numpy as np
import pytest
import torch

from tests.postprocess.drifting import columns, flipped, perfect
from tokenunify_scale.data.affinities import affinities_from_labels
from tokenunify_scale.postprocess import consistency
from tokenunify_scale.postprocess.consistency import consistent


def of(labels):
    return affinities_from_labels(torch.from_numpy(labels))[0].numpy()


@pytest.mark.parametrize("rounds", [1, 3, 10])
@pytest.mark.parametrize("objects", [2, 3, 20])
def test_affinities_of_any_partition_stay_to_the_bit(objects, rounds):
    labels = np.random.default_rng(objects).integers(0, objects, (6, 14, 15))
    affinities = of(labels)
    assert np.array_equal(consistent(affinities, rounds=rounds), affinities)
    blocks = np.kron(labels, np.ones((1, 3, 3), np.int64))
    assert np.array_equal(consistent(of(blocks), rounds=rounds), of(blocks))


@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_an_edge_that_is_cut_where_all_around_is_joined_is_overruled(wrong):
    affinities = np.ones((3, 5, 9, 9), np.float32)
    affinities[1, 2, 4, 4] = wrong
    repaired = consistent(affinities)
    assert repaired[1, 2, 4, 4] > 0.5
    affinities[1, 2, 4, 4] = repaired[1, 2, 4, 4]
    assert np.array_equal(repaired, affinities), "nothing else changed"


def test_an_edge_that_is_joined_in_a_cut_sheet_is_overruled():
    labels = np.ones((5, 9, 9), np.int64)
    labels[:, 4:] = 2
    affinities = perfect(labels)
    affinities[1, 2, 4, 4] = 1
    assert consistent(affinities)[1, 2, 4, 4] < 0.5


@pytest.mark.parametrize("share, left", [(0.02, 0.1), (0.05, 0.1), (0.1, 0.2)])
def test_most_flipped_affinities_are_put_right(share, left):
    truth = perfect(columns())
    noisy = flipped(truth, share).astype(np.float32)
    wrong = (consistent(noisy) > 0.5) != (truth > 0.5)
    # Edges that leave the volume have no square of voxels around them.
    assert wrong[:, 1:, 1:, 1:].mean() < left * share


def test_portions_of_sections_change_nothing(monkeypatch):
    noisy = flipped(perfect(columns()), 0.1).astype(np.float32)
    whole = consistent(noisy)
    monkeypatch.setattr(consistency, "VOXELS", 1)
    assert np.array_equal(consistent(noisy), whole)


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 1, 8), (1, 1, 1), (1, 1, 9)])
def test_thin_volumes_are_taken_as_they_are(shape):
    for value in (0, 1):
        affinities = np.full((3, *shape), value, np.float32)
        assert np.array_equal(consistent(affinities), affinities)


def test_no_rounds_give_the_array_itself():
    affinities = np.ones((3, 2, 2, 2), np.float32)
    assert consistent(affinities, rounds=0) is affinities
