"""What a page holds: ids numbered exactly, volumes thinned as said, text that unpacks to them."""

import base64
import gzip

import numpy as np
import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.viewer.embed import (
    Layer,
    bytes_each,
    differences,
    pack,
    points_inside,
    reduction,
    thin_ids,
    thin_raw,
    words,
)

ISOTROPIC, THICK = (10, 10, 10), (40, 4, 4)


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.int16, ">u4", np.int64, np.uint64])
def test_numbers_stand_for_the_ids_and_number_0_for_the_background(kind):
    top = np.iinfo(kind).max if np.dtype(kind).kind != "b" else 1
    volume = np.array([[[1, top, 1], [top, top, 1]]], kind)
    for ids in (volume, np.where(volume == 1, 0, volume).astype(kind)):
        layer = Layer.of(ids, name="x")
        assert layer.ids[0] == 0 and layer.index.dtype == np.uint16
        np.testing.assert_array_equal(layer.ids[layer.index], ids)


def test_two_bytes_are_taken_as_long_as_they_tell_all_ids_apart():
    for count, size in ((65535, 2), (65536, 4)):  # and id 0, which is not among them
        ids = np.arange(1, count + 1, dtype=np.uint64).reshape(1, 1, -1) * 2**40
        layer = Layer.of(ids, name="x")
        assert layer.index.itemsize == bytes_each(ids) == size
        np.testing.assert_array_equal(layer.ids[layer.index], ids)


def test_negative_ids_are_refused():
    with pytest.raises(DataError, match="labels holds id -3"):
        Layer.of(np.array([[[1, -3]]]), name="labels")


def test_the_place_of_an_id_that_is_not_there_is_minus_2():
    layer = Layer.of(np.array([[[5, 9]]]), name="x")
    assert layer.places(np.array([0, 5, 6, 9, 10])).tolist() == [0, 1, -2, 2, -2]


@pytest.mark.parametrize(
    ("shape", "voxel_size", "limit", "factors"),
    [
        ((10, 100, 100), THICK, 1e5, (1, 1, 1)),
        ((10, 100, 100), THICK, 99999, (1, 2, 2)),
        ((10, 101, 101), THICK, 51 * 51 * 10, (1, 2, 2)),
        ((100, 1000, 1000), ISOTROPIC, 1e8 / 4, (1, 2, 2)),
        ((100, 1000, 1000), ISOTROPIC, 1e8 / 8, (2, 2, 2)),
        ((100, 1000, 1000), THICK, 1e8 / 100, (1, 10, 10)),
        ((2, 4, 4), ISOTROPIC, 1, (2, 4, 4)),
    ],
)
def test_sections_are_thinned_in_plane_until_voxels_are_taller_than_thick(
    shape, voxel_size, limit, factors
):
    assert reduction(shape, voxel_size=voxel_size, each=1, limit=limit) == factors


@pytest.mark.parametrize("factors", [(1, 1, 1), (1, 2, 2), (2, 3, 4), (5, 7, 9)])
def test_ids_are_picked_and_the_raw_image_is_averaged_in_the_same_blocks(factors):
    raw = np.random.default_rng(0).integers(0, 256, (5, 7, 9)).astype(np.uint8)
    blocks = np.stack(
        np.meshgrid(*(np.arange(s) // f for s, f in zip(raw.shape, factors, strict=True)))
    )
    number = np.ravel_multi_index(np.transpose(blocks, (0, 2, 1, 3)), (5, 7, 9))
    ids, (small, window) = thin_ids(number, factors=factors), thin_raw(raw, factors=factors)
    assert ids.shape == small.shape and 0 <= window[0] < window[1] <= 255
    means = np.bincount(number.ravel(), raw.ravel()) / np.bincount(number.ravel()).clip(1)
    np.testing.assert_allclose(small, means[ids], atol=0.51)


def test_floats_are_stretched_and_the_window_of_uint8_leaves_outliers_out():
    raw = np.linspace(0, 1, 1000, dtype=np.float32).reshape(10, 10, 10)
    small, window = thin_raw(raw, factors=(1, 1, 1))
    assert small.dtype == np.uint8 and small.min() == 0 and small.max() == 255
    assert window == (0, 255) and np.all(np.diff(small.ravel().astype(int)) >= 0)
    grays = np.full((10, 20, 20), 100, np.uint8)
    grays[:, :10] = 150
    grays[0, 0, :3] = 0, 255, 255
    kept, window = thin_raw(grays, factors=(1, 1, 1))
    assert kept is grays and window == (100, 150)
    assert thin_raw(np.full((2, 2, 2), 7, np.uint8), factors=(1, 1, 1))[1] == (7, 8)


def test_what_is_packed_unpacks_to_itself():
    values = np.arange(1000, dtype=">u2")
    found = gzip.decompress(base64.b64decode(pack(values)))
    np.testing.assert_array_equal(np.frombuffer(found, "<u2"), values)
    raw = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(np.uint8)
    np.testing.assert_array_equal(
        np.cumsum(differences(raw), dtype=np.uint8).reshape(raw.shape), raw
    )
    assert words(np.array([0, 2**64 - 1], np.uint64)) == b"0\n18446744073709551615"


def test_points_outside_the_volume_are_left_out():
    points = [{"z": z, "y": 0, "x": 0, "text": z} for z in (9, 10, 14, 15)]
    kept = points_inside(points, shape=(5, 1, 1), origin=(10, 0, 0))
    assert [point["text"] for point in kept] == ["10", "14"]
