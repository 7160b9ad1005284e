import json
import multiprocessing

import h5py
import numpy as np
import pytest
import tifffile

from tokenunify_scale.config import DataError, HostError
from tokenunify_scale.volumes import hdf5
from tokenunify_scale.volumes.boxed import Boxed, open_boxed, write_hdf5_from, write_tiff_from
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.volume import open_volume

CHUNK = (4, 8, 8)
FACTS = {"voxel_size": (40.0, 4.0, 4.0), "offset": [1, 2, 3], "volume": None}


def filled(path, shape, dtype=np.uint64, chunk=CHUNK):
    """An array of random values, written a chunk's depth at a time, and the values."""
    top = 2 if np.dtype(dtype).kind == "f" else 60000
    values = np.random.default_rng(0).integers(0, top, shape).astype(dtype)
    array = Boxed.create(path, shape=shape, dtype=dtype, chunk=chunk, attributes=FACTS)
    depth, *plane = shape[-3:]
    for z in range(0, depth, chunk[0]):
        box = Box((z, 0, 0), (min(z + chunk[0], depth), *plane))
        array.write(box, values[(..., *box.slices)])
    return array, values


@pytest.mark.parametrize("shape", [(10, 20, 17), (3, 10, 20, 17)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.float16, np.float32])
def test_what_is_written_is_read(shape, dtype, tmp_path):
    array, values = filled(tmp_path / "a.zarr", shape, dtype)
    box = Box((3, 5, 2), (9, 20, 11))
    again = open_boxed(tmp_path / "a.zarr")
    assert again.shape == shape and again.dtype == dtype and again.chunk == CHUNK
    np.testing.assert_array_equal(again.read(box), values[(..., *box.slices)])
    assert again.voxel_size == (40, 4, 4) and "volume" not in again.attributes
    if len(shape) == 4:
        np.testing.assert_array_equal(
            array.read(box, channels=slice(1, 2)), values[1:2, 3:9, 5:, 2:11]
        )


def test_ids_above_two_to_the_53_stay_exact(tmp_path):
    ids = np.full((4, 8, 8), (1 << 63) + 1, np.uint64)
    array = Boxed.create(
        tmp_path / "a", shape=ids.shape, dtype=ids.dtype, chunk=CHUNK, attributes={}
    )
    array.write(Box.of(ids.shape), ids)
    assert (open_boxed(tmp_path / "a").read(Box.of(ids.shape)) == ids).all()


def test_the_readers_of_volumes_read_it(tmp_path):
    _, values = filled(tmp_path / "a.zarr", (10, 20, 17))
    volume = open_volume(tmp_path / "a.zarr")
    assert volume.voxel_size == (40, 4, 4) and volume.attributes["offset"] == [1, 2, 3]
    np.testing.assert_array_equal(volume.read(), values)


def test_parts_of_chunks_and_other_shapes_are_refused(tmp_path):
    array, _ = filled(tmp_path / "a", (10, 20, 17))
    for box in (Box((1, 0, 0), (4, 8, 8)), Box((0, 0, 0), (3, 8, 8))):
        with pytest.raises(ValueError, match="whole chunks"):
            array.write(box, np.zeros(box.shape, np.uint64))
    with pytest.raises(ValueError, match="values of"):
        array.write(Box((0, 0, 0), (4, 8, 8)), np.zeros((4, 8, 9), np.uint64))
    with pytest.raises(DataError, match="reaches out"):
        array.read(Box((0, 0, 0), (11, 1, 1)))


def test_the_same_array_is_opened_and_another_is_refused(tmp_path):
    _, values = filled(tmp_path / "a", (10, 20, 17))
    same = {"shape": (10, 20, 17), "dtype": np.uint64, "chunk": CHUNK, "attributes": FACTS}
    box = Box.of(values.shape)
    np.testing.assert_array_equal(Boxed.create(tmp_path / "a", **same).read(box), values)
    for change in ({"shape": (10, 20, 18)}, {"dtype": np.uint8}, {"attributes": {}}):
        with pytest.raises(DataError, match="another array"):
            Boxed.create(tmp_path / "a", **{**same, **change})
    with pytest.raises(DataError, match="no Zarr array"):
        open_boxed(tmp_path / "b.zarr")


def _write_one(path, z):
    box = Box((z, 0, 0), (z + 4, 8, 8))
    Boxed.create(path, shape=(32, 8, 8), dtype=np.uint8, chunk=CHUNK, attributes={}).write(
        box, np.full(box.shape, z + 1, np.uint8)
    )


def test_processes_that_create_and_write_it_at_once_lose_nothing(tmp_path):
    tasks = [(tmp_path / "a", z) for z in range(0, 32, 4)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(_write_one, tasks)
    found = open_boxed(tmp_path / "a").read(Box.of((32, 8, 8)))
    assert (found[::4] == np.arange(1, 33, 4)[:, None, None]).all() and found.all()


def test_it_is_copied_into_hdf5_slab_by_slab(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "SLAB", 1)
    (ids, numbers), (affinities, values) = (
        filled(tmp_path / "ids", (40, 20, 17)),
        filled(tmp_path / "affinities", (3, 40, 20, 17), np.float32),
    )
    write_hdf5_from(
        tmp_path / "a.h5", {"ids": ids, "affs": affinities}, attributes={"ids": {"n": 2}}
    )
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["ids"][()], numbers)
        np.testing.assert_array_equal(file["affs"][()], values)
        assert file["ids"].attrs["n"] == 2 and list(file["affs"].attrs["offset"]) == [1, 2, 3]
    box = Box((3, 5, 2), (9, 20, 11))
    again = open_boxed(f"{tmp_path}/a.h5:affs")
    np.testing.assert_array_equal(again.read(box, channels=slice(0, 2)), values[:2, 3:9, 5:, 2:11])
    assert again.voxel_size == (40, 4, 4)


@pytest.mark.parametrize("shape, count", [((40, 300, 17), 3 * 3), ((3, 40, 20, 17), 3)])
def test_parts_of_a_copy_are_whole_chunks_and_cover_it(shape, count, monkeypatch):
    monkeypatch.setattr(hdf5, "SLAB", 1)
    array = np.zeros(shape, np.uint8)
    for part in (parts := hdf5._parts(array)):
        assert not any(a % c for a, c in zip(part.start, hdf5.CHUNK, strict=True))
        array[(..., *part.slices)] += 1
    assert (array == 1).all() and len(parts) == count


def test_a_full_disk_ends_the_copy_with_a_line_and_leaves_no_file(tmp_path, monkeypatch):
    ids, _ = filled(tmp_path / "ids", (10, 20, 17))
    monkeypatch.setattr(hdf5, "SPARE", 1 << 60)
    with pytest.raises(HostError, match="MiB are left on the disk"):
        write_hdf5_from(tmp_path / "a.h5", {"ids": ids})
    assert not list(tmp_path.glob("*.h5")) and not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize("largest, dtype", [(None, np.uint16), (70000, np.uint32)])
def test_it_is_copied_into_a_stack_of_images(largest, dtype, tmp_path):
    ids, numbers = filled(tmp_path / "ids", (10, 20, 17))
    write_tiff_from(tmp_path / "a.tif", ids, largest=largest)
    found = tifffile.imread(tmp_path / "a.tif")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, numbers)
    assert open_volume(tmp_path / "a.tif").voxel_size == pytest.approx((40, 4, 4))


def test_its_attributes_are_plain_json(tmp_path):
    filled(tmp_path / "a", (4, 8, 8))
    assert json.loads((tmp_path / "a" / ".zattrs").read_text())["voxel_size"] == [40, 4, 4]
