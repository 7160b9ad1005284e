import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.section import kind_of, read_facts, read_section


def pixels(dtype, shape=(20, 30)):
    """Random values over the range of a type."""
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_is_read_as_it_is_stored(tmp_path, dtype):
    raw = pixels(dtype)
    Image.fromarray(raw).save(tmp_path / "a.PNG")
    read = read_section(tmp_path / "a.PNG")
    assert np.array_equal(read, raw) and read.dtype == dtype
    assert read_facts(tmp_path / "a.PNG") == ((20, 30), np.dtype(dtype))


def test_a_jpeg_is_read_as_pillow_decodes_it(tmp_path):
    Image.fromarray(pixels(np.uint8)).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.array_equal(read_section(tmp_path / "a.jpg"), np.asarray(image))


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}], ids=str)
def test_a_tiff_is_read_as_tifffile_reads_it_or_refused(tmp_path, dtype, order, options):
    raw, path = pixels(dtype), tmp_path / "a.tif"
    tifffile.imwrite(path, raw, photometric="minisblack", byteorder=order, **options)
    swapped = dtype[1] != "1" and dtype != "u2" and order == ">" and "compression" in options
    if dtype in ("i1", "f8") or swapped or (dtype, order) == ("u4", ">"):
        with pytest.raises(DataError, match="not plain grey|not a readable TIFF"):
            read_section(path)
    else:
        read = read_section(path)
        assert np.array_equal(read, raw) and read.dtype == raw.dtype
        assert read_facts(path) == (raw.shape, raw.dtype)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_the_usual_compressions_of_tiff_are_read(tmp_path, compression):
    raw = pixels(np.uint8)
    Image.fromarray(raw).save(tmp_path / "a.tif", compression=compression)
    assert np.array_equal(read_section(tmp_path / "a.tif"), raw)


def test_a_palette_is_read_if_all_of_it_is_grey(tmp_path):
    raw = pixels(np.uint8)
    image = Image.fromarray(255 - raw).convert("P")
    image.putpalette([level for i in range(256) for level in 3 * [255 - i]])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_section(tmp_path / "a.png"), raw)
    image.putpalette([level for i in range(256) for level in (i, i, 0)])
    image.save(tmp_path / "b.png")
    with pytest.raises(DataError, match="b.png: a palette of colours"):
        read_facts(tmp_path / "b.png")


@pytest.mark.parametrize(
    "mode, suffix, words",
    [
        ("RGB", ".png", "mode RGB in a PNG"),
        ("RGBA", ".png", "mode RGBA"),
        ("LA", ".png", "transparency"),
        ("1", ".png", "1 bit a pixel"),
        ("RGB", ".jpg", "mode RGB in a JPEG"),
        ("RGB", ".tif", "mode RGB in a TIFF"),
        ("1", ".tif", "1 bit a pixel"),
    ],
)
def test_what_is_not_grey_is_refused_and_how_to_convert_it_said(tmp_path, mode, suffix, words):
    path = tmp_path / f"a{suffix}"
    Image.new(mode, (30, 20)).save(path)
    with pytest.raises(DataError, match=rf"{words}.*mogrify.*\*{suffix}"):
        read_facts(path)


def test_inverted_turned_and_many_paged_tiffs_are_refused(tmp_path):
    raw = pixels(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", raw, photometric="miniswhite")
    turned = [(274, "H", 1, 6, True)]
    tifffile.imwrite(tmp_path / "b.tif", raw, photometric="minisblack", extratags=turned)
    tifffile.imwrite(tmp_path / "c.tif", np.stack(3 * [raw]), photometric="minisblack")
    for name, words in (("a", "not plain grey"), ("b", "not plain grey"), ("c", "3 pages")):
        with pytest.raises(DataError, match=words):
            read_facts(tmp_path / f"{name}.tif")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "name, options",
    [("a.png", {}), ("a.jpg", {}), ("a.tif", {}), ("b.tif", {"compression": "tiff_lzw"})],
)
def test_a_file_that_is_cut_short_or_of_another_kind_is_one_error(tmp_path, name, options):
    buffer = io.BytesIO()
    kind = kind_of(name)
    Image.fromarray(pixels(np.uint8, (64, 64))).save(buffer, kind, **options)
    whole = buffer.getvalue()
    others = [b"", b"hello", b"\x89PNG\r\n\x1a\n", whole[:20], whole[:-200]]
    for data in [*others, whole[: len(whole) // 2]]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: not a readable {kind} image"):
            read_section(tmp_path / name)


def test_a_png_with_a_flipped_bit_is_refused_or_still_right(tmp_path):
    raw, path = pixels(np.uint8, (32, 32)), tmp_path / "a.png"
    Image.fromarray(raw).save(path)
    whole, refused = path.read_bytes(), 0
    places = range(8, len(whole) - 12, 7)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        try:
            assert np.array_equal(read_section(path), raw)
        except DataError:
            refused += 1
    assert refused > 0.9 * len(places)


def test_a_section_may_be_larger_than_pillow_allows_images_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.fromarray(pixels(np.uint8)).save(tmp_path / "a.png")
    assert read_section(tmp_path / "a.png").shape == (20, 30)


def test_the_kind_is_told_by_the_name():
    names = ["a.png", "a.JPG", "b.jpeg", "c.tif", "d.TIFF", "e.txt", "png", ".DS_Store"]
    assert [kind_of(n) for n in names] == ["PNG", "JPEG", "JPEG", "TIFF", "TIFF", None, None, None]
