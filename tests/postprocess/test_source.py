"""Affinities are read box by box, and only where their meaning is told."""

import json

import numpy as np
import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.postprocess.source import open_affinities
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import write_hdf5

NEAREST = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
FACTS = {"offsets": NEAREST, "axes": "czyx", "voxel_size": [40.0, 8.0, 8.0], "offset": [3, 0, 0]}
SHAPE = (3, 6, 20, 24)


@pytest.fixture
def values():
    return np.random.default_rng(0).random(SHAPE, dtype=np.float32)


def hdf5(folder, values, **changes):
    facts = {key: value for key, value in {**FACTS, **changes}.items() if value is not None}
    write_hdf5(folder / "affinities.h5", {"affinities": values}, attributes={"affinities": facts})
    return folder


def zarr(folder, values, **changes):
    store = Boxed.create(
        folder / "affinities.zarr",
        shape=values.shape,
        dtype=values.dtype,
        chunk=(4, 8, 8),
        attributes={**FACTS, **changes},
    )
    store.write(Box.of(values.shape[1:]), values)
    return folder


@pytest.mark.parametrize("write", [hdf5, zarr])
def test_a_folder_and_a_file_give_the_same_box(tmp_path, values, write):
    folder = write(tmp_path / "p", values)
    box = Box((1, 2, 3), (5, 20, 9))
    spec = {hdf5: f"{folder}/affinities.h5:affinities", zarr: f"{folder}/affinities.zarr"}[write]
    for source in (folder, str(folder), spec):
        opened = open_affinities(source)
        assert opened.shape == SHAPE and opened.sides == SHAPE[1:]
        assert opened.offsets == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
        assert opened.voxel_size == (40, 8, 8) and opened.attributes["offset"] == [3, 0, 0]
        assert np.array_equal(opened.read(box), values[(..., *box.slices)])
        assert np.array_equal(
            opened.read(box, channels=slice(1, 3)), values[(slice(1, 3), *box.slices)]
        )
    assert np.array_equal(open_affinities(folder).read(), values)


@pytest.mark.parametrize("write", [hdf5, zarr])
def test_what_was_stored_in_8_bits_comes_back_as_a_share(tmp_path, values, write):
    stored = np.round(values * 255).astype(np.uint8)
    found = open_affinities(write(tmp_path, stored, scale=255)).read()
    assert found.dtype == np.float32 and found.max() <= 1
    assert np.allclose(found, values, atol=0.5 / 255 + 1e-6)
    half = open_affinities(hdf5(tmp_path, values.astype(np.float16))).read()
    assert half.dtype == np.float32 and np.allclose(half, values, atol=1e-3)


def test_8_bits_without_a_scale_are_refused(tmp_path, values):
    with pytest.raises(DataError, match="stored as uint8 without the attribute scale; 255"):
        open_affinities(hdf5(tmp_path, (values * 255).astype(np.uint8)))
    with pytest.raises(DataError, match="scale = 0.0; expected a number above 0"):
        open_affinities(hdf5(tmp_path, values, scale=0.0))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"offsets": [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]}, "channel c at voxel p is the edge"),
        ({"offsets": NEAREST[::-1]}, "channels z, y, x first"),
        ({"axes": "cxyz"}, "axes = cxyz; only czyx is understood"),
        ({"offsets": None}, "attribute 'offsets' is missing; expected offsets = "),
        ({"offsets": [*NEAREST, [2, 0, 0]]}, r"expected \[4, D, H, W\]"),
    ],
)
def test_another_or_no_convention_is_refused(tmp_path, values, changes, message):
    with pytest.raises(DataError, match=message):
        open_affinities(hdf5(tmp_path, values, **changes))


def test_long_range_channels_stand_behind_the_nearest(tmp_path, values):
    more = np.concatenate([values, values])
    far = [[2, 0, 0], [0, 9, 0], [0, 0, 9]]
    opened = open_affinities(hdf5(tmp_path, more, offsets=[*NEAREST, *far]))
    assert opened.offsets[3:] == ((2, 0, 0), (0, 9, 0), (0, 0, 9))


def test_nothing_is_read_before_it_is_asked_for(tmp_path, values):
    """The facts of an array are there however few of its chunks are."""
    folder = zarr(tmp_path, values)
    for chunk in (folder / "affinities.zarr" / "0").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    opened = open_affinities(folder)
    assert opened.shape == SHAPE
    with pytest.raises(DataError, match="cannot be read at"):
        opened.read()


def test_a_missing_place_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file or folder of affinities"):
        open_affinities(tmp_path / "predicted")
    with pytest.raises(DataError, match="affinities.h5: no such file, and no affinities.zarr"):
        open_affinities(tmp_path)


def test_a_prediction_that_goes_on_is_refused(tmp_path, values):
    folder = zarr(tmp_path, values)
    (folder / "environment.json").write_text(json.dumps({"verb": "predict"}))
    with pytest.raises(DataError, match="predict has not finished there"):
        open_affinities(folder)
    (folder / "result.json").write_text("{}")
    assert open_affinities(folder).shape == SHAPE


def test_another_prediction_of_the_same_name_is_told_apart(tmp_path, values):
    first = open_affinities(hdf5(tmp_path, values)).written
    assert open_affinities(tmp_path).written == first
    assert open_affinities(hdf5(tmp_path, values)).written != first
