import numpy as np
import pytest

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data import inputs
from tokenunify_scale.data.datasets import Place
from tokenunify_scale.data.inputs import open_sources
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import write_hdf5

SHAPE = (6, 20, 24)


def write(path, array=None, voxel_size=None):
    array = np.ones(SHAPE, np.uint8) if array is None else array
    write_hdf5(path, {"raw": array}, attributes={"raw": {"voxel_size": voxel_size}})
    return f"{path}:raw"


@pytest.fixture
def places(monkeypatch):
    """What `locate` answers, and a list of what it was asked."""
    answer, asked = [], []

    def locate(name, *, source=(), split=None):
        asked.append((name, source, split))
        return [place for place in answer if place.name.startswith(name)]

    monkeypatch.setattr(inputs, "locate", locate)
    return answer, asked


def test_volumes_are_described_as_they_are(tmp_path):
    spec = write(tmp_path / "a.h5", voxel_size=(40.0, 8.0, 8.0))
    with open_sources([spec], crop=(6, 20, 24)) as (source,):
        assert source.box == Box.of(SHAPE) and source.dataset is None
        assert source.facts() == {
            "path": spec,
            "shape": [6, 20, 24],
            "dtype": "uint8",
            "voxel_size": [40.0, 8.0, 8.0],
        }


def test_a_data_set_brings_its_box_and_a_voxel_size_where_the_file_has_none(tmp_path, places):
    told, silent = write(tmp_path / "a.h5", voxel_size=(30.0, 8.0, 8.0)), write(tmp_path / "b.h5")
    box, size = Box((0, 0, 0), (4, 20, 24)), (40.0, 4.0, 4.0)
    answer, asked = places
    answer += [Place(told, size, None, "x-a"), Place(silent, size, box, "x-b", shape=SHAPE)]
    with open_sources([], datasets=["x"], copies=("c.h5",), split="test") as (a, b):
        assert asked == [("x", ("c.h5",), "test")]
        assert a.voxel_size == (30.0, 8.0, 8.0) and b.voxel_size == size
        assert a.box == Box.of(SHAPE) and b.box == box
        assert "box" not in a.facts() and b.facts()["box"] == [[0, 0, 0], [4, 20, 24]]
        assert [source.facts()["dataset"] for source in (a, b)] == ["x-a", "x-b"]
    with pytest.raises(DataError, match=r"the part to use of .*b.h5:raw has shape \(4, 20, 24\)"):
        with open_sources([], datasets=["x-b"], crop=(5, 8, 8)):
            raise AssertionError


def test_a_copy_of_another_shape_is_refused_where_a_part_is_meant(tmp_path, places):
    spec, size = write(tmp_path / "a.h5"), (40.0, 4.0, 4.0)
    answer, _ = places
    part = Box((0, 0, 0), (4, 20, 24))
    answer += [
        Place(spec, size, part, "x", shape=(9, 20, 24)),
        Place(spec, size, Box((0, 0, 0), (7, 20, 24)), "y"),
        Place(spec, size, None, "z", shape=None),
    ]
    for name, what in (
        ("x", r"a.h5:raw has shape \(6, 20, 24\), but x has \(9, 20, 24\), of which .*--source"),
        ("y", r"a.h5:raw has shape \(6, 20, 24\), but \(0, 0, 0\) to \(7, 20, 24\) of y"),
    ):
        with pytest.raises(DataError, match=what), open_sources([], datasets=[name]):
            raise AssertionError
    with open_sources([], datasets=["z"]) as (source,):
        assert source.box == Box.of(SHAPE)


def test_what_cannot_be_used_is_named(tmp_path):
    labels = write(tmp_path / "labels.h5", np.ones(SHAPE, np.uint32))
    image = write(tmp_path / "image.h5", np.ones((20, 24), np.uint8))
    small = write(tmp_path / "small.h5", np.ones((2, 20, 20), np.uint8))
    for spec, what in (
        (labels, "labels.h5:raw: uint32 looks like labels"),
        (image, "image.h5:raw: a single image, shape 20x24"),
        (small, r"^\S*small.h5:raw has shape \(2, 20, 20\): a crop of \(3, 8, 8\)"),
    ):
        with pytest.raises(DataError, match=what), open_sources([spec], crop=(3, 8, 8)):
            raise AssertionError
    with pytest.raises(ConfigError, match="no data set 'fib52'.*did you mean 'fib25'"):
        with open_sources([], datasets=["fib52"]):
            raise AssertionError
