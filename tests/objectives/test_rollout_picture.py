"""The rollout's picture: every method in its colour, images of what was shown and predicted."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from tokenunify_scale.objectives.rollout import rollout
from tokenunify_scale.objectives.rollout_picture import METHODS, _volumes, draw_rollout
from tokenunify_scale.tokens.order import visiting_order

PATCH, SIDES = (2, 8, 8), (8, 32, 32)
TRUTH = torch.rand(2, 1, *SIDES, generator=torch.Generator().manual_seed(0))


def rolled(network):
    order = visiting_order((4, 4, 4))
    return rollout(network, TRUTH, patch=PATCH, order=order, visible=16, fill=torch.tensor(0.0))


def draw(path, whole, **options):
    errors = {name: getattr(whole, f"errors_{name}").double().numpy() for name in METHODS}
    truth = TRUTH[0, 0].numpy()
    draw_rollout(path, errors, truth=truth, whole=whole, patch=PATCH, **options)
    return imread(path)[..., :3]


def area(image, colour):
    return (np.abs(image - to_rgb(colour)).max(axis=2) < 0.02).sum()


def test_every_method_has_a_line_of_its_colour(tmp_path):
    image = draw(tmp_path / "new" / "a.png", rolled(lambda seen: seen * 0.5), title="a run")
    assert min(area(image, colour) for _, colour, _ in METHODS.values()) > 300


def test_images_have_the_aspect_of_the_voxels(tmp_path):
    whole = rolled(lambda seen: seen * 0.5)
    flat, thick = (draw(tmp_path / f"{n}.png", whole, voxel_size=(n, 1, 1)) for n in (1, 3))
    assert len(thick) > len(flat) + 50


def test_what_was_predicted_is_hidden_where_the_prefix_is_shown():
    whole = rolled(lambda seen: torch.full_like(seen, 0.25))
    volumes, (z, y) = _volumes(TRUTH[0, 0].numpy(), whole, patch=PATCH)
    hidden = np.isnan(volumes["shown"])
    assert hidden.sum() == 48 * 2 * 8 * 8 and hidden[z, y].all()
    for name in ("one after another", "all at once"):
        assert (volumes[name][hidden] == 0.25).all()
        assert np.array_equal(volumes[name][~hidden], volumes["truth"][~hidden])


@pytest.mark.filterwarnings("error")
def test_a_rollout_without_error_and_one_of_a_single_patch_are_drawn(tmp_path):
    draw(tmp_path / "oracle.png", rolled(lambda seen: TRUTH))
    order = visiting_order((4, 4, 4))
    fill = torch.tensor(0.0)
    single = rollout(lambda s: s, TRUTH, patch=PATCH, order=order, visible=63, fill=fill)
    draw(tmp_path / "single.png", single)
