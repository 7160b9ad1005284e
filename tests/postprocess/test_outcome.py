"""Names of segmentations, and files that later readers find: one format, and nothing stale."""

import numpy as np
import pytest

from tokenunify_scale.postprocess.outcome import Outcome, Segments, names, write
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import read_hdf5
from tokenunify_scale.volumes.volume import open_volume

SHAPE = (5, 9, 8)
FACTS = {"axes": "zyx", "voxel_size": [40.0, 8.0, 8.0], "offset": [3, 0, 0]}
BOTH = ("segmentation", "segmentation_0.3")


@pytest.fixture(params=["memory", "store"])
def outcome(request, tmp_path):
    generator = np.random.default_rng(0)
    arrays = {}
    for name in (*BOTH, "fragments"):
        arrays[name] = generator.integers(0, 9, SHAPE).astype(np.uint64)
    segments = {BOTH[0]: Segments(0.5, 8, 2, 0.1), BOTH[1]: Segments(0.3, 8, 3, 0.1)}
    values = dict(arrays)
    (tmp_path / "work").mkdir()
    if request.param == "store":
        for name, array in values.items():
            store = Boxed.create(
                tmp_path / "work" / f"{name}.zarr",
                shape=SHAPE,
                dtype=np.uint64,
                chunk=(4, 4, 8),
                attributes=FACTS,
            )
            store.write(Box.of(SHAPE), array)
            arrays[name] = store
    return Outcome(arrays, segments, fragments=8, blocks=4, stages={"graph": 1.234}), values


@pytest.mark.parametrize("format", ["hdf5", "tiff", "both", "zarr"])
def test_each_format_holds_the_same_ids_and_facts(tmp_path, outcome, format):
    found, values = outcome
    for stale in ("segmentation.h5", "segmentation.tif", "segmentation_0.7.tif"):
        (tmp_path / stale).touch()
    for stale in ("segmentation.zarr", "segmentation_0.7.zarr", "fragments.zarr"):
        (tmp_path / stale).mkdir()
    write(found, tmp_path, format=format, facts=FACTS, work=tmp_path / "work")
    expected = {
        "hdf5": {"segmentation.h5"},
        "tiff": {f"{name}.tif" for name in BOTH},
        "both": {"segmentation.h5", *(f"{name}.tif" for name in BOTH)},
        "zarr": {f"{name}.zarr" for name in (*BOTH, "fragments")},
    }[format]
    assert {path.name for path in tmp_path.iterdir()} - {"work"} == expected
    for file in expected - {"segmentation.h5"}:
        volume = open_volume(str(tmp_path / file))
        assert np.array_equal(volume.read(), values[file.rpartition(".")[0]])
        assert volume.voxel_size == pytest.approx((40, 8, 8))
    if "segmentation.h5" in expected:
        for name, array in values.items():
            ids, attributes = read_hdf5(tmp_path / "segmentation.h5", name)
            assert ids.dtype == np.uint64 and np.array_equal(ids, array)
            assert attributes["offset"] == [3, 0, 0] and attributes["axes"] == "zyx"


def test_the_first_threshold_asked_for_is_the_segmentation():
    assert names([0.3, 0.5, 0.7], asked=(0.5, 0.3, 0.7)) == {
        0.5: "segmentation",
        0.3: "segmentation_0.3",
        0.7: "segmentation_0.7",
    }
    assert names([0.5], asked=0.5) == names([0.5], asked=None) == {0.5: "segmentation"}
    assert names([None], asked=None) == {None: "segmentation"}


def test_the_result_says_which_threshold_is_which(outcome):
    found = outcome[0].to_dict()
    assert found["thresholds"] == {"segmentation": 0.5, "segmentation_0.3": 0.3}
    assert found["metrics"] == {
        "segments": 8, "removed_segments": 2, "background_fraction": 0.1, "fragments": 8,
    }  # fmt: skip
    assert found["others"]["segmentation_0.3"]["removed_segments"] == 3
    assert found["blocks"] == 4 and found["stages"] == {"graph": 1.23}
