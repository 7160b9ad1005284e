import pytest
import torch
from torch.nn import functional

from tokenunify_scale.models.padding import middle, pad_to, round_up


def noise(*sides):
    return torch.rand(1, 2, *sides, generator=torch.Generator().manual_seed(0))


def test_sides_are_grown_at_their_end_by_reflection():
    crops = noise(5, 6, 7)
    expected = functional.pad(crops, (0, 1, 0, 0, 0, 3), mode="reflect")
    assert torch.equal(pad_to(crops, (8, 6, 8)), expected)


def test_a_side_too_short_to_reflect_is_repeated():
    padded = pad_to(noise(2, 4, 4), (6, 4, 4))
    assert padded.shape == (1, 2, 6, 4, 4)
    assert all(torch.equal(padded[:, :, z], padded[:, :, 1]) for z in range(2, 6))


def test_sides_that_fit_are_left_alone():
    crops = noise(3, 4, 5)
    assert pad_to(crops, (3, 4, 5)) is crops


def test_rounding_up_gives_the_next_multiple_of_each_side():
    assert round_up((5, 32, 33), to=(4, 16, 16)) == (8, 32, 48)


def test_a_map_without_a_middle_is_refused():
    x = torch.arange(5.0).view(1, 1, 5, 1, 1)
    assert middle(x, (3, 1, 1)).flatten().tolist() == [1, 2, 3]
    for sides in ((4, 1, 1), (7, 1, 1)):
        with pytest.raises(ValueError, match="has no middle"):
            middle(x, sides)
