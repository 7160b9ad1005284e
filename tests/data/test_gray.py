from pathlib import Path

import numpy as np
import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.data import gray
from tokenunify_scale.data.gray import (
    GrayMapping,
    check_finite,
    check_no_labels,
    check_raw,
    find_mapping,
    read_gray,
)
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.volume import Volume, open_volume

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
SHAPE = (6, 20, 20)


def volume(folder, array, name="raw", voxel_size=(40.0, 8.0, 8.0)):
    path = folder / f"{name}.h5"
    write_hdf5(path, {name: array}, attributes={name: {"voxel_size": voxel_size}})
    return open_volume(f"{path}:{name}")


def held(array, name="held"):
    """A volume in memory."""
    return Volume(name, array, voxel_size=None, attributes={})


@pytest.mark.parametrize("dtype, scale", [(np.uint16, 65535), (np.float32, 1.0), (np.int16, 999)])
def test_wide_volumes_are_mapped_between_percentiles(tmp_path, dtype, scale):
    ramp = np.linspace(0, 1, 4000).reshape(4, 10, 100)
    wide = volume(tmp_path, (ramp * scale).astype(dtype))
    mapping = find_mapping(wide)
    assert (mapping.low, mapping.high) == tuple(np.percentile(wide.read(), (0.5, 99.5)))
    gray = read_gray(wide, Box.of(wide.shape), mapping=mapping).ravel().astype(int)
    assert gray[0] == 0 and gray[-1] == 255 and (np.diff(gray) >= 0).all()
    assert abs(gray[2000] - 127.5) < 2


def test_a_large_volume_is_mapped_by_a_sample_of_it(tmp_path):
    noise = np.random.default_rng(0).integers(0, 1000, (70, 300, 250)).astype(np.uint16)
    reads = []

    class Watched:
        path, shape, dtype = "large", noise.shape, noise.dtype

        def read(self, box):
            reads.append(box)
            return noise[box.slices]

    mapping = find_mapping(Watched())
    assert mapping.low == pytest.approx(5, abs=1) and mapping.high == pytest.approx(994, abs=1)
    assert len(reads) == 4 * 4 * 3 and {box.shape for box in reads} == {(16, 64, 64)}
    seen = np.zeros(noise.shape, np.uint8)
    for box in reads:
        seen[box.slices] += 1
    assert seen.max() == 1


def test_uint8_stays_as_it_is(tmp_path):
    raw = volume(tmp_path, np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8))
    assert find_mapping(raw) is None
    assert np.array_equal(read_gray(raw, Box.of(SHAPE), mapping=None), raw.read())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused_where_they_are(tmp_path, bad):
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    values[3, 4, 5] = bad
    wide = volume(tmp_path, values)
    with pytest.raises(DataError, match="raw.h5:raw: NaN or infinity"):
        find_mapping(wide)
    with pytest.raises(DataError, match=r"in the box \(2, 0, 0\) to \(4, 9, 9\)"):
        read_gray(wide, Box((2, 0, 0), (4, 9, 9)), mapping=GrayMapping(0.0, 1.0))


def test_volumes_without_contrast_or_intensities_are_refused(tmp_path):
    with pytest.raises(DataError, match="no contrast"):
        find_mapping(volume(tmp_path, np.full(SHAPE, 7, np.uint16)))
    for dtype in (np.uint32, np.int64):
        with pytest.raises(DataError, match="looks like labels"):
            find_mapping(volume(tmp_path, np.zeros(SHAPE, dtype)))


def test_percentiles_and_the_box_decide_the_mapping():
    ramp = np.tile(np.arange(1000, dtype=np.uint16), (4, 10, 1))
    part = Box((0, 0, 200), (4, 10, 400))
    mapping = find_mapping(held(ramp), box=part, percentiles=(25.0, 75.0))
    assert (mapping.low, mapping.high) == tuple(np.percentile(np.arange(200, 400), (25, 75)))
    flat = ramp.copy()
    flat[:, :, 500:] = 7
    with pytest.raises(DataError, match="no contrast"):
        find_mapping(held(flat), box=Box((0, 0, 500), (4, 10, 1000)))
    assert find_mapping(held(flat)) is not None


def test_a_sample_of_a_box_lies_in_the_box():
    within = Box((5, 40, 30), (95, 400, 700))
    probes = gray._probes(within)
    assert len(probes) == 64 and all(within.contains(probe) for probe in probes)
    thin = gray._probes(Box((7, 0, 0), (9, 4000, 4000)))
    assert {probe.start[0] for probe in thin} == {7} and {probe.stop[0] for probe in thin} == {9}


