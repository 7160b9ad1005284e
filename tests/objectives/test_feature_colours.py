"""Features as colours: places, signs, and what does not vary."""

import torch

from tokenunify_scale.objectives.feature_colours import feature_colours


def features(channels=5, sides=(2, 3, 4)):
    return torch.randn(channels, *sides, generator=torch.Generator().manual_seed(0))


def test_a_voxel_has_the_colour_of_its_cell():
    colours = feature_colours(features(), sides=(4, 12, 8), padded=(4, 12, 8))
    assert colours.shape == (4, 12, 8, 3) and colours.min() == 0 and colours.max() == 1
    for axis, size in enumerate((2, 4, 2)):
        cells = colours.unflatten(axis, (-1, size))
        first = cells.select(axis + 1, 0).unsqueeze(axis + 1)
        assert torch.equal(cells, first.expand_as(cells))
    assert len(colours.reshape(-1, 3).unique(dim=0)) > 20


def test_cells_of_padding_have_no_say():
    wide = features(sides=(2, 3, 8))
    cut = feature_colours(wide[..., :4].clone(), sides=(4, 12, 8), padded=(4, 12, 8))
    wide[..., 4:] *= 100
    assert torch.equal(feature_colours(wide, sides=(4, 12, 8), padded=(4, 12, 16)), cut)


def test_the_first_component_is_the_channel_that_varies_most_and_its_sign_is_fixed():
    maps = 0.01 * features()
    ramp = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
    maps[2] += ramp
    red = feature_colours(maps, sides=(2, 3, 4), padded=(2, 3, 4))[..., 0]
    assert torch.corrcoef(torch.stack([red.flatten(), ramp.flatten()]))[0, 1] > 0.99


def test_what_does_not_vary_is_gray():
    colours = feature_colours(torch.ones(2, 2, 2, 2), sides=(4, 4, 4), padded=(4, 4, 4))
    assert (colours == 0.5).all()
