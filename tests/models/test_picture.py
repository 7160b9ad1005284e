import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from tokenunify_scale.models import list_models
from tokenunify_scale.models.picture import FAMILIES, Spot, draw_costs


def pixels(path, colour):
    image = imread(path)[..., :3]
    return (np.abs(image - to_rgb(colour)).max(axis=2) < 0.02).sum()


def test_every_family_has_a_colour_and_a_shape():
    assert {name.partition("_")[0] for name in list_models()} == set(FAMILIES)
    assert len({colour for colour, _ in FAMILIES.values()}) == len(FAMILIES)
    assert len({shape for _, shape in FAMILIES.values()}) == len(FAMILIES)


def test_a_network_is_a_mark_and_the_papers_figure_a_ring(tmp_path):
    areas = []
    for name, paper in {"without": None, "with": (2e6, 3e5)}.items():
        path = tmp_path / "new" / f"{name}.png"
        draw_costs(path, [Spot("unetr_1b", 1e6, 1e5, paper), Spot("mala", 1e5, 1e4)])
        areas.append([pixels(path, FAMILIES[family][0]) for family in ("unetr", "mala")])
    assert min(areas[0]) > 50 and areas[1][0] > areas[0][0] + 50
    assert areas[1][1] == pytest.approx(areas[0][1], rel=0.2)
