import numpy as np
import pytest
import torch

from tokenunify_scale.data.affinities import (
    NEAREST,
    NEIGHBOURHOODS,
    affinities_from_labels,
    check_offsets,
    widen_borders,
)

LABELS = torch.tensor([[[1, 1], [2, 1]], [[1, 0], [2, 0]]])


def test_a_cube_of_eight_voxels_has_these_edges_to_the_voxel_before():
    affinities, mask = affinities_from_labels(LABELS)
    z = [[[0, 0], [0, 0]], [[1, 0], [1, 0]]]
    y = [[[0, 0], [0, 1]], [[0, 0], [0, 0]]]  # 0 next to 0 at (1, 1, 1) is background: no edge
    x = [[[0, 1], [0, 0]], [[0, 0], [0, 0]]]
    assert affinities.tolist() == [z, y, x]
    assert affinities.dtype == mask.dtype == torch.float32
    assert mask[0].tolist() == [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]
    assert mask[1].tolist() == [[[0, 0], [1, 1]], [[0, 0], [1, 1]]]
    assert mask[2].tolist() == [[[0, 1], [0, 1]], [[0, 1], [0, 1]]]


def test_each_voxel_agrees_with_the_definition_for_long_and_negative_offsets():
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (3, 4, 5)))
    offsets = (*NEAREST, (0, -2, 3), (-1, 1, 0), (3, 0, 0), (0, 9, 0))
    affinities, mask = affinities_from_labels(labels, offsets)
    for channel, offset in enumerate(offsets):
        for p in np.ndindex(3, 4, 5):
            q = tuple(a - b for a, b in zip(p, offset, strict=True))
            inside = all(0 <= a < side for a, side in zip(q, labels.shape, strict=True))
            same = inside and labels[p] == labels[q] and labels[p] != 0
            assert mask[(channel, *p)] == inside
            assert affinities[(channel, *p)] == same


def test_a_batch_gives_what_its_crops_give():
    batch = torch.stack([LABELS, LABELS.flip(0)])
    affinities, mask = affinities_from_labels(batch)
    assert affinities.shape == mask.shape == (2, 3, 2, 2, 2)
    assert torch.equal(affinities[1], affinities_from_labels(LABELS.flip(0))[0])


def test_ids_beyond_32_bits_are_told_apart():
    labels = torch.tensor([[[2**40 + 1, 2**40 + 1, 1]]])
    assert affinities_from_labels(labels)[0][2].tolist() == [[[0, 1, 0]]]


def test_perfect_affinities_of_one_object_are_the_mask():
    affinities, mask = affinities_from_labels(torch.ones(2, 3, 4, dtype=torch.uint8))
    assert torch.equal(affinities, mask)


@pytest.mark.parametrize("labels", [torch.zeros(2, 2), torch.zeros(2, 2, 2)])
def test_labels_of_wrong_rank_or_type_are_refused(labels):
    with pytest.raises(ValueError, match="labels must be integers"):
        affinities_from_labels(labels)


def test_widened_borders_reach_one_voxel_into_each_object_within_the_section():
    labels = torch.tensor([[[1, 1, 1, 2, 2, 2]] * 2, [[3] * 6] * 2])
    expected = torch.tensor([[[1, 1, 0, 0, 2, 2]] * 2, [[3] * 6] * 2])
    assert torch.equal(widen_borders(labels, voxels=1), expected)
    assert torch.equal(widen_borders(labels, voxels=0), labels)
    assert widen_borders(labels, voxels=2)[0, 0].tolist() == [1, 0, 0, 0, 0, 2]
    gap = torch.tensor([[[1, 1, 0, 2, 2]] * 2])
    assert torch.equal(widen_borders(gap, voxels=1), gap), "a gap that is there does not grow"


@pytest.mark.parametrize("name", NEIGHBOURHOODS)
def test_each_named_set_begins_with_the_nearest_and_has_no_edge_twice(name):
    check_offsets(NEIGHBOURHOODS[name])
    assert NEIGHBOURHOODS[name][:3] == NEAREST


@pytest.mark.parametrize(
    "offsets", [(), NEAREST[::-1], (*NEAREST, (0, 0, -1)), (*NEAREST, (0, 0, 0))]
)
def test_offsets_that_mean_something_else_are_refused(offsets):
    with pytest.raises(ValueError, match="offset"):
        check_offsets(offsets)
