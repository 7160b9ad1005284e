import json
import struct

import numpy as np
import pytest
import tensorstore as ts

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.address import parse_address
from tokenunify_scale.volumes.n5 import find_n5
from tokenunify_scale.volumes.volume import open_volume

RAW = np.random.default_rng(0).integers(0, 256, (6, 9, 12), dtype=np.uint8)


def put(folder, array=RAW, **facts):
    """An array [z, y, x] as programs of numpy write it: dimensions x, y, z."""
    metadata = {"blockSize": [5, 4, 3], "compression": {"type": "raw"}}
    store = {"driver": "file", "path": f"{folder}/"}
    spec = {"driver": "n5", "kvstore": store, "metadata": metadata}
    options = {"dtype": ts.dtype(array.dtype), "shape": array.T.shape}
    ts.open(spec, create=True, **options).result().write(array.T).result()
    tell(folder, **json.loads((folder / "attributes.json").read_text()), **facts)


def tell(folder, **facts):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "attributes.json").write_text(json.dumps(facts))


def level(spec):
    return find_n5(parse_address(str(spec)))


def test_the_bytes_on_disk_are_x_fastest_and_dimensions_xyz(tmp_path):
    tell(
        tmp_path / "a.n5",
        dimensions=[3, 2, 1],
        blockSize=[3, 2, 1],
        dataType="uint8",
        compression={"type": "raw"},
    )
    (tmp_path / "a.n5/0/0").mkdir(parents=True)
    block = struct.pack(">HHIII", 0, 3, 3, 2, 1) + bytes([1, 2, 3, 4, 5, 6])
    (tmp_path / "a.n5/0/0/0").write_bytes(block)
    volume = open_volume(tmp_path / "a.n5")
    assert volume.shape == (1, 2, 3) and volume.read().tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_axes_named_beside_the_dimensions_are_believed(tmp_path):
    put(tmp_path / "a.n5", RAW.T, axes=["z", "y", "x"], resolution=[35, 8, 4], units=["nm"] * 3)
    with open_volume(tmp_path / "a.n5") as volume:
        assert volume.shape == RAW.shape and np.array_equal(volume.read(), RAW)
        assert volume.voxel_size == (35, 8, 4)


@pytest.mark.parametrize(
    "facts, expected",
    [
        ({"resolution": [4, 8, 35]}, (35, 8, 4)),
        ({"voxel_size": [4, 8, 35]}, (35, 8, 4)),
        ({"resolution": [0.004, 0.008, 0.035], "units": ["um"] * 3}, (35, 8, 4)),
        ({"pixelResolution": {"dimensions": [0.004, 0.008, 0.035], "unit": "um"}}, (35, 8, 4)),
        ({"pixelResolution": {"dimensions": [4, 8, 35]}}, None),
        ({"resolution": [4, 8, 35], "downsamplingFactors": [4, 2, 1]}, (35, 16, 16)),
        ({"resolution": "fine"}, None),
        (
            {"transform": {"axes": list("zyx"), "scale": [35, 8, 4], "units": ["nm"] * 3}},
            (35, 8, 4),
        ),
        ({}, None),
    ],
)
def test_an_array_tells_its_voxel_size_x_first(tmp_path, facts, expected):
    put(tmp_path / "a.n5/raw", **facts)
    assert level(f"{tmp_path}/a.n5:raw").voxel_size == pytest.approx(expected)
    assert level(f"{tmp_path}/a.n5:raw").axes == ("x", "y", "z")


@pytest.mark.parametrize("key", ["downsamplingFactors", "scales"])
def test_a_group_tells_the_voxel_size_of_its_levels(tmp_path, key):
    steps = {
        key: [[1, 1, 1], [2, 2, 1]],
        "pixelResolution": {"dimensions": [4, 8, 35], "unit": "nm"},
    }
    tell(tmp_path / "a.n5/c0", **steps)
    put(tmp_path / "a.n5/c0/s0")
    put(tmp_path / "a.n5/c0/s1", RAW[:, ::2, ::2])
    for spec, path, sides in [
        ("", "c0/s0", (35, 8, 4)),
        (":c0", "c0/s0", (35, 8, 4)),
        ("/c0:1", "c0/s1", (35, 16, 8)),
        (":c0/s1", "c0/s1", (35, 16, 8)),
    ]:
        found = level(f"{tmp_path}/a.n5{spec}")
        assert found.attributes["dataset"] == path and found.voxel_size == sides


def test_a_level_whose_factor_nobody_tells_has_no_voxel_size(tmp_path):
    tell(tmp_path / "a.n5", resolution=[4, 8, 35])
    put(tmp_path / "a.n5/s0")
    put(tmp_path / "a.n5/s1")
    assert level(tmp_path / "a.n5").voxel_size == (35, 8, 4)
    assert level(f"{tmp_path}/a.n5:1").voxel_size is None


def test_a_source_of_paintera_keeps_its_levels_under_data(tmp_path):
    tell(tmp_path / "a.n5/raw", painteraData={"type": "raw"})
    tell(tmp_path / "a.n5/raw/data", multiScale=True, resolution=[4, 8, 35], offset=[0, 0, 100])
    put(tmp_path / "a.n5/raw/data/s0")
    put(tmp_path / "a.n5/raw/data/s1", downsamplingFactors=[2, 2, 2])
    assert level(f"{tmp_path}/a.n5:raw").voxel_size == (35, 8, 4)
    assert level(f"{tmp_path}/a.n5:raw/data/1").voxel_size == (70, 16, 8)
    assert "offset" not in open_volume(f"{tmp_path}/a.n5/raw").attributes


def test_label_multisets_are_refused(tmp_path):
    put(tmp_path / "a.n5", isLabelMultiset=True)
    with pytest.raises(DataError, match="multisets"):
        level(tmp_path / "a.n5")


def test_the_volumes_of_cellmap_list_their_levels_and_transforms(tmp_path):
    def at(scale):
        return {"axes": list("zyx"), "scale": scale, "units": ["nm"] * 3, "translate": [0, 0, 0]}

    datasets = [{"path": f"s{n}", "transform": at([35 << n, 8 << n, 4 << n])} for n in (0, 1)]
    tell(tmp_path / "a.n5/em", multiscales=[{"datasets": datasets}])
    put(tmp_path / "a.n5/em/s0", pixelResolution={"dimensions": [1, 1, 1], "unit": "nm"})
    put(tmp_path / "a.n5/em/s1")
    assert level(f"{tmp_path}/a.n5:em").voxel_size == (35, 8, 4)
    assert level(f"{tmp_path}/a.n5:em/1").voxel_size == (70, 16, 8)
    assert np.array_equal(open_volume(f"{tmp_path}/a.n5/em").read(), RAW)


def test_a_missing_array_names_those_there_are(tmp_path):
    put(tmp_path / "a.n5/volumes/raw")
    assert level(tmp_path / "a.n5").attributes["dataset"] == "volumes/raw"
    put(tmp_path / "a.n5/labels")
    for spec, message in [
        ("", "a group, name an array"),
        (":labelz", "no N5 array 'labelz'"),
        (":volumes/em", "no N5 array 'volumes/em'"),
    ]:
        with pytest.raises(DataError, match=f"{message}.* holds labels, volumes/raw"):
            level(f"{tmp_path}/a.n5{spec}")
