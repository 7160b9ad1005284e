from pathlib import Path

import numpy as np
import pytest

from tokenunify_scale.config import ConfigError, DataError, build
from tokenunify_scale.data import content
from tokenunify_scale.data.content import (
    ContentConfig,
    RandomCrops,
    check_source,
    find_crops,
    has_content,
    rate_lines,
)
from tokenunify_scale.data.gray import GrayMapping
from tokenunify_scale.data.inputs import Source
from tokenunify_scale.data.team import Team
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.volume import Volume, open_volume

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
CROP = (4, 16, 16)


def source(array, box=None, name="held"):
    volume = Volume(name, array, voxel_size=None, attributes={})
    return Source(volume, box or Box.of(volume.shape))


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(60, 190, shape).astype(np.uint8)


def crops(*sources, mappings=None, content=None, count=20, **changes):
    mappings = mappings or [None] * len(sources)
    given = {"mappings": mappings, "content": content, "count": count, "crop": CROP, "seed": 3}
    return RandomCrops(sources, **{**given, **changes})


def half_blank():
    """Tissue in x < 64, then padding, of which a crop may have up to 30 %."""
    array = noise((8, 40, 128))
    array[:, :, 64:] = 0
    return array


def test_a_crop_has_content_up_to_each_limit_and_not_beyond():
    config = ContentConfig(flat=0.3, saturated=0.2, contrast=4.0)
    flat = noise((10, 10, 10)).ravel()
    flat[:290] = 100
    assert has_content(flat, config=config)
    flat[:301] = 100
    assert not has_content(flat, config=config)
    white = noise((10, 10, 10)).ravel()
    white[:100], white[100:200] = 0, 255
    assert has_content(white, config=config)
    white[200] = 255
    assert not has_content(white, config=config)
    for spread, seen in ((13, False), (15, True)):  # uniform: its deviation is spread / sqrt(12)
        gray = (100 + np.arange(1000) % spread).astype(np.uint8)
        assert has_content(gray, config=config) is seen


def test_settings_that_make_no_sense_are_refused():
    for change in ({"flat": 0}, {"saturated": 1.1}, {"contrast": 200}, {"attempts": 0}):
        with pytest.raises(ConfigError):
            build(ContentConfig, change)


def test_blank_places_are_left_out_and_the_others_stay_where_they_were():
    array = half_blank()
    anywhere, seen = crops(source(array)), crops(source(array), content=ContentConfig())
    tried = same = 0
    for number in range(20):
        crop, meta = seen[number]
        assert has_content(crop, config=ContentConfig())
        assert np.array_equal(crop, array[Box(*map(tuple, meta["box"])).slices])
        tried += meta.pop("tried")
        same += meta == anywhere[number][1]
    assert 30 < tried < 60 and 5 < same < 15
    assert seen.tried == [tried] and seen.found == [20]


def test_a_sample_is_a_function_of_seed_and_number_alone():
    sources = [source(half_blank()), source(noise((9, 50, 50)))]
    one, other = (crops(*sources, content=ContentConfig()) for _ in range(2))
    backward = {number: other[number] for number in reversed(range(len(other)))}
    for number in range(len(one)):
        crop, meta = one[number]
        assert np.array_equal(crop, backward[number][0]) and meta == backward[number][1]
        assert meta["volume"] == number // 20
    assert crops(*sources, seed=4)[0][1] != crops(*sources)[0][1]
    with pytest.raises(IndexError, match="sample 40 of 40"):
        one[40]


def test_crops_stay_in_their_box_and_are_mapped():
    wide = noise((12, 60, 60)).astype(np.uint16) * 100
    box = Box((2, 10, 20), (8, 40, 50))
    found = crops(source(wide, box), mappings=[GrayMapping(0.0, 25500.0)])
    for number in range(20):
        crop, meta = found[number]
        place = Box(*map(tuple, meta["box"]))
        assert box.contains(place) and place.shape == CROP
        assert np.array_equal(crop, wide[place.slices] // 100)


@pytest.mark.parametrize("kind", ["blank", "saturated"])
def test_a_volume_without_content_is_refused_with_its_rate(kind):
    array = np.full((8, 40, 128), 90 if kind == "blank" else 255, np.uint8)
    array[:4, :16, :8] = noise((4, 16, 8))
    found = crops(source(array, name="empty.h5"), content=ContentConfig(attempts=70))
    with pytest.raises(DataError, match=r"empty.h5: practically no content.*\(0 of 70 \(0 %\)"):
        found[0]


def test_what_is_hopeless_shows_at_once():
    words = {"count": 9, "crop": CROP, "seed": 0, "percentiles": (0.5, 99.5), "team": Team()}
    good, blank = source(noise((8, 40, 40))), source(np.zeros((8, 40, 40), np.uint8), name="b.h5")
    found = find_crops([good], content=None, labels="refuse", **words)
    assert found[8][1]["volume"] == 0 and found.mappings == [None]
    config = ContentConfig(attempts=5)
    with pytest.raises(DataError, match="b.h5: practically no content"):
        find_crops([good, blank], content=config, labels="refuse", **words)
    find_crops([good, blank], content=None, labels="refuse", **words)
    ids = np.arange(8 * 40 * 4, dtype=np.uint16).repeat(10).reshape(8, 40, 40)
    with pytest.raises(DataError, match="ids: looks like labels"):
        find_crops([source(ids, name="ids")], content=None, labels="refuse", **words)
    find_crops([source(ids, name="ids")], content=None, labels="allow", **words)


def test_a_nan_outside_of_the_sample_is_found_where_all_fits_into_memory(monkeypatch):
    values = noise((80, 130, 130)).astype(np.float32)
    values[40, 65, 3] = np.nan
    with pytest.raises(DataError, match="held: NaN"):
        check_source(source(values), labels="refuse")
    check_source(source(values, Box((0, 0, 4), (80, 130, 130))), labels="refuse")
    monkeypatch.setattr(content, "IN_MEMORY", 1 << 20)
    check_source(source(values), labels="refuse")


def test_a_large_source_is_read_crop_by_crop():
    array, reads = noise((40, 80, 80)), []

    class Watched:
        shape, dtype = array.shape, array.dtype

        def __getitem__(self, index):
            reads.append(array[index].size)
            return array[index]

    found = crops(source(Watched()), content=ContentConfig(), in_memory=array.size - 1)
    for number in range(5):
        found[number]
    assert reads == [4 * 16 * 16] * 5
    small = crops(source(Watched()), in_memory=array.size)
    for number in range(5):
        small[number]
    assert reads[5:] == [array.size]


def test_rates_are_told_for_volumes_that_were_judged():
    volumes = [{"path": "a", "tried": 40}, {"path": "b"}]
    assert rate_lines(volumes, count=30) == ["a: content at 30 of 40 (75 %) places tried"]


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data, real EM volumes")
def test_tissue_is_content_and_padding_around_it_is_not():
    for name in ("fib25_train1_raw", "fib25_train2_labeled", "vnc3_stack2_raw"):
        with open_volume(f"{DATA / name}.h5:raw") as volume:
            part = volume.read(Box((0, 0, 0), (20, 250, 250)))
        found = crops(source(part), content=ContentConfig(), crop=(8, 32, 32))
        padded = crops(
            source(np.pad(part, ((0, 0), (0, 0), (0, 250)))),
            content=ContentConfig(),
            crop=(8, 32, 32),
        )
        tried = [sum(f[n][1]["tried"] for n in range(20)) for f in (found, padded)]
        assert tried[0] == 20 and 30 < tried[1] < 60
