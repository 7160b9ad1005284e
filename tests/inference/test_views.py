import pytest
import torch

from tokenunify_scale.data.affinities import NEAREST
from tokenunify_scale.inference.views import View, averaged, source, views
from tokenunify_scale.volumes.geometry import edges

LONG = (*NEAREST, (2, 0, 0), (0, 3, 0), (0, 0, 3), (1, 0, -2), (0, 2, 2), (0, 2, -2), (0, -5, 0))


def smooth(offsets):
    """A network that says of each edge how alike its ends are: the same from every side."""

    def model(crops):
        maps = torch.full((len(crops), len(offsets), *crops.shape[2:]), 0.5)
        for channel, offset in enumerate(offsets):
            here, there = edges(offset, sides=crops.shape[2:])
            both = crops[(slice(None), 0, *here)], crops[(slice(None), 0, *there)]
            maps[(slice(None), channel, *here)] = torch.exp(-(both[0] - both[1]).abs())
        return maps

    return model


def test_there_are_one_eight_or_sixteen_views_and_each_goes_back():
    crops = torch.rand(2, 1, 3, 4, 5)
    for tta, count in {"none": 1, "flips": 8, "all": 16}.items():
        found = views(tta)
        assert len(set(found)) == count and found[0] == View()
        for view in found:
            assert torch.equal(view.back(view.of(crops)), crops)


@pytest.mark.parametrize("offsets", [NEAREST, LONG])
@pytest.mark.parametrize("tta", ["flips", "all"])
def test_what_is_the_same_from_every_side_stays_as_it_is(tta, offsets):
    """Every edge that exists: also long, diagonal and negative ones, one of which has no mirror."""
    crops = torch.rand(2, 1, 6, 8, 8)
    model = smooth(offsets)
    expected, found = model(crops), averaged(model, tta=tta, offsets=offsets)(crops)
    for channel, offset in enumerate(offsets):
        here, _ = edges(offset, sides=(6, 8, 8))
        place = (slice(None), channel, *here)
        torch.testing.assert_close(found[place], expected[place], rtol=0, atol=1e-6)


@pytest.mark.parametrize("view", views("all")[1:])
def test_the_average_is_the_same_from_every_side(view):
    """Of a network that is not: an average over a group is."""
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(1, 3, 3, padding=1)
    look = averaged(lambda crops: torch.sigmoid(conv(crops)), tta="all", offsets=NEAREST)
    crops = torch.rand(1, 1, 5, 6, 6)
    with torch.inference_mode():
        straight, turned = look(crops), view.back(look(view.of(crops)))
        assert not torch.allclose(straight, torch.sigmoid(conv(crops)), atol=1e-3)
    for channel, offset in enumerate(NEAREST):
        there, shifted = source(view, NEAREST, channel)
        here, partner = edges(offset, sides=(5, 6, 6))
        estimate = turned[(slice(None), there, *(partner if shifted else here))]
        torch.testing.assert_close(estimate, straight[(slice(None), channel, *here)])


def test_an_edge_that_no_channel_of_a_view_tells_has_no_estimate_there():
    flipped = View((1,))
    assert source(flipped, LONG, 1) == (1, True)
    assert source(flipped, LONG, 7) == (8, True)  # (0, -2, 2) is the opposite of (0, 2, -2)
    assert source(flipped, LONG, 6) == (6, False)  # nothing to flip
    assert source(View((0,)), LONG, 6) is None  # (-1, 0, -2)
    assert source(View((), True), LONG, 1) == (2, False)
