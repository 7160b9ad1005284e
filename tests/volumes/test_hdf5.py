import h5py
import numpy as np
import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import open_hdf5, read_hdf5, split_spec, write_hdf5


@pytest.fixture
def raw():
    return np.random.default_rng(0).integers(0, 256, (5, 20, 30), dtype=np.uint8)


def test_what_is_written_reads_back_with_its_attributes(tmp_path, raw):
    affinities = np.random.default_rng(1).random((3, 5, 20, 30), dtype=np.float32)
    facts = {
        "voxel_size": (35.0, 8.0, 8.0),
        "axes": "czyx",
        "offsets": [[1, 0, 0], [0, 1, 0]],
        "model": None,
    }
    write_hdf5(
        tmp_path / "new" / "a.h5",
        {"affinities": affinities, "raw": raw},
        attributes={"affinities": facts, "/": {"source": "a test"}},
    )
    array, attributes = read_hdf5(tmp_path / "new" / "a.h5", "affinities")
    assert array.dtype == np.float32 and np.array_equal(array, affinities)
    assert attributes == {
        "voxel_size": [35.0, 8.0, 8.0],
        "axes": "czyx",
        "offsets": [[1, 0, 0], [0, 1, 0]],
    }
    volume = open_hdf5(f"{tmp_path}/new/a.h5:raw")
    assert volume.attributes["source"] == "a test"


def test_a_crop_is_the_same_as_slicing_in_three_and_four_axes(tmp_path, raw):
    stack = np.stack([raw, 255 - raw])
    write_hdf5(tmp_path / "a.h5", {"raw": raw, "stack": stack})
    box = Box((1, 3, 4), (3, 20, 11))
    assert np.array_equal(open_hdf5(f"{tmp_path}/a.h5:raw").read(box), raw[1:3, 3:20, 4:11])
    assert np.array_equal(read_hdf5(tmp_path / "a.h5", "stack", box)[0], stack[:, 1:3, 3:20, 4:11])


def test_a_crop_out_of_the_dataset_is_refused(tmp_path, raw):
    write_hdf5(tmp_path / "a.h5", {"raw": raw})
    with pytest.raises(DataError, match="reaches out"):
        read_hdf5(tmp_path / "a.h5", "raw", Box((0, 0, 0), (6, 1, 1)))


def test_a_failed_write_leaves_nothing_behind_and_the_old_file_whole(tmp_path, raw):
    with pytest.raises(TypeError):
        write_hdf5(tmp_path / "a.h5", {"raw": raw, "bad": np.array([object()])})
    assert list(tmp_path.iterdir()) == []
    write_hdf5(tmp_path / "a.h5", {"raw": raw})
    with pytest.raises(TypeError):
        write_hdf5(tmp_path / "a.h5", {"raw": 0 * raw, "bad": np.array([object()])})
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    assert np.array_equal(read_hdf5(tmp_path / "a.h5")[0], raw)


def test_attributes_need_their_dataset(tmp_path, raw):
    with pytest.raises(ValueError, match="labels"):
        write_hdf5(tmp_path / "a.h5", {"raw": raw}, attributes={"labels": {"axes": "zyx"}})


def test_a_single_dataset_needs_no_name_and_several_do(tmp_path, raw):
    write_hdf5(tmp_path / "one.h5", {"volumes/raw": raw})
    assert open_hdf5(str(tmp_path / "one.h5")).shape == raw.shape
    write_hdf5(tmp_path / "two.h5", {"raw": raw, "labels": raw})
    with pytest.raises(DataError, match="labels, raw"):
        open_hdf5(str(tmp_path / "two.h5"))


def test_a_missing_dataset_names_those_there_are(tmp_path, raw):
    write_hdf5(tmp_path / "a.h5", {"volumes/raw": raw})
    for name in ("label", "volumes"):
        with pytest.raises(DataError, match="holds volumes/raw"):
            open_hdf5(f"{tmp_path}/a.h5:{name}")


def test_a_missing_file_and_a_file_that_is_not_hdf5_say_so(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        open_hdf5(f"{tmp_path}/a.h5:raw")
    (tmp_path / "a.h5").write_text("hello")
    with pytest.raises(DataError, match="not a readable HDF5"):
        open_hdf5(f"{tmp_path}/a.h5:raw")


@pytest.mark.parametrize("shape", [(20, 30), (3, 4, 5, 6), (0, 4, 5)])
def test_a_volume_has_three_axes(tmp_path, shape):
    write_hdf5(tmp_path / "a.h5", {"raw": np.zeros(shape, np.uint8)})
    with pytest.raises(DataError, match="3-D"):
        open_hdf5(f"{tmp_path}/a.h5:raw")


@pytest.mark.parametrize("place", ["dataset", "file"])
@pytest.mark.parametrize("key", ["voxel_size", "resolution_nm", "resolution"])
def test_the_voxel_size_is_read_from_the_dataset_or_the_file(tmp_path, raw, place, key):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = raw
        (file if place == "file" else file["raw"]).attrs[key] = [50, 4.6, 4.6]
    assert open_hdf5(f"{tmp_path}/a.h5").voxel_size == (50.0, 4.6, 4.6)


@pytest.mark.parametrize("value", ["unknown", [8, 8], [0, 8, 8], 8.0])
def test_a_voxel_size_that_makes_no_sense_is_none(tmp_path, raw, value):
    write_hdf5(tmp_path / "a.h5", {"raw": raw}, attributes={"raw": {"resolution": value}})
    assert open_hdf5(f"{tmp_path}/a.h5").voxel_size is None


def test_a_spec_splits_at_the_suffix():
    assert [str(part) for part in split_spec("/a:b/c.h5:g/raw")] == ["/a:b/c.h5", "g/raw"]
    assert split_spec("a.HDF5")[1] is None
