"""The rollout: against a hand-written loop, with networks whose errors are known."""

import numpy as np
import pytest
import torch

from tokenunify_scale.objectives.rollout import psnr, rollout
from tokenunify_scale.tokens.order import visiting_order
from tokenunify_scale.tokens.patches import expand_patches, patchify, unpatchify

PATCH = (1, 2, 2)
SIDES = (2, 4, 6)
GRID = (2, 2, 3)  # 12 patches
MARK = 7.0  # a fill that no gray value is


def crops(count=3, seed=0):
    return torch.rand(count, 1, *SIDES, generator=torch.Generator().manual_seed(seed))


def hidden_at(order, visible):
    """bool [K], raster: all behind the first ``visible`` patches of the path."""
    mask = torch.ones(len(order), dtype=torch.bool)
    mask[order[:visible]] = False
    return mask


def copy_last(order):
    """A network that answers the last visible patch everywhere, and a little more."""

    def network(seen):
        patches = patchify(seen, patch=PATCH)[:, order]
        known = (patches != MARK).all(-1).sum(1)  # a prefix of the path
        last = patches[torch.arange(len(seen)), known - 1]
        return unpatchify(last[:, None].expand_as(patches) + 0.125, crop=SIDES, patch=PATCH)

    return network


def roll(network, batch, order, **options):
    options = {"visible": 3, "fill": torch.tensor(MARK), **options}
    return rollout(network, batch, patch=PATCH, order=order, **options)


@pytest.mark.parametrize("every", [1, 4, 9])
def test_an_oracle_makes_no_error_and_its_psnr_is_infinite(every):
    batch, order = crops(), visiting_order(GRID)
    result = roll(lambda seen: batch, batch, order, every=every)
    assert result.errors_sequential.shape == result.errors_at_once.shape == (3, 9)
    assert not result.errors_sequential.any() and not result.errors_at_once.any()
    assert torch.equal(result.sequential, batch) and torch.equal(result.at_once, batch)
    assert np.isposinf(psnr(result.errors_sequential.numpy())).all()
    assert psnr(np.float64(0.01)) == pytest.approx(20)


@pytest.mark.parametrize("path", ["raster", "snake"])
def test_a_network_that_copies_its_last_patch_errs_as_a_loop_over_patches_does(path):
    batch, order = crops(), visiting_order(GRID, path=path)
    result = roll(copy_last(order), batch, order)
    truth = patchify(batch, patch=PATCH)
    for sample in range(3):
        last = truth[sample, order[2]]
        for step, index in enumerate(order[3:]):
            target = truth[sample, index]
            alone = (truth[sample, order[2]] + 0.125 - target).square().mean()
            last = last + 0.125  # each answer is copied, error and all, by the next
            drifted = (last - target).square().mean()
            assert result.errors_at_once[sample, step] == pytest.approx(float(alone), rel=1e-5)
            assert result.errors_sequential[sample, step] == pytest.approx(float(drifted), rel=1e-5)
    assert torch.equal(result.positions, order[3:].expand(3, -1))


def test_several_patches_a_step_are_a_loop_over_steps():
    batch, order = crops(), visiting_order(GRID)
    result = roll(copy_last(order), batch, order, every=4)
    truth, known = patchify(batch, patch=PATCH), patchify(batch, patch=PATCH).clone()
    for start in (3, 7, 11):
        chosen = order[start : min(start + 4, 12)]
        known[:, chosen] = known[:, order[start - 1], None] + 0.125
    wanted = (known - truth).square().mean(-1)[:, order[3:]]
    torch.testing.assert_close(result.errors_sequential, wanted)


def test_one_step_for_all_patches_is_the_prediction_at_once():
    batch, order = crops(), visiting_order(GRID, path="snake")
    result = roll(lambda seen: seen.mean((2, 3, 4), keepdim=True) + 0 * seen, batch, order, every=9)
    assert torch.equal(result.errors_sequential, result.errors_at_once)
    assert torch.equal(result.sequential, result.at_once)


