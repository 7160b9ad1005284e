"""Neuroglancer's state: names, places and voxel sizes as its documents say them."""

import json
import urllib.parse

import numpy as np
import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.viewer.neuroglancer import (
    Layer,
    neuroglancer_link,
    neuroglancer_state,
    write_state,
)
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box

SIZE = (40.0, 8.0, 4.0)
SPACE = {"z": [4e-8, "m"], "y": [8e-9, "m"], "x": [4e-9, "m"]}


def folder_of(path, *, voxel_size=SIZE, words=("segmentation", "affinities")):
    for word in words:
        front = (3,) if word == "affinities" else ()
        kind = np.uint8 if word == "affinities" else np.uint64
        told = {"voxel_size": voxel_size, "offset": [5, 6, 7]}
        told |= {"scale": 255} if front else {}
        shape = (*front, 4, 8, 10)
        array = Boxed.create(
            path / f"{word}.zarr", shape=shape, dtype=kind, chunk=(4, 8, 10), attributes=told
        )
        array.write(Box.of(shape[-3:]), np.ones(shape, kind))
    return path


def test_a_local_array_lies_at_its_place_in_the_source_volume():
    layer = Layer(name="s", url="zarr://http://h/s.zarr", kind="segmentation", offset=(5, 6, 7))
    state = neuroglancer_state([layer], voxel_size=SIZE, position=(10, 20, 30))
    source = state["layers"][0]["source"]
    assert state["dimensions"] == SPACE and state["position"] == [30.5, 20.5, 10.5]
    assert source["url"] == layer.url and state["layers"][0]["type"] == "segmentation"
    transform = source["transform"]
    assert list(transform["outputDimensions"]) == ["z", "y", "x"]
    assert transform["outputDimensions"] == transform["inputDimensions"]
    corner = np.array(transform["matrix"]) @ [0, 0, 0, 1]
    assert corner.tolist() == [5, 6, 7]
    for axis, side in zip("zyx", SIZE, strict=True):
        assert transform["outputDimensions"][axis][0] == pytest.approx(side * 1e-9)


def test_a_source_that_says_its_own_place_is_left_alone():
    layers = [Layer(name="raw", url="precomputed://gs://b/raw", offset=None)]
    state = neuroglancer_state(layers, voxel_size=SIZE, position=(0, 0, 0))
    assert state["layers"][0]["source"] == "precomputed://gs://b/raw"


def test_the_axes_of_precomputed_come_in_their_own_order():
    layers = [Layer(name="p", url="precomputed://http://h/p", axes="xyz", offset=(5, 6, 7))]
    transform = neuroglancer_state(layers, voxel_size=SIZE, position=(0, 0, 0))["layers"][0][
        "source"
    ]["transform"]
    assert list(transform["inputDimensions"]) == ["x", "y", "z"]
    assert [row[-1] for row in transform["matrix"]] == [7, 6, 5]


def test_a_link_is_the_host_and_the_state_and_nothing_in_it_breaks_a_url():
    layers = [Layer(name="a b#c", url="zarr://https://h/x.zarr?a=1&b")]
    link = neuroglancer_link(layers, voxel_size=SIZE, position=(1, 2, 3), host="https://ng.org/")
    start, state = link.split("/#!")
    assert start == "https://ng.org" and not set(' "{}#&?') & set(state)
    expected = neuroglancer_state(layers, voxel_size=SIZE, position=(1, 2, 3))
    assert json.loads(urllib.parse.unquote(state)) == expected


def test_a_folder_becomes_a_state_with_all_its_arrays(tmp_path):
    link = write_state(folder_of(tmp_path), base="http://localhost:9/", raw="precomputed://gs://r")
    state = json.loads((tmp_path / "neuroglancer.json").read_text())
    assert json.loads(urllib.parse.unquote(link.split("#!")[1])) == state
    raw, *affinities, segmentation = state["layers"]
    assert [raw["name"], raw["source"]] == ["raw", "precomputed://gs://r"]
    for channel, (layer, axis) in enumerate(zip(affinities, "zyx", strict=True)):
        assert layer["name"] == f"affinities {axis}" and layer["localPosition"] == [channel]
        assert layer["source"]["url"] == "zarr://http://localhost:9/affinities.zarr"
        transform = layer["source"]["transform"]
        assert list(transform["inputDimensions"]) == ["c'", "z", "y", "x"]
        assert [row[-1] for row in transform["matrix"]] == [0, 5, 6, 7]
        assert "[0, 255]" in layer["shader"] and not layer["visible"]
    assert segmentation["type"] == "segmentation" and segmentation["visible"]
    assert state["position"] == [7 + 5.5, 6 + 4.5, 5 + 2.5]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"words": ()}, "--format zarr"), ({"voxel_size": None}, "no attribute voxel_size")],
)
def test_a_folder_that_cannot_be_shown_is_refused_in_a_line(tmp_path, options, said):
    with pytest.raises(DataError, match=said) as error:
        write_state(folder_of(tmp_path, **options))
    assert "\n" not in str(error.value) and not (tmp_path / "neuroglancer.json").exists()


def test_layers_need_names_of_their_own():
    twice = [Layer(name="a", url="zarr://x")] * 2
    for layers in ([], twice):
        with pytest.raises(DataError, match="of its own name"):
            neuroglancer_state(layers, voxel_size=SIZE, position=(0, 0, 0))
