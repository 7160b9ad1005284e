"""Neurons as a picture: each is there in its colour, and what cannot be drawn is one line."""

import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv
from matplotlib.image import imread

from tokenunify_scale.config import DataError
from tokenunify_scale.viewer import meshes
from tokenunify_scale.viewer.meshes import render_neurons

BIG = 2**64 - 1
IDS = np.zeros((6, 24, 24), np.uint64)
IDS[:, 2:10, :] = 5
IDS[1:4, 14:22, 4:20] = BIG
COLOURS = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(meshes, "SIDE", 300)


def hues(path):
    """How many pixels, right of the picture's legend aside, are red and blue."""
    picture = imread(path)[..., :3]
    hsv = rgb_to_hsv(picture[:, : picture.shape[1] * 6 // 10])
    strong = hsv[..., 1] > 0.4
    red = strong & ((hsv[..., 0] < 0.06) | (hsv[..., 0] > 0.94))
    blue = strong & (np.abs(hsv[..., 0] - 2 / 3) < 0.06)
    return red, blue


def draw(path, ids, segmentation=IDS, **options):
    render_neurons(path, segmentation, ids, **{"voxel_size": (35, 8, 8), "title": "t", **options})
    return path


def test_each_neuron_is_drawn_in_its_colour_and_at_its_place(tmp_path):
    red, blue = hues(draw(tmp_path / "a.png", [5, BIG], colours=COLOURS))
    assert red.sum() > 5000 and blue.sum() > 3000
    # y goes down: the neuron of small y is above the other.
    assert np.nonzero(red)[0].mean() + 50 < np.nonzero(blue)[0].mean()


def test_the_picture_fits_what_is_drawn_and_not_the_volume(tmp_path):
    far = np.zeros((6, 200, 200), np.uint64)
    far[:, :24, :24] = IDS
    first, second = (
        imread(draw(tmp_path / f"{i}.png", [5, BIG], ids)) for i, ids in enumerate((IDS, far))
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("ids", [[BIG], [5, BIG]])
def test_one_voxel_and_many_neurons_are_drawn(tmp_path, ids):
    dots = np.zeros((3, 3, 3), np.uint64)
    dots[0, 0, 0], dots[2, 2, 2] = 5, BIG
    red, _ = hues(draw(tmp_path / "a.png", ids, dots, colours=COLOURS))
    assert red.sum() > 50
    many = np.arange(1, 28, dtype=np.uint16).reshape(3, 3, 3)
    names = meshes._names(np.arange(1, 28), [meshes.surface_of(many, 1, voxel_size=(1, 1, 1))] * 27)
    assert names[0] == "1  (1 voxel)" and names[-1] == "and 13 more" and len(names) == 15
    draw(tmp_path / "many.png", range(1, 28), many)


@pytest.mark.parametrize("kind", [np.uint64, np.uint8, np.int32])
def test_an_id_that_is_not_there_is_one_line_and_no_picture(tmp_path, kind):
    ids = (IDS != 0).astype(kind)
    for absent in (77, 2**40):
        with pytest.raises(DataError, match=f"segment {absent} is not in") as error:
            draw(tmp_path / "a.png", [1, absent], ids)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="nothing to draw"):
        draw(tmp_path / "a.png", [], ids)
    assert not list(tmp_path.iterdir())