@pytest.mark.parametrize("fill", ["mean", torch.tensor(0.0), torch.rand(3, 1, *SIDES)])
def test_what_lies_behind_the_prefix_changes_no_prediction(fill):
    torch.manual_seed(0)
    convolution = torch.nn.Conv3d(1, 1, 5, padding=2)
    batch, order = crops(), visiting_order(GRID)
    other = batch.clone()
    voxels = expand_patches(hidden_at(order, 3)[None], crop=SIDES, patch=PATCH).expand_as(batch)
    other[voxels] = crops(seed=1)[voxels]
    one = roll(convolution, batch, order, fill=fill)
    two = roll(convolution, other, order, fill=fill)
    assert torch.equal(one.sequential, two.sequential) and torch.equal(one.at_once, two.at_once)
    assert not torch.equal(one.errors_sequential, two.errors_sequential)
    assert torch.equal(one.sequential[~voxels], batch[~voxels])


def test_each_step_shows_a_prefix_that_grows_by_what_was_predicted():
    batch, order, shown = crops(), visiting_order(GRID), []

    def network(seen):
        shown.append(seen)
        return torch.full_like(seen, 0.5)

    result = roll(network, batch, order, every=2, steps=3)
    patches = [patchify(seen, patch=PATCH)[:, order] for seen in shown]
    for step, seen in enumerate(patches):
        assert torch.equal(seen[:, :3], patchify(batch, patch=PATCH)[:, order[:3]])
        assert (seen[:, 3 : 3 + 2 * step] == 0.5).all() and (seen[:, 3 + 2 * step :] == MARK).all()
    assert len(shown) == 3 and result.errors_sequential.shape == (3, 6)
    left = patchify(result.sequential, patch=PATCH)[:, order[9:]]
    assert (left == MARK).all()  # what was not reached


def test_the_mean_is_that_of_the_visible_voxels_and_the_flat_error_that_of_the_prefix():
    batch, order, shown = crops(), visiting_order(GRID), []

    def network(seen):
        shown.append(seen)
        return torch.ones_like(seen)

    result = roll(network, batch, order, fill="mean", steps=2)
    truth = patchify(batch, patch=PATCH)
    mean = truth[:, order[:3]].mean((1, 2))
    torch.testing.assert_close(patchify(shown[0], patch=PATCH)[:, order[3]].mean(-1), mean)
    grown = (3 * mean + 1) / 4  # a patch of ones was written
    torch.testing.assert_close(patchify(shown[1], patch=PATCH)[:, order[4]].mean(-1), grown)
    flat = (truth[:, order[3:5]] - mean[:, None, None]).square().mean(-1)
    torch.testing.assert_close(result.errors_flat, flat)


def test_paths_may_differ_between_crops():
    batch = crops(2)
    orders = torch.stack([visiting_order(GRID), visiting_order(GRID, path="snake")])
    result = roll(lambda seen: seen * 0.5, batch, orders)
    for i in range(2):
        alone = roll(lambda seen: seen * 0.5, batch[i : i + 1], orders[i])
        assert torch.equal(result.errors_sequential[i], alone.errors_sequential[0])
        assert torch.equal(result.positions[i], orders[i, 3:])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"visible": 12}, r"12 patches is outside 1\.\.11"),
        ({"visible": 0}, r"0 patches is outside 1\.\.11"),
        ({"every": 0}, "got 0 and None"),
        ({"steps": 0}, "got 1 and 0"),
        ({"order": torch.arange(5)}, "5 patches through a crop of 12"),
    ],
)
def test_what_cannot_be_rolled_out_is_refused(options, message):
    order = options.pop("order", visiting_order(GRID))
    with pytest.raises(ValueError, match=message):
        roll(lambda seen: seen, crops(), order, **options)
