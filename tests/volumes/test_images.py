import logging
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image

from tokenunify_scale.config import DataError
from tokenunify_scale.registry import READERS
from tokenunify_scale.volumes import images
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.images import Sections, holds_sections, open_images


@pytest.fixture
def raw():
    return np.random.default_rng(0).integers(0, 256, (12, 20, 30), dtype=np.uint8)


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images that are decoded, in that order."""
    names, read = [], images.read_section

    def count(path):
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(images, "read_section", count)
    return names


def write(folder, raw, *, name="s{}.png"):
    """A folder of sections, numbered from 0."""
    folder.mkdir(exist_ok=True)
    for z, section in enumerate(raw):
        path = folder / name.format(z)
        if path.suffix == ".tif":
            tifffile.imwrite(path, section, photometric="minisblack")
        else:
            Image.fromarray(section).save(path)
    return folder


@pytest.mark.parametrize("name", ["s{}.png", "s{:04}.png", "{}.tif", "a_{}_8nm.tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_folder_of_sections_is_the_volume(tmp_path, raw, name, dtype):
    raw = raw.astype(dtype) * (1 if dtype == np.uint8 else 257)
    box = Box((1, 2, 3), (11, 20, 9))
    with open_images(str(write(tmp_path / "v", raw, name=name))) as volume:
        assert (volume.shape, volume.dtype, volume.voxel_size) == (raw.shape, dtype, None)
        assert np.array_equal(volume.read(box), raw[box.slices])
        whole = volume.read()
        assert np.array_equal(whole, raw) and whole.dtype == dtype
        whole += 1
        assert np.array_equal(volume.read(), raw)


def test_tiff_sections_hold_floats(tmp_path, raw):
    raw = raw.astype(np.float32) / 7
    volume = open_images(str(write(tmp_path / "v", raw, name="{}.tif")))
    assert volume.dtype == np.float32 and np.array_equal(volume.read(), raw)


def test_a_pattern_chooses_among_the_files_of_a_folder(tmp_path, raw):
    write(tmp_path / "v", raw, name="s{}.png")
    write(tmp_path / "v", 255 - raw[:5], name="t{}.png")
    write(tmp_path / "v", raw[:3], name="s{}.tif")
    for pattern, expected in (("s*.png", raw), ("t*.png", 255 - raw[:5]), ("*.tif", raw[:3])):
        assert np.array_equal(open_images(f"{tmp_path}/v/{pattern}").read(), expected)


def test_hidden_files_folders_and_other_files_are_passed_over(tmp_path, raw):
    folder = write(tmp_path / "v", raw)
    (folder / "more.png").mkdir()
    for name in (".DS_Store", "._s0.png", "Thumbs.db", "notes.txt", "Makefile"):
        (folder / name).write_text("no image")
    assert np.array_equal(open_images(f"{folder}/").read(), raw)


def test_a_crop_decodes_its_sections_only_and_each_once(tmp_path, raw, decoded):
    folder = write(tmp_path / "v", raw)
    volume = open_images(str(folder))
    assert decoded == []
    for start in (2, 3, 2):
        volume.read(Box((start, 0, 0), (start + 3, 4, 4)))
    assert decoded == ["s2.png", "s3.png", "s4.png", "s5.png"]
    assert volume.read(Box((3, 0, 0), (3, 4, 4))).shape == (0, 4, 4)


def test_a_damaged_section_harms_only_those_who_read_it(tmp_path, raw):
    folder = write(tmp_path / "v", raw)
    (folder / "s5.png").write_text("no image")
    Image.fromarray(raw[7][:10]).save(folder / "s7.png")
    Image.fromarray(raw[8].astype(np.uint16)).save(folder / "s8.png")
    volume = open_images(str(folder))
    assert np.array_equal(volume.read(Box((0, 0, 0), (5, 20, 30))), raw[:5])
    for z, words in (
        (5, "s5.png: not a readable PNG"),
        (7, "s7.png: a section of 10x30 uint8, but s0.png is 20x30 uint8"),
        (8, "s8.png: a section of 20x30 uint16, but s0.png is 20x30 uint8"),
    ):
        for _ in range(2):
            with pytest.raises(DataError, match=words):
                volume.read(Box((z, 0, 0), (z + 1, 20, 30)))


def test_a_last_section_of_another_shape_is_refused_at_opening(tmp_path, raw):
    folder = write(tmp_path / "v", raw)
    Image.fromarray(raw[0].T.copy()).save(folder / "s11.png")
    with pytest.raises(DataError, match="s11.png: a section of 30x20 uint8, but s0.png is 20x30"):
        open_images(str(folder))


def test_the_cache_keeps_no_more_than_its_bytes_and_one_section_at_least(tmp_path, raw, decoded):
    paths = [write(tmp_path / "v", raw) / f"s{z}.png" for z in range(len(raw))]
    for cache, kept in ((2 * 20 * 30, 2), (1, 1)):
        decoded.clear()
        sections = Sections(paths, cache=cache)
        for z in (0, 1, 1, 0):
            sections[z : z + 1, 0:20, 0:30]
        assert len(decoded) == (2 if kept == 2 else 3)
        sections.close()
        sections[0:1, 0:20, 0:30]
        assert len(decoded) == (3 if kept == 2 else 4)


def test_threads_read_the_same_and_decode_a_section_once(tmp_path, raw, decoded):
    with open_images(str(write(tmp_path / "v", raw))) as volume, ThreadPoolExecutor(8) as pool:
        boxes = [Box((z % 9, z % 5, z % 7), (z % 9 + 4, 20, 30)) for z in range(64)]
        for box, crop in zip(boxes, pool.map(volume.read, boxes), strict=True):
            assert np.array_equal(crop, raw[box.slices])
    assert len(decoded) == len(set(decoded)) == len(raw)


def test_several_kinds_are_refused_with_one_of_each(tmp_path, raw):
    folder = write(write(tmp_path / "v", raw), raw[:2], name="t{}.tif")
    with pytest.raises(DataError, match=r"PNG \(s11.png\) and TIFF \(t1.tif\).*v/\*.png"):
        open_images(str(folder))


def test_two_names_of_one_number_are_refused(tmp_path, raw):
    folder = write(tmp_path / "v", raw)
    write(folder, raw[:2], name="s0{}.png")
    with pytest.raises(DataError, match="s0.png and s00.png have the same number"):
        open_images(str(folder))


def test_missing_numbers_are_warned_of_once(tmp_path, raw, caplog):
    folder = write(tmp_path / "v", raw, name="a8_{:04}.png")
    for z in (3, 7):
        (folder / f"a8_{z:04}.png").unlink()
    with caplog.at_level(logging.WARNING):
        volumes = [open_images(str(folder)) for _ in range(2)]
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "no section has the number 3, 7; its neighbours are read as adjacent"
    ]
    assert volumes[1].attributes["missing"] == [3, 7]
    assert np.array_equal(volumes[0].read(), np.delete(raw, (3, 7), axis=0))


@pytest.mark.parametrize(
    "names, words",
    [
        (["0.png", "5.png", "10.png"], ""),
        (["0.png", "5.png", "15.png"], "number 10;"),
        (["a1.png", "b3.png"], ""),
        (["20240101.png", "20240102.png", "20251231.png"], ""),
        (["1700000000001.png", "1700000000002.png", "9800000000000.png"], ""),
        (["2024_1.png", "2024_2.png"], ""),
        (["z1_c0.png", "z1_c1.png", "z2_c0.png", "z2_c1.png"], "count 2 x 2, as tiles"),
        (["1_10.png", "2_11.png", "4_12.png"], ""),
    ],
)
def test_a_count_with_gaps_and_tiles_are_warned_of_and_no_other_names(
    tmp_path, raw, caplog, names, words
):
    for name in names:
        Image.fromarray(raw[0]).save(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        assert open_images(str(tmp_path)).shape[0] == len(names)
    assert bool(caplog.records) == bool(words) and words in caplog.text


def test_a_single_image_a_missing_folder_and_one_without_images_say_so(tmp_path, raw):
    folder = write(tmp_path / "v", raw)
    (tmp_path / "empty").mkdir()
    for spec, words in (
        (f"{folder}/s1.png", r"a single image; .*/v, or a pattern, as .*/v/\*.png"),
        (f"{folder}/s99.png", "no such folder"),
        (f"{tmp_path}/none/*.png", "no such folder"),
        (f"{tmp_path}/empty", "no PNG, JPEG or TIFF images"),
        (f"{folder}/x*.png", "no PNG, JPEG or TIFF images"),
    ):
        with pytest.raises(DataError, match=words):
            open_images(spec)


def test_colour_sections_are_refused(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="a.png: pixels of mode RGB"):
        open_images(str(tmp_path))


def test_folders_patterns_and_single_images_are_claimed_and_tiff_files_are_not(tmp_path, raw):
    claim, folder = READERS.get("images").config, write(tmp_path / "v", raw)
    assert claim.holds(str(folder)) and not claim.holds(f"{folder}/s0.png")
    assert all(claim.covers(f"v/{name}") for name in ("s0.png", "*.PNG", "a*.jpg", "*.tif"))
    assert not any(claim.covers(spec) for spec in ("v/a.tif", "v/a.tiff", "v", "https://v/*.png"))


@pytest.mark.parametrize("name", ["info", "zarr.json", ".zarray", ".zgroup", "attributes.json"])
def test_a_chunked_volume_is_not_a_folder_of_sections(tmp_path, raw, name):
    folder = write(tmp_path / "v", raw)
    assert holds_sections(folder)
    (folder / name).write_text("{}")
    assert not holds_sections(folder) and not holds_sections(tmp_path)


def test_opening_looks_at_two_images_of_many(tmp_path, raw, monkeypatch):
    folder = write(tmp_path / "v", raw[:1])
    for z in range(1, 2000):
        (folder / f"s{z}.png").hardlink_to(folder / "s0.png")
    looked, facts = [], images.read_facts
    monkeypatch.setattr(images, "read_facts", lambda p: looked.append(p.name) or facts(p))
    start = time.perf_counter()
    assert open_images(str(folder)).shape == (2000, 20, 30)
    assert looked == ["s0.png", "s1999.png"] and time.perf_counter() - start < 5
