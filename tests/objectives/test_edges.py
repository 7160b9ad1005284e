import itertools
import math

import numpy as np
import pytest
import torch

from tokenunify_scale.objectives.edges import (
    CLIP,
    FLOOR,
    edge_scores,
    gradient_magnitude,
    log_weights,
    mixed_mask,
)

PATCH = (1, 4, 4)


def noise(rows: int, count: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    gumbel = -torch.empty(rows, count).exponential_(generator=generator).log()
    return gumbel, torch.rand(rows, count, generator=generator)


@pytest.mark.parametrize("axes, first", [("plane", 1), ("volume", 0)])
def test_the_gradient_is_that_of_numpy(axes, first):
    crop = torch.rand(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = gradient_magnitude(crop, axes=axes)
    for one, length in zip(crop.numpy(), found, strict=True):
        grey = one.mean(0)  # over the channels
        squares = sum(slope**2 for slope in np.gradient(grey, axis=range(first, 3)))
        np.testing.assert_allclose(length[0].numpy(), np.sqrt(squares), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axes", ["plane", "volume"])
def test_a_side_of_one_voxel_has_no_gradient(axes):
    crop = torch.arange(4.0).reshape(1, 1, 1, 1, 4)
    assert gradient_magnitude(crop, axes=axes).tolist() == [[[[[1.0] * 4]]]]
    assert gradient_magnitude(crop[..., :1], axes=axes).tolist() == [[[[[0.0]]]]]


def test_steps_between_sections_are_edges_in_the_volume_and_none_in_the_plane():
    crop = torch.zeros(1, 1, 4, 8, 8)
    crop[:, :, 2:] = 1
    assert edge_scores(crop, patch=PATCH, axes="plane").count_nonzero() == 0
    in_volume = edge_scores(crop, patch=PATCH, axes="volume").reshape(4, 4)
    assert (in_volume[1:3] > 0).all() and in_volume[[0, 3]].count_nonzero() == 0


def test_patches_with_an_edge_score_high_whatever_contrast_and_brightness():
    crop = torch.zeros(1, 1, 2, 8, 16)
    crop[..., :4, 2:] = 1  # a step inside patch 0 of each section, flat beyond; and one below
    crop[..., 4:, :] = crop[..., 3:4, :]
    crop[:, :, 1] = 0.5
    scores = edge_scores(crop, patch=PATCH, axes="plane")
    assert scores.shape == (1, 16) and scores.dtype == torch.float32
    assert scores[0].nonzero().flatten().tolist() == [0, 4]
    torch.testing.assert_close(edge_scores(0.1 * crop + 0.3, patch=PATCH, axes="plane"), scores)


def test_scores_are_means_over_the_patch_of_the_clipped_relative_gradient():
    crop = torch.rand(2, 1, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    crop[0, 0, 0, 0, 0] = 50.0
    scores = edge_scores(crop, patch=PATCH, axes="plane")
    for i, one in enumerate(crop[:, 0].numpy()):
        length = np.hypot(*np.gradient(one, axis=(1, 2)))
        relative = np.minimum(length / length.mean(), CLIP)
        for k, (z, y, x) in enumerate(np.ndindex(2, 2, 2)):
            cut = relative[z, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            assert float(scores[i, k]) == pytest.approx(cut.mean(), rel=1e-4)


def test_a_crop_of_one_grey_prefers_no_patch():
    scores = edge_scores(torch.full((1, 1, 2, 8, 8), 0.7), patch=PATCH, axes="volume")
    weights = log_weights(scores, power=1.25)
    assert scores.count_nonzero() == 0 and len(weights.unique()) == 1 and weights.isfinite().all()


def test_a_crop_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(ValueError, match="is not a multiple of patch"):
        edge_scores(torch.rand(1, 1, 2, 8, 9), patch=PATCH, axes="plane")


def test_weights_are_scores_to_a_power_above_a_floor():
    weights = log_weights(torch.tensor([[2.0, 0.5, 0.0]]), power=2).exp()
    torch.testing.assert_close(weights, torch.tensor([[4.0, 0.25, FLOOR**2]]))
    assert log_weights(torch.tensor([[2.0, 0.0]]), power=0).tolist() == [[0, 0]]


@pytest.mark.parametrize("edges, total", [(0, 5), (3, 5), (5, 5), (0, 0), (12, 12)])
def test_the_count_is_exact(edges, total):
    mask = mixed_mask(torch.randn(50, 12), *noise(50, 12), edges=edges, total=total)
    assert mask.dtype == torch.bool and (mask.sum(1) == total).all()


def test_sets_are_drawn_as_often_as_picking_one_after_another_by_weight_says():
    weights, rows = [4.0, 1.0, 2.0, 0.5, 2.5], 40000
    expected: dict[frozenset, float] = {}
    for first, second in itertools.permutations(range(5), 2):
        chance = weights[first] / sum(weights)
        chance *= weights[second] / (sum(weights) - weights[first])
        for third in {0, 1, 2, 3, 4} - {first, second}:  # and one of the rest, all alike
            key = frozenset({first, second, third})
            expected[key] = expected.get(key, 0) + chance / 3
    assert sum(expected.values()) == pytest.approx(1)
    log = torch.tensor(weights).log().expand(rows, 5)
    drawn = mixed_mask(log, *noise(rows, 5), edges=2, total=3)
    for key, chance in expected.items():
        wanted = torch.tensor([i in key for i in range(5)])
        share = float((drawn == wanted).all(1).float().mean())
        assert abs(share - chance) < 4 * math.sqrt(chance / rows)
