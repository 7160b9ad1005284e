import pytest
import torch

from tokenunify_scale.config import ConfigError
from tokenunify_scale.tokens.masks import (
    hide,
    prefix_length,
    prefix_lengths,
    prefix_masks,
    random_mask,
    sample_generator,
    visible_mean,
)
from tokenunify_scale.tokens.patches import patchify


@pytest.mark.parametrize(
    "count, ratio, hidden",
    [(400, 0.75, 300), (400, 0.4, 160), (8, 0.75, 6), (8, 0.01, 1), (8, 0.99, 7), (2, 0.5, 1)],
)
def test_the_share_is_met_exactly_and_never_takes_all_or_nothing(count, ratio, hidden):
    for position in range(5):
        mask = random_mask(count, ratio=ratio, generator=sample_generator(0, position))
        assert mask.dtype == torch.bool and mask.shape == (count,)
        assert int(mask.sum()) == hidden


def test_every_patch_is_hidden_equally_often():
    draws = [random_mask(6, ratio=0.5, generator=sample_generator(3, i)) for i in range(2000)]
    share = torch.stack(draws).float().mean(0)
    assert (share - 0.5).abs().max() < 0.05  # four standard deviations


@pytest.mark.parametrize("count, ratio", [(8, 0.0), (8, 1.0), (8, -1), (1, 0.5)])
def test_a_share_outside_the_open_interval_or_a_single_patch_is_refused(count, ratio):
    with pytest.raises(ValueError, match="cannot hide a share"):
        random_mask(count, ratio=ratio, generator=sample_generator(0, 0))


def test_prefix_lengths_are_uniform_over_one_to_all_but_one():
    lengths = [prefix_length(5, generator=sample_generator(1, i)) for i in range(2000)]
    counts = [lengths.count(i) for i in range(1, 5)]
    assert sum(counts) == 2000 and min(counts) > 400


@pytest.mark.parametrize("prefixes", [1, 2, 3, 5, 10])
def test_several_prefixes_differ_and_each_is_uniform(prefixes):
    drawn = {}
    for position in range(200):
        lengths = prefix_lengths(11, prefixes=prefixes, generator=sample_generator(2, position))
        assert lengths[0] == prefix_length(11, generator=sample_generator(2, position))
        assert len(set(lengths)) == len(lengths) == prefixes
        drawn[lengths[0]] = lengths
    assert len(drawn) == 10
    for nth in zip(*drawn.values(), strict=True):  # over all equally likely first lengths
        assert sorted(nth) == list(range(1, 11))


def test_several_prefixes_are_short_and_long():
    lengths = sorted(prefix_lengths(401, prefixes=4, generator=sample_generator(0, 0)))
    assert {b - a for a, b in zip(lengths, lengths[1:], strict=False)} == {100}


@pytest.mark.parametrize("prefixes", [0, 4])
def test_more_prefixes_than_a_path_has_are_refused(prefixes):
    with pytest.raises(ConfigError, match=f"{prefixes} prefixes of 4 patches: valid are 1..3"):
        prefix_lengths(4, prefixes=prefixes, generator=sample_generator(0, 0))


@pytest.mark.parametrize("visible", range(1, 6))
def test_behind_a_prefix_all_is_hidden_and_one_patch_follows(visible):
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    hidden, following = prefix_masks(order, visible=visible)
    assert hidden.nonzero().flatten().tolist() == sorted(order[visible:].tolist())
    assert following.nonzero().flatten().tolist() == [int(order[visible])]


@pytest.mark.parametrize("visible", [0, 6, 7, -1])
def test_a_prefix_of_nothing_or_of_all_is_refused(visible):
    with pytest.raises(ValueError, match=f"a prefix of {visible} patches is outside 1..5"):
        prefix_masks(torch.arange(6), visible=visible)


def test_draws_depend_on_seed_and_position_and_on_nothing_else():
    def draw(seed: int, position: int) -> list[float]:
        return torch.rand(4, generator=sample_generator(seed, position)).tolist()

    first = draw(7, 11)
    torch.manual_seed(99)
    assert draw(7, 11) == first
    draws = {tuple(draw(seed, position)) for seed in range(4) for position in range(50)}
    assert len(draws) == 200
    assert draw(1, 2) != draw(2, 1)


def test_positions_beyond_32_bits_are_told_apart():
    a, b = (sample_generator(0, position).initial_seed() for position in (5, 5 + 2**32))
    assert a != b


def test_a_sample_has_independent_streams_that_no_other_position_shares():
    seeds = [sample_generator(0, 5, stream=stream).initial_seed() for stream in range(4)]
    seeds += [sample_generator(0, 5 + stream * 2**32).initial_seed() for stream in range(1, 4)]
    assert len(set(seeds)) == 7


def test_hidden_patches_become_noise_and_the_others_stay():
    crops, noise, patch = torch.rand(2, 1, 2, 4, 4), torch.rand(2, 1, 2, 4, 4) + 2, (1, 2, 2)
    hidden = torch.rand(2, 8) < 0.5
    seen = patchify(hide(crops, hidden, noise, patch=patch), patch=patch)
    assert torch.equal(seen[hidden], patchify(noise, patch=patch)[hidden])
    assert torch.equal(seen[~hidden], patchify(crops, patch=patch)[~hidden])


def test_a_fill_may_be_one_value_a_crop_and_channel():
    crops, patch = torch.rand(2, 3, 2, 4, 4), (1, 2, 2)
    hidden = torch.rand(2, 8) < 0.5
    fill = torch.rand(2, 3, 1, 1, 1)
    whole = hide(crops, hidden, fill.expand_as(crops), patch=patch)
    assert torch.equal(hide(crops, hidden, fill, patch=patch), whole)


def test_the_visible_mean_is_that_of_the_voxels_that_are_not_hidden():
    crops, patch = torch.rand(2, 3, 2, 4, 4), (1, 2, 2)
    hidden = torch.arange(16).reshape(2, 8) % 3 != 0
    means = visible_mean(crops, hidden, patch=patch)
    assert means.shape == (2, 3, 1, 1, 1)
    for i in range(2):
        for c in range(3):
            voxels = patchify(crops[i : i + 1, c : c + 1], patch=patch)[0][~hidden[i]]
            assert float(means[i, c]) == pytest.approx(float(voxels.mean()), rel=1e-6)
