import json

import numpy as np
import pytest
import tensorstore as ts

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.address import parse_address
from tokenunify_scale.volumes.volume import open_volume
from tokenunify_scale.volumes.zarr import find_zarr, read_node

RAW = np.random.default_rng(0).integers(0, 256, (6, 9, 12), dtype=np.uint8)


def put(folder, array=RAW, *, driver="zarr", **options):
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder}/"}, **options}
    facts = {"dtype": ts.dtype(array.dtype), "shape": array.shape}
    ts.open(spec, create=True, **facts).result().write(array).result()
    return folder


def tell(path, facts):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts))


def level(spec):
    return find_zarr(parse_address(str(spec)))


def multiscales(*paths):
    axes = [{"name": axis, "type": "space", "unit": "nm"} for axis in "zyx"]
    steps = [{"type": "scale", "scale": [35, 8, 8]}]
    datasets = [{"path": path, "coordinateTransformations": steps} for path in paths]
    return {"multiscales": [{"axes": axes, "datasets": datasets}]}


def test_the_version_is_the_one_that_is_there(tmp_path):
    put(tmp_path / "two")
    put(tmp_path / "three", driver="zarr3")
    assert [read_node(f"{tmp_path}/{name}").version for name in ("two", "three")] == [2, 3]
    assert read_node(f"{tmp_path}/two", version=3).kind == "nothing"
    assert read_node(f"{tmp_path}/three", version=2).kind == "nothing"
    assert level(f"zarr://{tmp_path}/three").driver == "zarr3"


def test_a_group_with_one_array_needs_no_name_and_with_several_it_does(tmp_path):
    tell(tmp_path / "a.zarr/.zgroup", {"zarr_format": 2})
    put(tmp_path / "a.zarr/volumes/raw")
    assert level(tmp_path / "a.zarr").attributes["dataset"] == "volumes/raw"
    put(tmp_path / "a.zarr/labels")
    with pytest.raises(DataError, match="a group, name an array .* holds labels, volumes/raw"):
        level(tmp_path / "a.zarr")
    with pytest.raises(DataError, match="no Zarr array 'raw'; it holds labels, volumes/raw"):
        level(f"{tmp_path}/a.zarr:raw")


def test_a_pyramid_deep_in_a_group_counts_as_one_volume(tmp_path):
    tell(tmp_path / "a.zarr/zarr.json", {"zarr_format": 3, "node_type": "group"})
    ome = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": multiscales("s0", "s1")}}
    tell(tmp_path / "a.zarr/em/zarr.json", ome)
    for name in ("s0", "s1"):
        put(tmp_path / "a.zarr/em" / name, driver="zarr3")
    for spec in ("", ":em", "/em/s0", ":em/0"):
        found = level(f"{tmp_path}/a.zarr{spec}")
        assert found.attributes["dataset"] == "em/s0" and found.voxel_size == (35, 8, 8)


def test_an_array_named_by_its_own_folder_asks_the_group_above(tmp_path):
    tell(tmp_path / "em/.zattrs", multiscales("s0"))
    put(tmp_path / "em/s0")
    assert open_volume(tmp_path / "em/s0").voxel_size == (35, 8, 8)


def test_consolidated_metadata_list_what_a_host_cannot(tmp_path):
    group = {"zarr_format": 2}
    held = {"raw/.zarray": {}, "em/.zattrs": multiscales("0"), "em/0/.zarray": {}, ".zgroup": group}
    tell(tmp_path / "a.zarr/.zmetadata", {"metadata": held})
    tell(tmp_path / "a.zarr/.zgroup", group)
    with pytest.raises(DataError, match="holds em, raw"):
        level(tmp_path / "a.zarr")
    held = {"raw": {"node_type": "array"}, "x": {"node_type": "group"}}
    facts = {"zarr_format": 3, "node_type": "group", "consolidated_metadata": {"metadata": held}}
    tell(tmp_path / "b.zarr/zarr.json", facts)
    put(tmp_path / "b.zarr/raw", driver="zarr3")
    assert level(tmp_path / "b.zarr").attributes["dataset"] == "raw"


