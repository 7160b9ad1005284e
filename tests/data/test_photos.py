import json

import numpy as np
import pytest
from PIL import Image

from tokenunify_scale.config import DataError
from tokenunify_scale.data import photos
from tokenunify_scale.data.photos import PhotoCrops, left_out_line, open_photos
from tokenunify_scale.volumes.photos import read_photo

CROP = (1, 4, 6)


@pytest.fixture
def folders(tmp_path):
    """Two folders of three and one images, and in the first one that is too small."""
    rng = np.random.default_rng(0)
    shapes = {"a/2.png": (5, 9), "a/in/3.png": (4, 6), "a/1.png": (30, 40), "a/0.png": (9, 5)}
    for name, sides in {**shapes, "b/1.png": (12, 12)}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*sides, 3)).astype(np.uint8)).save(path)
    return str(tmp_path / "a"), str(tmp_path / "b" / "*.png")


def crops(specs, **words):
    return PhotoCrops(
        open_photos(specs, crop=CROP), **{"count": 5, "crop": CROP, "seed": 3, **words}
    )


def test_each_crop_is_the_part_of_its_image_that_its_box_says(folders, tmp_path):
    samples, seen = crops(folders), set()
    assert len(samples) == 20
    for number in range(20):
        crop, meta = samples[number]
        assert crop.shape == (3, 4, 6) and crop.dtype == np.uint8
        assert meta["image"] == ["1.png", "2.png", "in/3.png", "1.png"][number // 5]
        assert meta["volume"] == (number >= 15) and json.loads(json.dumps(meta)) == meta
        with Image.open(tmp_path / "ab"[meta["volume"]] / meta["image"]) as image:
            pixels = np.asarray(image)
        (z, y, x), (below, bottom, right) = meta["box"]
        assert (z, below) == (0, 1)
        assert np.array_equal(crop, pixels[y:bottom, x:right].transpose(2, 0, 1))
        seen.add(json.dumps(meta))
    assert len(seen) > 10  # of small images, some places come twice


def test_places_are_uniform_over_all_that_fit(folders):
    held = crops(folders, count=3000)
    corners = [tuple(held[3000 + turn][1]["box"][0][1:]) for turn in range(3000)]
    counts = {corner: corners.count(corner) for corner in set(corners)}
    assert set(counts) == {(y, x) for y in (0, 1) for x in (0, 1, 2, 3)}
    assert all(abs(count - 375) < 90 for count in counts.values())  # 5 standard deviations


def test_a_sample_is_a_function_of_seed_and_number_whoever_reads_it_when(folders):
    forward, backward = crops(folders), crops(folders)
    again = [backward[number] for number in reversed(range(20))][::-1]
    for number, (crop, meta) in enumerate(again):
        assert np.array_equal(forward[number][0], crop) and forward[number][1] == meta
    more = crops(folders, count=7)
    assert all(more[turn][1] == forward[turn][1] for turn in range(5))
    assert any(crops(folders, seed=4)[n][1] != forward[n][1] for n in range(5))
    for number in (-1, 20):
        with pytest.raises(IndexError, match=f"sample {number} of 20"):
            forward[number]


def test_an_image_is_decoded_once_for_its_crops(folders, monkeypatch):
    decoded = []
    monkeypatch.setattr(photos, "read_photo", lambda path: decoded.append(path) or read_photo(path))
    samples = crops(folders)
    for number in range(20):
        samples[number]
    assert [path.name for path in decoded] == ["1.png", "2.png", "3.png", "1.png"]


def test_images_that_hold_no_crop_are_left_out_and_counted(folders):
    first, second = opened = open_photos(folders, crop=CROP)
    assert first.names == ("1.png", "2.png", "in/3.png")
    assert first.sides == ((30, 40), (5, 9), (4, 6)) and (first.left_out, second.left_out) == (1, 0)
    facts = first.facts()
    assert (facts["path"], facts["images"], facts["left_out"]) == (folders[0], 3, 1)
    assert left_out_line(opened, crop=CROP) == "1 of 5 images are smaller than 4x6: left out"
    assert left_out_line([second], crop=CROP) is None
    large = open_photos(folders, crop=(1, 12, 12))
    assert [folder.names for folder in large] == [("1.png",), ("1.png",)]
    only_second = PhotoCrops(open_photos(folders, crop=(1, 30, 7)), count=2, crop=CROP, seed=0)
    assert len(only_second) == 2


def test_a_folder_without_any_that_fits_leaves_the_samples_of_the_others(folders):
    opened = open_photos(folders[::-1], crop=(1, 20, 20))
    assert [len(folder.names) for folder in opened] == [0, 1]
    samples = PhotoCrops(opened, count=2, crop=(1, 20, 20), seed=0)
    assert [samples[n][1]["volume"] for n in range(2)] == [1, 1]


def test_where_no_image_holds_a_crop_the_largest_is_named(folders):
    said = r"a crop of 31x6 fits into no image; the largest, .*a/1.png, has 30x40 pixels"
    with pytest.raises(DataError, match=said):
        open_photos(folders, crop=(1, 31, 6))


def test_facts_tell_other_names_and_other_sizes_apart(folders, tmp_path):
    def digest():
        return open_photos(folders[:1], crop=CROP)[0].facts()["names_sha256"]

    first, image = digest(), tmp_path / "a" / "1.png"
    assert digest() == first
    image.rename(tmp_path / "a" / "5.png")
    assert digest() != first
    (tmp_path / "a" / "5.png").rename(image)
    assert digest() == first
    Image.new("RGB", (39, 30)).save(image)
    assert digest() != first


def test_headers_that_cannot_be_read_are_named_at_once(folders, tmp_path):
    for name in "vwxyz":
        (tmp_path / "a" / f"{name}.jpg").write_bytes(b"<html>")
    said = r"5 of 10 images cannot be used: \S*v.jpg: not a readable JPEG.*y.jpg.*; and 1 more$"
    with pytest.raises(DataError, match=said) as caught:
        open_photos(folders, crop=CROP)
    assert "z.jpg" not in str(caught.value)


def test_an_image_that_has_changed_since_its_header_was_read_is_named(folders, tmp_path):
    samples = crops(folders)
    Image.new("RGB", (41, 30)).save(tmp_path / "a" / "1.png")
    with pytest.raises(DataError, match="1.png: has 30x41 pixels .*, its header said 30x40"):
        samples[0]
