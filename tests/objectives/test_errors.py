import numpy as np
import pytest
import torch
from torch import nn

from tokenunify_scale.objectives.corruption import corrupt
from tokenunify_scale.objectives.errors import (
    masked_mean,
    next_all_estimate,
    patch_errors,
    sample_means,
    token_errors,
)
from tokenunify_scale.tokens.masks import hide, prefix_masks
from tokenunify_scale.tokens.order import visiting_order
from tokenunify_scale.tokens.patches import patchify, unpatchify

PATCH, SIDES = (1, 2, 2), (2, 4, 6)  # 12 patches
COUNT = 12


def crops(count: int = 2, seed: int = 0, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, *SIDES, generator=generator)


def test_patch_errors_are_means_of_squares_patch_by_patch():
    a, b = crops(seed=1), crops(seed=2)
    errors = patch_errors(a, b, patch=PATCH)
    assert errors.shape == (2, 12)
    for k, (z, y, x) in enumerate(np.ndindex(2, 2, 3)):
        for i in range(2):
            square = 0.0
            for dy in range(2):
                for dx in range(2):
                    place = (i, 0, z, 2 * y + dy, 2 * x + dx)
                    square += (float(a[place]) - float(b[place])) ** 2
            assert float(errors[i, k]) == pytest.approx(square / 4, rel=1e-5)


@pytest.mark.parametrize("targets", ["voxels", "normalised"])
def test_patch_errors_of_half_precision_are_taken_in_float32(targets):
    a, b = crops(seed=1).bfloat16(), crops(seed=2)
    errors = patch_errors(a, b, patch=PATCH, targets=targets)
    assert errors.dtype == torch.float32
    torch.testing.assert_close(errors, patch_errors(a.float(), b, patch=PATCH, targets=targets))


@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_targets_have_mean_0_and_deviation_1_in_each_patch(channels):
    prediction, truth = crops(1, 1, channels), crops(1, 2, channels)
    errors = patch_errors(prediction, truth, patch=PATCH, targets="normalised")
    tokens = patchify(truth, patch=PATCH)[0].double().numpy()
    guesses = patchify(prediction, patch=PATCH)[0].double().numpy()
    for k, (token, guess) in enumerate(zip(tokens, guesses, strict=True)):
        target = (token - token.mean()) / np.sqrt(token.var() + 1e-6)
        expected = ((8 * guess - 4 - target) ** 2).mean()
        assert float(errors[0, k]) == pytest.approx(expected, rel=1e-5)


def test_the_middle_of_the_outputs_range_costs_1_whatever_the_contrast():
    faint = crops() * 0.1 + 0.6
    for truth in (crops(), faint):
        errors = patch_errors(torch.full_like(truth, 0.5), truth, patch=PATCH, targets="normalised")
        assert errors.flatten().tolist() == pytest.approx([1] * 24, abs=0.02)


def test_a_flat_patch_has_a_finite_error_and_gradient():
    prediction = torch.full((1, 1, *SIDES), 0.75, requires_grad=True)
    errors = patch_errors(prediction, torch.zeros(1, 1, *SIDES), patch=PATCH, targets="normalised")
    errors.sum().backward()
    assert (errors == 4).all() and prediction.grad.isfinite().all()  # two deviations off, squared


@pytest.mark.parametrize("targets", ["voxels", "normalised"])
def test_patches_as_vectors_have_the_errors_of_the_picture_they_make(targets):
    predicted = torch.rand(2, COUNT, 4, generator=torch.Generator().manual_seed(7))
    picture = unpatchify(predicted, crop=SIDES, patch=PATCH)
    expected = patch_errors(picture, crops(), patch=PATCH, targets=targets)
    errors = token_errors(predicted, patchify(crops(), patch=PATCH), targets=targets)
    assert torch.equal(errors, expected)


def test_a_masked_mean_counts_only_what_is_chosen_and_is_0_where_nothing_is():
    errors = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert masked_mean(errors, mask).tolist() == [2.0, 0.0]


def test_sample_means_join_the_rows_of_each_sample():
    values = torch.tensor([1.0, 2.0, 6.0, 5.0], requires_grad=True)
    means = sample_means(values, torch.tensor([0, 1, 1, 2]), count=3)
    assert means.tolist() == [1.0, 4.0, 5.0]
    means.sum().backward()
    assert values.grad.tolist() == [1.0, 0.5, 0.5, 1.0]


