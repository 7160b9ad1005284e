import os

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.photos import find_photos, photo_sides, read_photo, root_of


def colours(shape=(5, 7, 3)):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def as_volume(array):
    """[H, W, 3] as a volume of one section."""
    return np.moveaxis(array, 2, 0)[:, None]


def assert_reads(path, expected):
    photo = read_photo(path)
    assert photo.dtype == np.uint8 and photo.shape == (3, 1, *expected.shape[:2])
    assert np.array_equal(photo, as_volume(expected))
    assert photo_sides(path) == expected.shape[:2]


@pytest.fixture
def tree(tmp_path):
    for name in ("b.png", "a.jpg", "in/c.TIF", "in/deep/d.jpeg", ".e.png", ".git/f.png", "g.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names(spec, root):
    return [path.relative_to(root).as_posix() for path in find_photos(str(spec))]


def test_a_folder_is_searched_to_its_depth_and_what_is_hidden_is_passed_over(tree):
    assert names(tree, tree) == ["a.jpg", "b.png", "in/c.TIF", "in/deep/d.jpeg"]
    assert names(tree / "in", tree) == ["in/c.TIF", "in/deep/d.jpeg"]


def test_a_pattern_and_a_single_image_are_requests_too(tree):
    assert names(tree / "*.*", tree) == ["a.jpg", "b.png"]
    assert names(tree / "**" / "*.jp*g", tree) == ["a.jpg", "in/deep/d.jpeg"]
    assert names(tree / "b.png", tree) == ["b.png"]


def test_names_begin_where_the_pattern_does(tree, monkeypatch):
    assert root_of(str(tree)) == tree and root_of(str(tree / "b.png")) == tree
    assert root_of(str(tree / "i[n]" / "*.TIF")) == tree
    assert root_of(str(tree / "in" / "**" / "*.TIF")) == tree / "in"
    monkeypatch.chdir(tree)
    for spec in (".", "*.png", "b.png", "./in/../*.png"):
        assert all(path.relative_to(root_of(spec)) for path in find_photos(spec))


def test_nothing_to_read_is_an_error_that_says_so(tree):
    for spec, said in {
        tree / "none": "no such folder of images",
        tree / "*.gif": "no PNG, JPEG or TIFF images there",
        tree / "g.txt": "no PNG, JPEG or TIFF images there",
        tree / ".git": None,
    }.items():
        if said is None:
            assert len(find_photos(str(spec))) == 1  # asked for by its name
            continue
        with pytest.raises(DataError, match=f"{spec.name.replace('*', '.')}: {said}"):
            find_photos(str(spec))


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, os.strerror(13), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="in/deep: cannot be listed .Permission denied"):
        find_photos(str(tree))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_colours_are_read_as_pillow_decodes_them(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(colours()).save(path)
    with Image.open(path) as image:
        assert_reads(path, np.asarray(image))
        assert suffix == ".jpg" or np.array_equal(image, colours())


def test_grey_is_repeated(tmp_path):
    grey = colours()[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert_reads(tmp_path / "a.png", np.stack(3 * [grey], axis=2))
    Image.fromarray(grey > 99).save(tmp_path / "b.png")
    assert_reads(tmp_path / "b.png", np.stack(3 * [(grey > 99) * np.uint8(255)], axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_of_16_bits_the_upper_8_are_taken(tmp_path, suffix):
    wide = np.random.default_rng(0).integers(0, 65536, (5, 7)).astype(np.uint16)
    Image.fromarray(wide).save(tmp_path / f"a{suffix}")
    assert_reads(tmp_path / f"a{suffix}", np.stack(3 * [wide // 256], axis=2))


def test_16_bits_of_colours_lose_the_lower_8(tmp_path):
    wide = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", wide, photometric="rgb")
    assert_reads(tmp_path / "a.tif", (wide // 256).astype(np.uint8))


def test_a_palette_is_looked_up(tmp_path):
    image = Image.fromarray(colours()).quantize(8)
    image.save(tmp_path / "a.png")
    assert_reads(tmp_path / "a.png", np.asarray(image.convert("RGB")))


def test_cyan_magenta_yellow_and_black_become_their_colours(tmp_path):
    inks = colours((5, 7, 4))
    Image.frombytes("CMYK", (7, 5), inks.tobytes()).save(tmp_path / "a.tif")
    inks = inks.astype(float)
    expected = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    assert np.abs(read_photo(tmp_path / "a.tif") - as_volume(expected)).max() <= 1
    flat = Image.new("CMYK", (7, 5), (200, 100, 0, 50))
    flat.save(tmp_path / "a.jpg", quality=100)
    expected = np.array([55, 155, 255]) * 205 / 255
    found = read_photo(tmp_path / "a.jpg")[:, 0, 2, 3]
    assert np.abs(found - expected).max() < 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(tmp_path, mode):
    rgba, path = colours((5, 7, 4)), tmp_path / "a.png"
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    if mode == "P":
        image = Image.fromarray(rgba[..., :3]).quantize(8)
        image.save(path, transparency=3)
        pixels, opaque = np.asarray(image.convert("RGB")), np.asarray(image)[..., None] != 3
    else:
        image = Image.fromarray(rgba).convert(mode)
        image.save(path)
        pixels = np.asarray(image.convert("RGBA"))
        pixels, opaque = pixels[..., :3], pixels[..., 3:] / 255
    expected = pixels * opaque + 255 * (1 - opaque)
    assert np.abs(read_photo(path) - as_volume(expected)).max() <= 1
    if mode != "P":
        assert (read_photo(path)[:, 0, 0] == 255).all()
        assert np.array_equal(read_photo(path)[:, 0, 1], pixels[1].T)


@pytest.mark.parametrize("turn", [*range(1, 9), 0, 9])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_photographs_are_upright_however_the_camera_was_held(tmp_path, turn, suffix):
    path, exif = tmp_path / f"a{suffix}", Image.Exif()
    exif[274] = turn
    Image.fromarray(colours()).save(path, exif=exif)
    with Image.open(path) as image:
        assert_reads(path, np.asarray(ImageOps.exif_transpose(image)))
    assert photo_sides(path) == ((7, 5) if 5 <= turn <= 8 else (5, 7))


def test_sizes_come_from_headers_alone(tmp_path):
    for suffix in (".png", ".jpg", ".tif"):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(colours((64, 96, 3))).save(path)
        if suffix != ".tif":  # whose header may lie behind the pixels
            path.write_bytes(path.read_bytes()[:2000])
        assert photo_sides(path) == (64, 96)


def test_an_image_is_what_its_content_says_and_not_its_name(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.jpeg", "PNG")
    assert_reads(tmp_path / "a.jpeg", colours())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_damage_is_one_error_that_names_the_image(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(colours((64, 64, 3))).save(path)
    whole = path.read_bytes()
    for data in (b"", b"hello", whole[:20], whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=f"a{suffix}: not a readable"):
            read_photo(path)
    path.unlink()
    for read in (read_photo, photo_sides):
        with pytest.raises(DataError, match=f"a{suffix}: not readable .No such file"):
            read(path)


def test_what_has_no_one_way_to_become_colours_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 7), np.float32))
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((3, 5, 7), np.uint8), photometric="minisblack")
    Image.new("LAB", (7, 5)).save(tmp_path / "c.tif")
    for name, said in {"a": "mode F in a TIFF", "b": "3 pages", "c": "mode LAB"}.items():
        for read in (read_photo, photo_sides):
            with pytest.raises(DataError, match=f"{name}.tif: .*{said}"):
                read(tmp_path / f"{name}.tif")


def test_a_photograph_may_be_larger_than_pillow_allows_images_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    Image.fromarray(colours()).save(tmp_path / "a.png")
    assert_reads(tmp_path / "a.png", colours())
