import pytest
import torch
from torch import nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.objectives.corruption import (
    CorruptionConfig,
    PrefixConfig,
    corrupt,
    learned_fill,
    noise_fill,
    reconstruct,
)
from tokenunify_scale.objectives.errors import patch_errors
from tokenunify_scale.tokens.order import visiting_order
from tokenunify_scale.tokens.patches import expand_patches, patchify
from tokenunify_scale.tokens.relevance import relevance

PATCH = (1, 2, 2)
SIDES = (2, 4, 6)  # 12 patches
KINDS = ["random", "prefix", "random", "prefix"]


def crops(count: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, *SIDES, generator=torch.Generator().manual_seed(seed))


def seen(batch, positions, kinds, *, seed=5, path="raster", ratio=0.75, **options):
    positions = torch.tensor(positions)
    settings = {"patch": PATCH, "ratio": ratio, "path": path, "seed": seed}
    return corrupt(batch, positions, kinds, **settings, **options)


@pytest.mark.parametrize(
    "path, sums", [("raster", (125.5839, 159.2277)), ("snake", (125.5839, 159.7583))]
)
def test_masks_and_noise_of_a_position_stay_what_they_were(path, sums):
    result = seen(torch.full((2, 1, *SIDES), 9.0), [7, 2**40 + 3], ["random", "prefix"], path=path)
    assert result.hidden[0].int().tolist() == [1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1]
    assert result.following[1].nonzero().tolist() == [[4]]
    assert result.crops.sum((1, 2, 3, 4)).tolist() == pytest.approx(sums, abs=1e-3)
    assert result.visible.tolist() == [3, 4]


def test_hidden_patches_are_replaced_and_visible_ones_stay():
    batch = crops()
    result = seen(batch, [0, 1, 2, 3], KINDS)
    voxels = expand_patches(result.hidden, crop=SIDES, patch=PATCH)
    assert torch.equal(result.crops[~voxels], batch[~voxels])
    assert (result.crops[voxels] != batch[voxels]).all()
    assert result.crops.dtype == batch.dtype and result.crops.shape == batch.shape


@pytest.mark.parametrize("path", ["raster", "snake", "hilbert"])
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
    for path in ("raster", "hilbert", "random", "relevance"):
        options = {"path": path, "prefixes": 2}
        whole = seen(batch, positions, KINDS, **options)
        for i in range(4):
            alone = seen(batch[i : i + 1], positions[i : i + 1], KINDS[i : i + 1], **options)
            assert alone.rows.tolist() == [0] * len(alone.crops)
            for part, of_whole in zip(alone[:-1], whole[:-1], strict=True):
                assert torch.equal(part, of_whole[whole.rows == i])


def test_what_is_drawn_depends_on_seed_and_position_and_not_on_the_crops():
    batch = crops()
    first = seen(batch, [0, 1, 2, 3], KINDS)
    torch.manual_seed(0)
    assert torch.equal(first.crops, seen(batch, [0, 1, 2, 3], KINDS).crops)
    assert torch.equal(first.hidden, seen(crops(seed=9), [0, 1, 2, 3], KINDS).hidden)
    assert not torch.equal(first.hidden, seen(batch, [4, 5, 6, 7], KINDS).hidden)
    assert not torch.equal(first.hidden, seen(batch, [0, 1, 2, 3], KINDS, seed=6).hidden)


@pytest.mark.parametrize("path", ["raster", "snake", "hilbert", "random", "relevance"])
@pytest.mark.parametrize("fill", ["noise", "zero", "mean", "learned"])
@pytest.mark.parametrize("kind", ["random", "prefix"])
def test_hidden_voxels_leave_no_trace_in_what_a_network_gets(kind, fill, path):
    batch, learned = crops(8), torch.rand(1, *PATCH)
    options = {"fill": fill, "learned": learned, "path": path}
    result = seen(batch, list(range(8)), [kind] * 8, **options)
    hidden = expand_patches(result.hidden, crop=SIDES, patch=PATCH)
    changed = torch.where(hidden, 1 - batch, batch)  # of the same relevance
    again = seen(changed, list(range(8)), [kind] * 8, **options)
    assert (changed != batch).any() and torch.equal(result.crops, again.crops)


def hidden_voxels(result) -> torch.Tensor:
    """Voxels of hidden patches, by row and channel."""
    voxels = expand_patches(result.hidden, crop=SIDES, patch=PATCH)
    return voxels.expand_as(result.crops)


def test_zero_is_zero_and_the_mean_is_that_of_what_is_visible():
    batch = torch.rand(4, 2, *SIDES, generator=torch.Generator().manual_seed(3))
    result = seen(batch, [0, 1, 2, 3], KINDS, fill="zero")
    assert (result.crops[hidden_voxels(result)] == 0).all()
    result = seen(batch, [0, 1, 2, 3], KINDS, fill="mean")
    hidden = hidden_voxels(result)
    for i in range(4):
        for c in range(2):
            expected = float(batch[i, c][~hidden[i, c]].mean())
            filled = result.crops[i, c][hidden[i, c]].tolist()
            assert filled == pytest.approx([expected] * len(filled), rel=1e-5)


def test_masks_are_the_same_whatever_fills_them():
    expected = seen(crops(), [0, 1, 2, 3], KINDS).hidden
    for fill in ("zero", "mean", "learned"):
        result = seen(crops(), [0, 1, 2, 3], KINDS, fill=fill, learned=torch.zeros(1, *PATCH))
        assert torch.equal(result.hidden, expected)


def test_noise_is_drawn_for_each_voxel_and_channel_in_one_draw():
    found = noise_fill((3, 1, 2, 4), generator=torch.Generator().manual_seed(4))
    drawn = torch.randn(3, 1, 2, 4, generator=torch.Generator().manual_seed(4))
    assert torch.equal(found, drawn * 0.2 + 0.5) and found.dtype == torch.float32