def all_pairs(network: nn.Module, crop: torch.Tensor, order: torch.Tensor) -> list[list[float]]:
    """e[i][j]: the error at the j-th patch of the path when its first i are shown, one by one."""
    pairs = [[0.0] * COUNT for _ in range(COUNT)]
    for i in range(1, COUNT):
        hidden, _ = prefix_masks(order, visible=i)
        shown = hide(crop, hidden[None], torch.zeros(()).to(crop), patch=PATCH)
        output = network(shown)
        for j in range(i, COUNT):
            z, y, x = np.unravel_index(int(order[j]), (2, 2, 3))
            place = (0, 0, z, slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))
            pairs[i][j] = float((output[place] - crop[place]).square().mean())
    return pairs


@torch.no_grad()
@pytest.mark.parametrize("prefixes", [1, 2, 3, COUNT - 1])
@pytest.mark.parametrize("path", ["raster", "snake", "hilbert", "random", "relevance"])
def test_over_all_prefixes_the_estimates_average_to_the_sums_of_equations_4_and_5(path, prefixes):
    torch.manual_seed(0)
    network, crop = nn.Conv3d(1, 1, 3, padding=1), crops(1)
    given = {"generator": torch.Generator().manual_seed(9), "scores": torch.rand(COUNT)}
    order = visiting_order((2, 2, 3), path=path, **given)
    pairs = all_pairs(network, crop, order)
    next_sum = sum(pairs[i][i] for i in range(1, COUNT)) / (COUNT - 1)
    all_sum = sum(pairs[i][j] for i in range(1, COUNT) for j in range(i, COUNT))
    all_sum /= COUNT * (COUNT - 1) / 2
    next_mean, all_mean = 0.0, 0.0
    for first in range(COUNT - 1):  # each as likely as any other
        steps = [first + n * (COUNT - 1) // prefixes for n in range(prefixes)]
        masks = [prefix_masks(order, visible=1 + step % (COUNT - 1)) for step in steps]
        hidden, following = (torch.stack(column) for column in zip(*masks, strict=True))
        shown = hide(crop.expand(prefixes, -1, -1, -1, -1), hidden, torch.zeros(()), patch=PATCH)
        errors = patch_errors(network(shown), crop, patch=PATCH)
        rows = torch.zeros(prefixes, dtype=torch.long)
        next_mean += float(sample_means(masked_mean(errors, following), rows, count=1))
        all_mean += float(sample_means(next_all_estimate(errors, hidden), rows, count=1))
    assert next_mean / (COUNT - 1) == pytest.approx(next_sum, abs=1e-6)
    assert all_mean / (COUNT - 1) == pytest.approx(all_sum, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("path", ["raster", "snake", "hilbert", "random", "relevance"])
def test_a_crop_shown_with_all_its_prefixes_gives_both_sums_at_once(path):
    torch.manual_seed(0)
    network, crop = nn.Conv3d(1, 1, 3, padding=1), crops(1)
    settings = {"patch": PATCH, "ratio": 0.5, "path": path, "seed": 4, "fill": "zero"}
    seen = corrupt(crop, torch.tensor([6]), ["prefix"], prefixes=COUNT - 1, **settings)
    pairs = all_pairs(network, crop, seen.order[0])
    errors = patch_errors(network(seen.crops), crop, patch=PATCH)
    estimate = sample_means(next_all_estimate(errors, seen.hidden), seen.rows, count=1)
    expected = np.array(pairs).sum() / (COUNT * (COUNT - 1) / 2)
    assert float(estimate) == pytest.approx(expected, abs=1e-6)
    estimate = sample_means(masked_mean(errors, seen.following), seen.rows, count=1)
    assert float(estimate) == pytest.approx(np.trace(np.array(pairs)) / (COUNT - 1), abs=1e-6)


def test_the_mean_over_what_is_hidden_is_another_thing():
    order, estimate, mean = torch.arange(COUNT), 0.0, 0.0
    errors = (torch.arange(COUNT) == COUNT - 1).float()[None]  # only the last patch is hard
    for visible in range(1, COUNT):
        hidden = prefix_masks(order, visible=visible)[0][None]
        estimate += float(next_all_estimate(errors, hidden)) / (COUNT - 1)
        mean += float(masked_mean(errors, hidden)) / (COUNT - 1)
    assert estimate == pytest.approx(2 / COUNT) and mean > 1.5 * estimate
