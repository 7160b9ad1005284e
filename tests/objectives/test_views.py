import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tokenunify_scale.config import ConfigError
from tokenunify_scale.objectives.views import (
    MEDIUM,
    STRONG,
    WEAK,
    Strength,
    Turn,
    make_view,
    turn,
    turn_one,
    unturn,
    view_generator,
)

NOTHING = {
    "turn": 0.0, "gamma": 0.0, "contrast": 0.0, "brightness": 0.0, "noise": 0.0,
}  # fmt: skip
SIDES = (4, 12, 12)
TURNS = [
    Turn((bool(n & 1), bool(n & 2), bool(n & 4)), bool(n & 8)) for n in range(16)
]  # all there are


def crops(count: int = 4, sides: tuple[int, int, int] = SIDES) -> torch.Tensor:
    return torch.rand(count, 1, *sides, generator=torch.Generator().manual_seed(0))


def view(batch, strength, *, start=10, seed=3, number=0):
    positions = torch.arange(len(batch)) + start
    return make_view(batch, positions, strength, seed=seed, number=number)


def only(**strengths) -> Strength:
    return Strength(**{**NOTHING, **strengths})


@pytest.mark.parametrize("strength", [WEAK, MEDIUM, STRONG, only(shift=0.25, turn=0.5)])
def test_a_view_depends_on_seed_position_and_number_and_not_on_the_batch(strength):
    batch = crops()
    whole = view(batch, strength)
    for i in range(4):
        alone = view(batch[i : i + 1], strength, start=10 + i)
        assert torch.equal(alone.crops[0], whole.crops[i])
        assert alone.turns == whole.turns[i : i + 1]
    assert torch.equal(view(batch, strength).crops, whole.crops)
    for other in ({"seed": 4}, {"start": 11}, {"number": 1}):
        assert not torch.equal(view(batch, strength, **other).crops, whole.crops)


@pytest.mark.parametrize("strength", [WEAK, MEDIUM, STRONG])
def test_a_view_has_its_crops_form_and_leaves_them_alone(strength):
    batch = crops()
    before = batch.clone()
    seen = view(batch.requires_grad_(), strength).crops
    assert seen.shape == batch.shape and seen.dtype == batch.dtype and not seen.requires_grad
    assert 0 <= seen.min() and seen.max() <= 1
    assert torch.equal(batch, before)


def test_views_of_no_strength_are_the_crops():
    batch = crops()
    seen = view(batch, only())
    torch.testing.assert_close(seen.crops, batch, rtol=0, atol=1e-6)
    assert set(seen.turns) == {Turn((False, False, False), False)}


def test_the_numbers_of_views_do_not_share_the_masks_draws():
    mixed = np.random.SeedSequence([3, 5]).generate_state(1, np.uint64)[0]
    seeds = {view_generator(3, 5, number).initial_seed() for number in range(3)}
    assert len(seeds) == 3 and int(mixed >> np.uint64(1)) not in seeds


@pytest.mark.parametrize("one", TURNS)
def test_a_turn_has_an_exact_inverse_at_every_scale(one):
    for sides in ((4, 6, 6), (2, 3, 3), (1, 1, 1), (8, 2, 2)):
        maps = torch.rand(2, 3, *sides)
        assert torch.equal(unturn(turn(maps, (one, one)), (one, one)), maps)


def test_turns_are_those_of_numpy_and_all_differ():
    crop = torch.rand(1, 3, 4, 4)
    seen = set()
    for one in TURNS:
        axes = [axis for axis, flip in zip((1, 2, 3), one.flips, strict=True) if flip]
        expected = np.flip(crop.numpy(), axes)
        expected = np.swapaxes(expected, 2, 3) if one.transpose else expected
        assert np.array_equal(turn_one(crop, one).numpy(), expected)
        seen.add(expected.tobytes())
    assert len(seen) == 16


def test_gradients_flow_through_a_turn_and_back():
    maps = torch.rand(1, 2, 2, 3, 3, requires_grad=True)
    one = (Turn((True, False, True), True),)
    weights = torch.rand(1, 2, 2, 3, 3)
    (unturn(turn(maps, one), one) * weights).sum().backward()
    assert torch.equal(maps.grad, weights)


def test_a_views_turns_say_how_it_was_turned():
    batch = crops(40)
    seen = view(batch, only(turn=0.5))
    torch.testing.assert_close(unturn(seen.crops, seen.turns), batch, rtol=0, atol=1e-6)
    assert len(set(seen.turns)) > 10  # of 16
    wide = view(crops(40, (2, 4, 6)), only(turn=0.5))
    assert not any(one.transpose for one in wide.turns)  # y and x differ in length


