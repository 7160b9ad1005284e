import numpy as np
import pytest
import torch
from torch import nn

from tokenunify_scale.objectives.corruption import corrupt, masked_mean, patch_errors
from tokenunify_scale.tokens.order import visiting_order
from tokenunify_scale.tokens.patches import expand_patches, patchify

PATCH = (1, 2, 2)
SIDES = (2, 4, 6)  # 12 patches
KINDS = ["random", "prefix", "random", "prefix"]


def crops(count: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, *SIDES, generator=torch.Generator().manual_seed(seed))


def seen(batch, positions, kinds, *, seed=5, path="raster", ratio=0.75):
    positions = torch.tensor(positions)
    return corrupt(batch, positions, kinds, patch=PATCH, ratio=ratio, path=path, seed=seed)


def test_hidden_patches_are_replaced_and_visible_ones_stay():
    batch = crops()
    result = seen(batch, [0, 1, 2, 3], KINDS)
    voxels = expand_patches(result.hidden, crop=SIDES, patch=PATCH)
    assert torch.equal(result.crops[~voxels], batch[~voxels])
    assert (result.crops[voxels] != batch[voxels]).all()
    assert result.crops.dtype == batch.dtype and result.crops.shape == batch.shape


@pytest.mark.parametrize("path", ["raster", "snake"])
def test_a_prefix_sample_shows_a_prefix_of_its_path_and_marks_the_next_patch(path):
    order = visiting_order((2, 2, 3), path=path)
    result = seen(crops(40), list(range(40)), ["prefix"] * 40, path=path)
    lengths = set()
    for hidden, following in zip(result.hidden, result.following, strict=True):
        visible = int((~hidden).sum())
        lengths.add(visible)
        assert torch.equal(hidden.nonzero().flatten(), order[visible:].sort().values)
        assert following.nonzero().flatten().tolist() == [int(order[visible])]
    assert min(lengths) >= 1 and max(lengths) <= 11 and len(lengths) > 6


def test_a_random_sample_hides_its_share_and_marks_no_next_patch():
    result = seen(crops(), [0, 1, 2, 3], ["random"] * 4, ratio=0.25)
    assert result.hidden.sum(1).tolist() == [3, 3, 3, 3]
    assert not result.following.any()


def test_what_is_drawn_does_not_depend_on_how_the_batch_is_split():
    batch, positions = crops(), [8, 3, 2**40, 5]
    whole = seen(batch, positions, KINDS)
    for i in range(4):
        alone = seen(batch[i : i + 1], positions[i : i + 1], KINDS[i : i + 1])
        for part, of_whole in zip(alone, whole, strict=True):
            assert torch.equal(part[0], of_whole[i])


def test_what_is_drawn_depends_on_seed_and_position_and_not_on_the_crops():
    batch = crops()
    first = seen(batch, [0, 1, 2, 3], KINDS)
    torch.manual_seed(0)
    assert torch.equal(first.crops, seen(batch, [0, 1, 2, 3], KINDS).crops)
    assert torch.equal(first.hidden, seen(crops(seed=9), [0, 1, 2, 3], KINDS).hidden)
    assert not torch.equal(first.hidden, seen(batch, [4, 5, 6, 7], KINDS).hidden)
    assert not torch.equal(first.hidden, seen(batch, [0, 1, 2, 3], KINDS, seed=6).hidden)


@pytest.mark.parametrize("kind", ["random", "prefix"])
def test_hidden_voxels_leave_no_trace_in_what_a_network_gets(kind):
    batch = crops(8)
    result = seen(batch, list(range(8)), [kind] * 8)
    hidden = expand_patches(result.hidden, crop=SIDES, patch=PATCH)
    changed = torch.where(hidden, 1 - batch, batch)
    again = seen(changed, list(range(8)), [kind] * 8)
    assert (changed != batch).any() and torch.equal(result.crops, again.crops)


def test_noise_looks_like_grey_levels_of_electron_microscopy():
    noise = corrupt(
        torch.full((1, 1, 16, 64, 64), 9.0),
        torch.tensor([0]),
        ["random"],
        patch=(4, 16, 16),
        ratio=0.75,
        path="raster",
        seed=0,
    ).crops
    noise = noise[noise != 9.0]
    assert noise.mean() == pytest.approx(0.5, abs=0.01)
    assert noise.std() == pytest.approx(0.2, abs=0.01)


def test_a_crop_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(ValueError, match="is not a multiple of patch"):
        seen(torch.rand(1, 1, 2, 4, 5), [0], ["random"])


def test_every_sample_needs_a_kind():
    with pytest.raises(ValueError):
        seen(crops(), [0, 1, 2, 3], ["random"])


def test_patch_errors_are_means_of_squares_patch_by_patch():
    a, b = crops(2, seed=1), crops(2, seed=2)
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


def test_patch_errors_of_half_precision_are_taken_in_float32():
    a, b = crops(2, seed=1).bfloat16(), crops(2, seed=2)
    errors = patch_errors(a, b, patch=PATCH)
    expected = nn.functional.mse_loss(a.float(), b, reduction="none")
    assert errors.dtype == torch.float32
    torch.testing.assert_close(errors, patchify(expected, patch=PATCH).mean(-1))


def test_a_masked_mean_counts_only_what_is_chosen_and_is_0_where_nothing_is():
    errors = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert masked_mean(errors, mask).tolist() == [2.0, 0.0]
