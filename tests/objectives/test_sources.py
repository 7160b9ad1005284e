"""Crops to be measured on: where they lie in volumes, and how photographs are tiled."""

import numpy as np
import pytest

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.objectives import sources
from tokenunify_scale.objectives.sources import Photos, VolumeCrops, tile_middle

VOLUME = "synthetic:seed=3,shape=16x48x48"


def volume(**changes):
    settings = {"sections": None, "crop": (4, 16, 16), "crops": 3, "seed": 0, **changes}
    return VolumeCrops(volume=VOLUME, **settings)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Photographs that are not decoded: each is the number in its name."""

    def make(*names, sides=(40, 70), crop=(1, 16, 32)):
        paths = [tmp_path / name for name in names]
        monkeypatch.setattr(sources, "find_photos", lambda spec: paths)
        monkeypatch.setattr(sources, "photo_sides", lambda path: sides)
        monkeypatch.setattr(
            sources,
            "read_photo",
            lambda path: np.full((3, 1, *sides), int(path.stem[-1]), np.uint8),
        )
        return Photos(spec=str(tmp_path), crop=crop)

    return make


def test_a_crop_depends_on_the_seed_and_its_number_alone():
    whole = list(volume().items())
    assert len(whole) == 3 and whole[0].shape == (1, 1, 4, 16, 16) and whole[0].dtype == np.uint8
    assert np.array_equal(next(volume(crops=1).items()), whole[0])
    assert not np.array_equal(next(volume(seed=1).items()), whole[0])
    drawn, number = volume().drawn()
    assert np.array_equal(drawn, whole[0][0]) and number == 0
    assert volume().names == ["0", "1", "2"] and "shape=16x48x48" in volume().title


def test_a_crop_larger_than_the_sections_is_refused():
    volume(sections=(2, 6)).check()
    with pytest.raises(DataError, match=r"does not fit into \(3, 48, 48\)"):
        volume(sections=(2, 5)).check()


def test_tiles_are_whole_crops_around_the_middle_in_raster_order():
    photo = np.arange(3 * 5 * 7).reshape(3, 1, 5, 7)
    tiles = tile_middle(photo, crop=(1, 2, 3))
    assert tiles.shape == (4, 3, 1, 2, 3)
    for number, (y, x) in enumerate([(0, 0), (0, 3), (2, 0), (2, 3)]):
        assert np.array_equal(tiles[number], photo[:, :, y : y + 2, x : x + 3])
    assert np.array_equal(tile_middle(photo, crop=(1, 3, 3))[0], photo[:, :, 1:4, :3])


def test_photographs_are_named_by_what_tells_them_apart(photos):
    assert photos("kodim1.png", "kodim2.png").names == ["kodim1", "kodim2"]
    assert photos("a/1.png", "b/1.png").names == ["a/1", "b/1"]
    assert photos("1.png", "1.jpg").names == ["1.png", "1.jpg"]


def test_the_drawn_tile_is_the_middle_one_of_the_first_photograph(photos):
    found = photos("1.png", "2.png")
    found.check()
    tiles = list(found.items())
    assert [t.shape for t in tiles] == [(4, 3, 1, 16, 32)] * 2 and tiles[1].min() == 2
    drawn, number = found.drawn()
    assert number == 3 and drawn.shape == (3, 1, 16, 32) and drawn.max() == 1
    assert found.facts()["photographs"] == 2


def test_photographs_smaller_than_a_crop_and_deep_crops_are_refused(photos):
    with pytest.raises(DataError, match="70x40 pixels, smaller than a crop of 64x64"):
        photos("1.png", crop=(1, 64, 64)).check()
    with pytest.raises(ConfigError, match="give --crop, as 1,256,256"):
        photos("1.png", crop=(4, 16, 16)).check()
