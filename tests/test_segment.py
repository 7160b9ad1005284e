"""The segment verb: what it reads, refuses, drops and writes."""

import numpy as np
import pytest
import tifffile
import torch

from tokenunify_scale.config import ConfigError, DataError, Named, build
from tokenunify_scale.data.affinities import affinities_from_labels
from tokenunify_scale.metrics import score
from tokenunify_scale.postprocess.waterz import WaterzConfig
from tokenunify_scale.segment import Config, compact, fill, plan, run
from tokenunify_scale.train.runlog import read_result
from tokenunify_scale.volumes.hdf5 import read_hdf5, write_hdf5

ATTRIBUTES = {
    "offsets": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "axes": "czyx",
    "voxel_size": [40.0, 8.0, 4.0],
    "offset": [3, 0, 0],
    "volume": "stack.tif",
}


@pytest.fixture
def labels():
    blocks = np.arange(1, 7).reshape(1, 2, 3)
    return np.ascontiguousarray(np.kron(blocks, np.ones((4, 12, 12), np.int64)))


@pytest.fixture
def predicted(tmp_path, labels):
    affinities = affinities_from_labels(torch.from_numpy(labels))[0].numpy()
    folder = tmp_path / "predict"
    write_hdf5(
        folder / "affinities.h5",
        {"affinities": affinities},
        attributes={"affinities": ATTRIBUTES},
    )
    return folder


def rewrite(folder, **changes):
    affinities, _ = read_hdf5(folder / "affinities.h5", "affinities")
    attributes = {k: v for k, v in {**ATTRIBUTES, **changes}.items() if v is not None}
    write_hdf5(
        folder / "affinities.h5",
        {"affinities": affinities},
        attributes={"affinities": attributes},
    )


def test_a_predict_folder_becomes_a_segmentation_that_knows_where_it_lies(
    tmp_path, predicted, labels
):
    result = run(Config(affinities=str(predicted), out=tmp_path / "out"))
    found, attributes = read_hdf5(tmp_path / "out" / "segmentation.h5", "segmentation")
    assert score(found, labels).voi < 0.01
    assert found.dtype == np.uint64 and found.max() == 6
    assert attributes["offset"] == [3, 0, 0] and attributes["voxel_size"] == [40, 8, 4]
    assert attributes["axes"] == "zyx" and attributes["volume"] == "stack.tif"
    assert result["metrics"]["segments"] == 6
    assert read_result(tmp_path / "out")["verb"] == "segment"


def test_a_file_and_dataset_serve_as_well_as_a_folder(tmp_path, predicted):
    source = f"{predicted}/affinities.h5:affinities"
    assert plan(Config(affinities=source))["voxels"] == [4, 24, 36]
    assert run(Config(affinities=source, out=tmp_path / "o"))["metrics"]["segments"] == 6


def test_a_tiff_for_other_viewers_holds_the_same_ids_and_voxel_size(tmp_path, predicted):
    run(Config(affinities=str(predicted), out=tmp_path / "out", format="both"))
    found, _ = read_hdf5(tmp_path / "out" / "segmentation.h5", "segmentation")
    with tifffile.TiffFile(tmp_path / "out" / "segmentation.tif") as file:
        assert np.array_equal(file.asarray(), found)
        assert file.imagej_metadata["spacing"] == pytest.approx(0.04)


def test_small_segments_become_background(tmp_path):
    ids = np.array([[[5, 5, 5, 9], [0, 0, 7, 7]]], np.uint64)
    found, dropped = compact(ids, min_size=2)
    assert found.tolist() == [[[1, 1, 1, 0], [0, 0, 2, 2]]] and dropped == 1
    assert compact(ids)[0].max() == 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"offsets": [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]}, "channel c at voxel p is the edge"),
        ({"axes": "cxyz"}, "axes = cxyz; only czyx is understood"),
        ({"offsets": None}, "attribute 'offsets' is missing; expected offsets = "),
    ],
)
def test_affinities_of_another_or_no_convention_are_refused(predicted, changes, message):
    rewrite(predicted, **changes)
    with pytest.raises(DataError, match=message):
        run(Config(affinities=str(predicted), out=predicted / "out"))
    assert not (predicted / "out").exists()


def test_a_folder_without_affinities_is_named(tmp_path):
    with pytest.raises(DataError, match="affinities.h5: no such file"):
        plan(Config(affinities=str(tmp_path)))


def test_options_of_the_method_come_from_plain_data():
    data = {"affinities": "p", "postprocess": {"name": "waterz", "scoring": "mean"}}
    assert build(Config, data).postprocess == Named("waterz", WaterzConfig(scoring="mean"))
    with pytest.raises(ConfigError, match="min_size must be >= 0 voxels, got -1"):
        build(Config, {"affinities": "p", "min_size": -1})


def test_specks_go_to_the_segment_that_is_nearest_in_nanometres():
    found = np.zeros((2, 1, 4), np.uint64)
    found[0, 0] = [1, 1, 0, 0]
    found[1, 0] = [2, 2, 2, 0]
    holes = np.zeros(found.shape, bool)
    holes[0, 0, 2] = True
    near_in_plane = fill(found, holes, voxel_size=(40, 8, 8))
    assert near_in_plane[0, 0].tolist() == [1, 1, 1, 0], "other background stays background"
    assert fill(found, holes, voxel_size=(4, 8, 8))[0, 0, 2] == 2
    empty = np.zeros_like(found)
    assert np.array_equal(fill(empty, holes, voxel_size=(1, 1, 1)), empty)



@pytest.mark.parametrize("dissolve", ["nearest", "background"])
def test_small_segments_are_dissolved_and_the_rest_is_renumbered(tmp_path, dissolve):
    labels = np.ones((4, 12, 12), np.int64)
    labels[:, 4:7, 4:7] = 2  # 36 voxels, below the default of 50
    affinities = affinities_from_labels(torch.from_numpy(labels))[0].numpy()
    write_hdf5(
        tmp_path / "affinities.h5",
        {"affinities": affinities},
        attributes={"affinities": ATTRIBUTES},
    )
    out = tmp_path / "out"
    result = run(Config(affinities=str(tmp_path), out=out, dissolve=dissolve))
    found, _ = read_hdf5(out / "segmentation.h5", "segmentation")
    assert result["metrics"]["segments"] == 1 and result["metrics"]["removed_segments"] == 1
    assert np.count_nonzero(found == 0) == (0 if dissolve == "nearest" else 36)
    kept = run(Config(affinities=str(tmp_path), out=out, min_size=0))
    assert kept["metrics"]["segments"] == 2