def test_a_learned_patch_stands_in_every_hidden_place_and_gets_their_gradient():
    learned = learned_fill("learned", channels=1, patch=PATCH)
    assert learned.shape == (1, *PATCH) and (learned == 0.5).all()
    with torch.no_grad():
        learned.copy_(torch.arange(4.0).reshape(1, *PATCH))
    result = seen(crops(), [0, 1, 2, 3], KINDS, fill="learned", learned=learned)
    tokens = patchify(result.crops, patch=PATCH)
    assert (tokens[result.hidden] == torch.arange(4.0)).all()
    result.crops.sum().backward()
    assert (learned.grad == int(result.hidden.sum())).all()


def test_only_a_learned_fill_has_a_weight():
    for fill in ("noise", "zero", "mean"):
        assert learned_fill(fill, channels=1, patch=PATCH) is None


@pytest.mark.parametrize("learned, found", [(None, "none"), (torch.zeros(3, 1, 2, 2), "3, 1, 2")])
def test_a_learned_fill_of_another_shape_is_refused(learned, found):
    with pytest.raises(ConfigError, match=rf"needs a patch \(1, 1, 2, 2\).*got \(?{found}"):
        seen(crops(), [0, 1, 2, 3], KINDS, fill="learned", learned=learned)


def test_several_prefixes_repeat_a_prefix_sample_and_no_random_one():
    batch = crops()
    result = seen(batch, [0, 1, 2, 3], KINDS, prefixes=3)
    single = seen(batch, [0, 1, 2, 3], KINDS)
    assert result.rows.tolist() == [0, 1, 1, 1, 2, 3, 3, 3]
    assert single.rows.tolist() == [0, 1, 2, 3]
    first = [0, 1, 4, 5]
    for name in ("crops", "hidden", "following", "order", "visible"):
        assert torch.equal(getattr(result, name)[first], getattr(single, name))
    for sample in (1, 3):
        lengths = result.visible[result.rows == sample].tolist()
        assert len(set(lengths)) == 3
    assert torch.equal(result.visible, 12 - result.hidden.sum(1))
    shown = ~expand_patches(result.hidden, crop=SIDES, patch=PATCH)
    assert torch.equal(result.crops[shown], batch[result.rows][shown])
    noise = result.crops[1:4][(~shown[1:4]).all(0, keepdim=True).expand(3, -1, -1, -1, -1)]
    assert len(noise.unique()) == len(noise)  # each row has its own


def test_every_row_tells_its_order_and_the_prefix_is_its_beginning():
    for path in ("raster", "hilbert", "random", "relevance"):
        result = seen(crops(), [0, 1, 2, 3], ["prefix"] * 4, path=path, prefixes=2)
        for hidden, after, order, visible in zip(*result[1:5], strict=True):
            assert not hidden[order[:visible]].any() and hidden[order[visible:]].all()
            assert after[order[visible]] and after.sum() == 1


def test_a_random_order_is_another_for_each_sample_and_the_same_for_its_prefixes():
    result = seen(crops(), [0, 1, 2, 3], ["prefix"] * 4, path="random", prefixes=2)
    assert torch.equal(result.order[::2], result.order[1::2])
    assert len(result.order.unique(dim=0)) == 4
    raster = seen(crops(), [0, 1, 2, 3], ["prefix"] * 4, prefixes=2)
    assert torch.equal(raster.visible, result.visible)


def test_by_relevance_no_hidden_patch_scores_above_a_visible_one():
    batch = crops(8)
    result = seen(batch, list(range(8)), ["prefix"] * 8, path="relevance")
    scores = relevance(batch, patch=PATCH)
    lowest = scores.masked_fill(result.hidden, 1).min(1).values
    highest = scores.masked_fill(~result.hidden, 0).max(1).values
    assert (lowest >= highest).all()


def test_more_prefixes_than_a_crop_has_are_refused():
    assert len(seen(crops(), [0, 1, 2, 3], KINDS, prefixes=11).rows) == 24
    with pytest.raises(ConfigError, match="12 prefixes of 12 patches: valid are 1..11"):
        seen(crops(), [0, 1, 2, 3], KINDS, prefixes=12)


@pytest.mark.parametrize("targets", ["voxels", "normalised"])
def test_a_reconstruction_is_held_against_the_crop_that_each_row_came_from(targets):
    torch.manual_seed(0)
    network, batch = nn.Conv3d(1, 1, 3, padding=1), crops()
    options = {"patch": PATCH, "ratio": 0.5, "path": "hilbert", "seed": 2, "prefixes": 3}
    data = {"crops": batch, "positions": torch.arange(4)}
    shown, errors = reconstruct(network, data, KINDS, fill="zero", targets=targets, **options)
    expected = corrupt(batch, torch.arange(4), KINDS, fill="zero", **options)
    assert torch.equal(shown.crops, expected.crops) and errors.shape == (8, 12)
    for row, sample in enumerate(expected.rows.tolist()):
        pair = network(expected.crops[row : row + 1]), batch[sample : sample + 1]
        alone = patch_errors(*pair, patch=PATCH, targets=targets)
        torch.testing.assert_close(errors[row : row + 1], alone)


def test_empty_patches_and_no_prefix_are_refused():
    with pytest.raises(ValueError, match="patch sides must be >= 1"):
        CorruptionConfig(patch=(0, 1, 1))
    with pytest.raises(ValueError, match="patch sides must be >= 1"):
        PrefixConfig(patch=(1, 1, 0))
    with pytest.raises(ValueError, match="prefixes_per_crop must be >= 1, got 0"):
        PrefixConfig(prefixes_per_crop=0)


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