def test_a_part_is_mapped_slab_by_slab_as_at_once(monkeypatch):
    wide = np.random.default_rng(0).integers(0, 60000, (70, 9, 11)).astype(np.uint16)
    box, mapping, reads = Box((3, 1, 2), (69, 9, 10)), GrayMapping(100.0, 50000.0), []
    source = held(wide)
    whole = read_gray(source, box, mapping=mapping)
    expected = np.rint(((wide[box.slices] - np.float32(100)) * (255 / 49900)).clip(0, 255))
    assert np.abs(whole - expected).max() == 0
    read = source.read
    source.read = lambda part: reads.append(part.shape[0]) or read(part)
    monkeypatch.setattr(gray, "SLAB", 20 * 8 * 8 * 2)
    assert np.array_equal(read_gray(source, box, mapping=mapping), whole)
    assert reads == [20, 20, 20, 6]


def test_nan_anywhere_is_found_and_its_slab_named(monkeypatch):
    values = np.zeros((40, 8, 8), np.float32)
    values[33, 2, 2] = np.nan
    monkeypatch.setattr(gray, "SLAB", 10 * 8 * 8 * 4)
    with pytest.raises(DataError, match=r"NaN or infinity in the box \(30, 0, 0\) to \(40, 8, 8\)"):
        check_finite(held(values), box=Box.of(values.shape))
    check_finite(held(values), box=Box.of((33, 8, 8)))


def images():
    """Raw volumes of all kinds that might be mistaken for labels."""
    em = open_volume("synthetic:seed=3,shape=4x160x160").read()
    padded = np.zeros((4, 300, 300), np.uint8)
    padded[:, 20:180, 20:180], padded[:, 180:, 180:] = em, 255
    return {
        "synthetic": em,
        "wide": em.astype(np.uint16) * 200 + 40,
        "signed": em.astype(np.int16) - 128,
        "sixteen gray levels": em // 16 * 16,
        "three times enlarged": em.repeat(3, 1).repeat(3, 2),
        "padded black and white": padded,
        "nearly all blank": np.pad(em[:, :2, :2], ((0, 0), (0, 600), (0, 600))),
        "all blank": np.full((4, 50, 50), 255, np.uint8),
        "float": (em > 99).astype(np.float32),
    }


def test_raw_volumes_are_no_labels():
    for name, array in images().items():
        check_no_labels(held(array, name))


def labels():
    """Label volumes of types that raw volumes have, too."""
    ids = open_volume("synthetic:seed=3,shape=4x160x160,dataset=labels").read()
    semantic = np.zeros(ids.shape, np.uint8)
    semantic[ids % 3 == 1], semantic[ids % 5 == 2] = 1, 2
    background = np.where(ids % 4 < 3, 0, ids).astype(np.uint16)
    return {
        "uint16": ids.astype(np.uint16),
        "uint8": (ids % 256).astype(np.uint8),
        "shuffled": (ids * 7919 % 65521).astype(np.uint16),
        "three classes": semantic,
        "much background": background,
        "a mask": np.where(ids % 2, 255, 0).astype(np.uint8),
    }


def test_labels_of_8_and_16_bits_are_told_by_their_content():
    for name, array in labels().items():
        with pytest.raises(DataError, match=f"{name}: .*labels, not .*raw volume"):
            check_no_labels(held(array, name))


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data, real EM volumes")
def test_real_volumes_are_told_from_real_labels():
    for name in ("fib25_train1_raw", "fib25_train2_labeled", "vnc3_stack2_raw"):
        with open_volume(f"{DATA / name}.h5:raw") as volume:
            check_no_labels(volume)
    for name in ("labels", "supervoxels", "ffn_segmentation"):
        with open_volume(f"{DATA / 'fib25_train2_labeled.h5'}:{name}") as volume:
            ids = volume.read()
        for dtype in (np.uint8, np.uint16):
            with pytest.raises(DataError, match="looks like labels"):
                check_no_labels(held(ids.astype(dtype)))


def test_wide_integers_and_complex_numbers_are_told_by_their_type():
    for dtype, what in ((np.uint64, "looks like labels"), (np.complex64, "not a type")):
        with pytest.raises(DataError, match=what):
            check_raw(held(np.zeros(SHAPE, dtype)))