def test_a_shift_mirrors_the_crops_end():
    ramp = torch.arange(8.0).reshape(1, 1, 1, 1, 8).expand(60, 1, 2, 2, 8) / 8
    shifted = (view(ramp, only(shift=0.25)).crops[:, 0, 0, 0] * 8).round().int().tolist()
    line = list(range(8))
    mirrored = line[1::-1] + line + line[:-3:-1]
    expected = [mirrored[2 + by : 10 + by] for by in range(-2, 3)]
    assert {tuple(row) for row in shifted} == {tuple(row) for row in expected}


def test_gray_values_change_within_their_limits():
    batch = crops(60)
    ramp = torch.linspace(0.3, 0.7, 60).reshape(60, 1, 1, 1, 1).expand(60, 1, *SIDES)
    moved = view(ramp, only(brightness=0.2)).crops - ramp
    assert moved.abs().max() <= 0.2 + 1e-6 and moved.std() > 0.05
    narrow = 0.4 + 0.2 * batch
    deviations = view(narrow, only(contrast=0.4)).crops.flatten(1).std(1)
    ratio = deviations / narrow.flatten(1).std(1)
    assert 0.6 <= ratio.min() < 0.75 and 1.25 < ratio.max() <= 1.4 + 1e-4
    power = (view(ramp, only(gamma=1.0)).crops.log() / ramp.log()).flatten(1)
    assert 0.5 - 1e-3 <= power.min() < 0.6 and 1.7 < power.max() <= 2 + 1e-3


def test_the_blur_is_a_gaussian_in_the_plane():
    batch = crops(1, (3, 16, 16))
    for start in range(5):
        seen = view(batch, only(blur=1.5), start=start).crops
        draws = torch.rand(12, generator=view_generator(3, start, 0)).tolist()
        sigma, image = draws[10] * 1.5, batch[0, 0].numpy()
        reach = math.ceil(3 * sigma)
        expected = gaussian_filter(image, sigma, axes=(1, 2), mode="nearest", radius=reach)
        np.testing.assert_allclose(seen[0, 0].numpy(), expected, atol=1e-5)


def test_noise_has_up_to_the_strength_that_was_asked_for():
    flat = torch.full((40, 1, *SIDES), 0.5)
    seen = view(flat, only(noise=0.05)).crops
    deviations = (seen - flat).flatten(1).std(1)
    assert deviations.min() < 0.01 and 0.04 < deviations.max() < 0.055
    assert (seen - flat).mean().abs() < 0.002


def test_holes_are_boxes_filled_with_the_mean():
    batch = crops(20, (8, 20, 20))
    seen = view(batch, only(holes=1, hole=0.5)).crops
    for before, after in zip(batch, seen, strict=True):
        holes = (after - before).abs() > 1e-5
        places = holes[0].nonzero()
        low, high = places.min(0).values, places.max(0).values + 1
        lengths = (high - low).tolist()
        assert all(
            side / 4 - 1 <= length <= side / 2
            for side, length in zip((8, 20, 20), lengths, strict=True)
        )
        box = after[0, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        torch.testing.assert_close(box, before.mean().expand_as(box), rtol=0, atol=1e-5)


def test_a_crop_of_one_voxel_can_be_seen_too():
    assert view(torch.rand(2, 1, 1, 1, 1), STRONG).crops.shape == (2, 1, 1, 1, 1)


def test_one_strength_does_not_change_what_another_does():
    batch = crops()
    assert view(batch, only(turn=0.5)).turns == view(batch, STRONG).turns


def test_strengths_grow_from_weak_to_strong():
    weak, medium, strong = asdict(WEAK), asdict(MEDIUM), asdict(STRONG)
    assert all(weak[name] <= medium[name] <= strong[name] for name in weak)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"noise": -0.1}, "noise of a view is -0.1, must be >= 0"),
        ({"turn": 1.5}, r"turn of a view is 1.5, must be in \[0, 1\]"),
        ({"hole": 2.0}, r"hole of a view is 2.0, must be in \[0, 1\]"),
        ({"blur": math.inf}, "blur of a view is inf"),
        ({"gamma": math.nan}, "gamma of a view is nan"),
    ],
)
def test_strengths_that_cannot_be_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        Strength(**options)


def test_a_change_is_the_same_in_all_channels_but_for_the_noise():
    grey = crops(sides=(1, 12, 12)).expand(-1, 3, -1, -1, -1)
    strength = Strength(**{**asdict(STRONG), "noise": 0.0, "shift": 0.2})
    seen = view(grey, strength).crops
    assert seen.shape == grey.shape and not torch.equal(seen, grey)
    for channel in (1, 2):
        torch.testing.assert_close(seen[:, 0], seen[:, channel])
    noisy = view(grey, only(noise=0.1)).crops
    assert not torch.equal(noisy[:, 0], noisy[:, 1])


def test_one_section_is_turned_within_its_plane_alone():
    batch = torch.rand(40, 3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    turned = view(batch, only(turn=0.5))
    assert turned.crops.shape == batch.shape and len(set(turned.turns)) > 8
    torch.testing.assert_close(unturn(turned.crops, turned.turns), batch)
