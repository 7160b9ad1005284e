import pytest
import torch

from tokenunify_scale.tokens.masks import (
    hide,
    prefix_length,
    prefix_masks,
    random_mask,
    sample_generator,
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


def test_hidden_patches_become_noise_and_the_others_stay():
    crops, noise, patch = torch.rand(2, 1, 2, 4, 4), torch.rand(2, 1, 2, 4, 4) + 2, (1, 2, 2)
    hidden = torch.rand(2, 8) < 0.5
    seen = patchify(hide(crops, hidden, noise, patch=patch), patch=patch)
    assert torch.equal(seen[hidden], patchify(noise, patch=patch)[hidden])
    assert torch.equal(seen[~hidden], patchify(crops, patch=patch)[~hidden])