@pytest.mark.parametrize(
    "attributes, expected",
    [
        ({"voxel_size": [35, 8, 4]}, (35, 8, 4)),
        ({"resolution": [35, 8, 4], "units": ["nm", "nm", "nm"]}, (35, 8, 4)),
        ({"resolution": [0.035, 0.008, 0.004], "units": "um"}, (35, 8, 4)),
        ({"resolution": [35, 8, 4], "units": "voxel"}, None),
        (
            {"transform": {"axes": ["z", "y", "x"], "scale": [35, 8, 4], "units": ["nm"] * 3}},
            (35, 8, 4),
        ),
        ({}, None),
    ],
)
def test_a_plain_array_tells_its_voxel_size_itself_or_its_group_does(
    tmp_path, attributes, expected
):
    put(tmp_path / "a.zarr/raw")
    tell(tmp_path / "a.zarr/raw/.zattrs", attributes)
    assert level(f"{tmp_path}/a.zarr:raw").voxel_size == pytest.approx(expected)
    (tmp_path / "a.zarr/raw/.zattrs").unlink()
    if "transform" not in attributes:
        tell(tmp_path / "a.zarr/.zattrs", attributes)
        assert level(f"{tmp_path}/a.zarr:raw").voxel_size == pytest.approx(expected)


def test_a_group_outside_the_container_tells_nothing(tmp_path):
    put(tmp_path / "a.zarr")
    tell(tmp_path / ".zattrs", {"resolution": [1, 2, 3]})
    assert level(tmp_path / "a.zarr").voxel_size is None


def test_names_of_dimensions_put_plain_arrays_in_order(tmp_path):
    put(tmp_path / "two.zarr", RAW.T)
    tell(
        tmp_path / "two.zarr/.zattrs",
        {"_ARRAY_DIMENSIONS": ["x", "y", "z"], "voxel_size": [4, 8, 35]},
    )
    put(
        tmp_path / "three.zarr",
        RAW.T,
        driver="zarr3",
        schema={"domain": {"labels": ["x", "y", "z"]}},
    )
    for name in ("two", "three"):
        with open_volume(tmp_path / f"{name}.zarr") as volume:
            assert np.array_equal(volume.read(), RAW)
            assert volume.voxel_size == ((35, 8, 4) if name == "two" else None)


@pytest.mark.parametrize("sparse", [False, True])
def test_nested_chunks_are_found_where_the_metadata_do_not_tell_of_them(tmp_path, sparse):
    metadata = {"chunks": [3, 5, 5], "dimension_separator": "/"}
    put(tmp_path / "a.zarr", metadata=metadata)
    told = json.loads((tmp_path / "a.zarr/.zarray").read_text())
    del told["dimension_separator"]
    tell(tmp_path / "a.zarr/.zarray", told)
    expected = RAW.copy()
    if sparse:
        (tmp_path / "a.zarr/0/0/0").unlink()
        expected[:3, :5, :5] = 0
    assert np.array_equal(open_volume(tmp_path / "a.zarr").read(), expected)


def test_sharded_arrays_are_read(tmp_path):
    inner = {"chunk_shape": [3, 3, 3], "codecs": [{"name": "bytes"}, {"name": "zstd"}]}
    metadata = {
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [6, 9, 6]}},
        "codecs": [{"name": "sharding_indexed", "configuration": inner}],
    }
    put(tmp_path / "a.zarr", driver="zarr3", metadata=metadata)
    assert np.array_equal(open_volume(tmp_path / "a.zarr").read(), RAW)


def test_axes_that_do_not_fit_the_array_are_refused(tmp_path):
    put(tmp_path / "a.zarr/0", RAW[0])
    tell(tmp_path / "a.zarr/.zattrs", multiscales("0"))
    with pytest.raises(DataError, match="2 axes in the array, 3 in the metadata"):
        level(tmp_path / "a.zarr")
