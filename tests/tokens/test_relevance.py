import numpy as np
import pytest
import torch

from tokenunify_scale.tokens.relevance import relevance

PATCH = (2, 3, 4)


def test_the_score_is_the_standard_deviation_of_each_patch():
    crops = torch.rand(2, 1, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    scores = relevance(crops, patch=PATCH)
    assert scores.shape == (2, 8) and scores.dtype == torch.float32
    for k, (z, y, x) in enumerate(np.ndindex(2, 2, 2)):
        cut = crops[:, 0, 2 * z : 2 * z + 2, 3 * y : 3 * y + 3, 4 * x : 4 * x + 4].numpy()
        assert scores[:, k].tolist() == pytest.approx(cut.std((1, 2, 3)).tolist(), rel=1e-5)


def test_a_patch_with_a_membrane_counts_more_than_an_empty_one():
    crops = torch.full((1, 1, 2, 3, 8), 0.7)
    crops[..., 5] = 0.1
    empty, membrane = relevance(crops, patch=PATCH)[0].tolist()
    assert empty == pytest.approx(0, abs=1e-6) and membrane > 0.2


def test_over_channels_it_is_the_mean_of_their_deviations():
    crops = torch.rand(2, 3, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    scores = relevance(crops, patch=(1, 3, 4))
    alone = [relevance(crops[:, c : c + 1], patch=(1, 3, 4)) for c in range(3)]
    torch.testing.assert_close(scores, sum(alone) / 3)


def test_a_flat_colour_scores_nothing_and_an_edge_between_two_of_one_brightness_does():
    flat = torch.tensor([0.9, 0.1, 0.2]).reshape(1, 3, 1, 1, 1).expand(1, 3, 1, 3, 8)
    edge = flat.clone()
    edge[..., 6:] = torch.tensor([0.1, 0.9, 0.2]).reshape(1, 3, 1, 1, 1)
    assert relevance(flat, patch=(1, 3, 8)).item() == pytest.approx(0, abs=1e-6)
    assert relevance(edge, patch=(1, 3, 8)).item() > 0.2


def test_no_gradient_passes_through_a_score():
    assert not relevance(torch.rand(1, 1, 4, 6, 8, requires_grad=True), patch=PATCH).requires_grad


def test_a_crop_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(ValueError, match="is not a multiple of patch"):
        relevance(torch.zeros(1, 1, 4, 6, 7), patch=PATCH)
