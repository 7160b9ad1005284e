"""What is asked of every network about a crop: against sums written as loops, and oracles."""

import math

import pytest
import torch

from tokenunify_scale.objectives.errors import token_errors
from tokenunify_scale.objectives.reconstruction import (
    TASKS,
    draw_masks,
    even_lengths,
    flat,
    predict,
    task_errors,
    with_true_contrast,
)
from tokenunify_scale.tokens.order import visiting_order
from tokenunify_scale.tokens.patches import expand_patches, patchify

PATCH, SIDES, GRID = (1, 2, 2), (2, 4, 6), (2, 2, 3)  # 12 patches


def crop_of(channels=1, seed=0):
    return torch.rand(channels, *SIDES, generator=torch.Generator().manual_seed(seed))


def masks_of(prefixes=3, path="snake", seed=0):
    generator = torch.Generator().manual_seed(seed)
    order = visiting_order(GRID, path=path)
    return order, draw_masks(order, ratio=0.75, prefixes=prefixes, generator=generator)


@pytest.mark.parametrize(
    "count, prefixes, lengths",
    [
        (12, 11, [*range(1, 12)]),
        (12, 99, [*range(1, 12)]),
        (12, 1, [6]),
        (101, 4, [13, 38, 63, 88]),
    ],
)
def test_prefixes_are_spread_evenly_and_never_twice_the_same(count, prefixes, lengths):
    assert even_lengths(count, prefixes=prefixes) == lengths


def test_masks_hide_a_share_at_random_and_all_behind_each_prefix():
    order, masks = masks_of()
    assert masks.hidden[0].sum() == 9
    for hidden, following, length in zip(
        masks.hidden[1:], masks.following, even_lengths(12, prefixes=3), strict=True
    ):
        assert hidden[order].tolist() == [False] * length + [True] * (12 - length)
        assert following.nonzero().item() == order[length]


@pytest.mark.parametrize("channels", [1, 3])
def test_errors_are_those_of_a_loop_over_patches(channels):
    order, masks = masks_of()
    crop = crop_of(channels)
    predicted = torch.rand(4, channels, *SIDES, generator=torch.Generator().manual_seed(1))
    found = task_errors(predicted, crop, masks, patch=PATCH)
    truth, guesses = patchify(crop[None], patch=PATCH)[0], patchify(predicted, patch=PATCH)
    chosen = {task: [] for task in TASKS}
    for patch in range(12):
        if masks.hidden[0, patch]:
            chosen["random"].append((guesses[0, patch] - truth[patch]).square().mean())
    for row, length in enumerate(even_lengths(12, prefixes=3), start=1):
        for step, patch in enumerate(order[length:]):
            error = (guesses[row, patch] - truth[patch]).square().mean()
            chosen["next_all"].append(error)
            if step == 0:
                chosen["next"].append(error)
    for task, errors in chosen.items():
        assert found[task] == pytest.approx(float(torch.stack(errors).mean()), rel=1e-6)


def test_over_all_prefixes_next_all_is_the_mean_over_all_pairs_of_equation_5():
    order, masks = masks_of(prefixes=11)
    crop = crop_of()
    predicted = torch.rand(12, 1, *SIDES, generator=torch.Generator().manual_seed(1))
    errors = (patchify(predicted, patch=PATCH) - patchify(crop[None], patch=PATCH)).square()
    pairs = [errors[i, order[j]].mean() for i in range(1, 12) for j in range(i, 12)]
    found = task_errors(predicted, crop, masks, patch=PATCH)
    assert found["next_all"] == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-6)


def test_an_oracle_makes_no_error_and_nobody_sees_what_is_hidden():
    _, masks = masks_of()
    crop, other, seen = crop_of(), crop_of(seed=5), []

    def oracle(crops):
        seen.append(crops)
        return crop.expand_as(crops)

    voxels = expand_patches(masks.hidden, crop=SIDES, patch=PATCH)
    other = torch.where(voxels, other, crop)  # hidden voxels differ
    predicted = predict(oracle, crop, masks.hidden, patch=PATCH, fill="mean")
    assert not any(task_errors(predicted, crop, masks, patch=PATCH).values())
    for row in range(4):
        predict(oracle, other[row], masks.hidden[row : row + 1], patch=PATCH, fill="mean")
    assert torch.equal(seen[0], torch.cat(seen[1:]))


def test_more_rows_than_a_pass_has_room_for_are_as_if_there_were_room(monkeypatch):
    _, masks = masks_of()
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 1, 3, padding=1)
    fill = torch.rand(1, 1, *SIDES)
    whole = predict(network, crop_of(), masks.hidden, patch=PATCH, fill=fill)
    monkeypatch.setattr("tokenunify_scale.objectives.reconstruction.AT_ONCE", 3)
    split = predict(network, crop_of(), masks.hidden, patch=PATCH, fill=fill)
    torch.testing.assert_close(whole, split)


def test_the_floor_is_the_mean_of_the_visible_of_each_channel():
    _, masks = masks_of()
    crop = crop_of(3)
    found = flat(crop, masks.hidden, patch=PATCH)
    voxels = expand_patches(masks.hidden, crop=SIDES, patch=PATCH)[:, 0]
    for row in range(4):
        for channel in range(3):
            mean = crop[channel][~voxels[row]].mean()
            torch.testing.assert_close(found[row, channel], mean.expand(SIDES))


def test_true_contrast_inverts_normalised_targets():
    crops = torch.stack([crop_of(3), crop_of(3, seed=1)])
    output = 0.5 + 0.05 * torch.randn(crops.shape, generator=torch.Generator().manual_seed(2))
    gray = with_true_contrast(output, crops, patch=PATCH)
    tokens, given = patchify(crops, patch=PATCH), patchify(output, patch=PATCH)
    error = token_errors(given, tokens, targets="normalised")  # in units of a patch's variance
    variance = tokens.var(-1, correction=0) + 1e-6
    inside = (patchify(gray, patch=PATCH) % 1 != 0).all(-1)  # not cut off
    expected = (patchify(gray, patch=PATCH) - tokens).square().mean(-1)
    torch.testing.assert_close((error * variance)[inside], expected[inside])
    assert inside.sum() > 5 and gray.min() >= 0 and gray.max() <= 1
    flat_output = torch.full_like(crops, 0.5)
    means = patchify(with_true_contrast(flat_output, crops, patch=PATCH), patch=PATCH)
    torch.testing.assert_close(means, tokens.mean(-1, keepdim=True).expand_as(means))
    assert math.isclose(float(predict(
        lambda seen: torch.full_like(seen, 0.5), crops[0], masks_of()[1].hidden, patch=PATCH,
        fill="mean", targets="normalised",
    )[0].mean()), float(crops[0].mean()), rel_tol=1e-5)  # fmt: skip
