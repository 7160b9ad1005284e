"""The segment verb: what it reads, refuses, drops and writes, at once and by blocks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.postprocess.drifting import columns, flipped, perfect
from tokenunify_scale import open_volume
from tokenunify_scale.config import ConfigError, DataError, HostError, Named, build
from tokenunify_scale.metrics import score
from tokenunify_scale.postprocess.waterz import WaterzConfig
from tokenunify_scale.segment import Config, plan, run
from tokenunify_scale.train.runlog import read_result
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import read_hdf5, write_hdf5

ROOT = Path(__file__).resolve().parents[1]
ATTRIBUTES = {
    "offsets": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "axes": "czyx",
    "voxel_size": [40.0, 8.0, 4.0],
    "offset": [3, 0, 0],
    "volume": "stack.tif",
}


def write(folder, affinities, **changes):
    attributes = {k: v for k, v in {**ATTRIBUTES, **changes}.items() if v is not None}
    write_hdf5(
        folder / "affinities.h5",
        {"affinities": affinities},
        attributes={"affinities": attributes},
    )
    return folder


@pytest.fixture
def labels():
    blocks = np.arange(1, 7).reshape(1, 2, 3)
    return np.ascontiguousarray(np.kron(blocks, np.ones((4, 12, 12), np.int64)))


@pytest.fixture
def predicted(tmp_path, labels):
    return write(tmp_path / "predict", perfect(labels))


def segmented(out, name="segmentation"):
    return read_hdf5(out / "segmentation.h5", name)[0]


def test_a_predict_folder_becomes_a_segmentation_that_knows_where_it_lies(
    tmp_path, predicted, labels
):
    result = run(Config(affinities=str(predicted), out=tmp_path / "out"))
    found, attributes = read_hdf5(tmp_path / "out" / "segmentation.h5", "segmentation")
    assert score(found, labels).voi < 0.01
    assert found.dtype == np.uint64 and found.max() == 6
    assert attributes["offset"] == [3, 0, 0] and attributes["voxel_size"] == [40, 8, 4]
    assert attributes["axes"] == "zyx" and attributes["volume"] == "stack.tif"
    assert result["metrics"]["segments"] == 6 and result["blocks"] == 1
    assert result["thresholds"] == {"segmentation": 0.5}
    assert read_result(tmp_path / "out")["verb"] == "segment"
    assert not (tmp_path / "out" / "work").exists()


def test_by_blocks_the_same_segments_come_out_with_the_same_facts(tmp_path, predicted, labels):
    config = Config(affinities=str(predicted), out=tmp_path / "out", block=(4, 12, 18))
    result = run(config)
    found, attributes = read_hdf5(tmp_path / "out" / "segmentation.h5", "segmentation")
    assert score(found, labels).voi < 0.01 and found.dtype == np.uint64
    assert attributes["offset"] == [3, 0, 0] and attributes["voxel_size"] == [40, 8, 4]
    assert result["blocks"] == 4 and result["metrics"]["segments"] == 6
    assert set(result["stages"]) == {"fragments", "edges", "graph", "segments"}
    assert result["metrics"]["fragments"] == np.count_nonzero(
        np.unique(segmented(tmp_path / "out", "fragments"))
    )
    assert not (tmp_path / "out" / "work").exists()


def test_a_file_and_dataset_serve_as_well_as_a_folder(tmp_path, predicted):
    source = f"{predicted}/affinities.h5:affinities"
    assert plan(Config(affinities=source))["voxels"] == [4, 24, 36]
    assert run(Config(affinities=source, out=tmp_path / "o"))["metrics"]["segments"] == 6


def test_a_plan_says_how_the_volume_is_cut_and_reads_no_voxel(tmp_path):
    """Affinities of 50 GB, of which not one has been written."""
    store = Boxed.create(
        tmp_path / "affinities.zarr",
        shape=(3, 1000, 2048, 2048),
        dtype=np.float32,
        chunk=(16, 128, 128),
        attributes=ATTRIBUTES,
    )
    told = plan(Config(affinities=str(store.path.parent), memory_MiB=2000))
    assert told["voxels"] == [1000, 2048, 2048] and told["offset"] == [3, 0, 0]
    assert told["method"] == "waterz" and told["limit_MiB"] == 2000
    assert told["blocks"] > 1 and 500 < told["memory_MiB"] <= 2000
    assert all(side % chunk == 0 for side, chunk in zip(told["block"], (16, 128, 128), strict=True))
    assert plan(Config(affinities=str(tmp_path), memory_MiB=10**7))["block"] is None
    with pytest.raises(ConfigError, match="memory_MiB is 20: raise it"):
        plan(Config(affinities=str(tmp_path), memory_MiB=20))


def test_a_tiff_for_other_viewers_holds_the_same_ids_and_voxel_size(tmp_path, predicted):
    run(Config(affinities=str(predicted), out=tmp_path / "out", format="both"))
    with tifffile.TiffFile(tmp_path / "out" / "segmentation.tif") as file:
        assert np.array_equal(file.asarray(), segmented(tmp_path / "out"))
        assert file.imagej_metadata["spacing"] == pytest.approx(0.04)


@pytest.mark.parametrize("block", [None, (4, 12, 18)])
def test_zarr_stores_replace_what_was_written_before(tmp_path, predicted, block):
    out = tmp_path / "out"
    run(Config(affinities=str(predicted), out=out, format="both", block=block))
    expected = segmented(out)
    run(Config(affinities=str(predicted), out=out, format="zarr", block=block))
    assert not (out / "segmentation.h5").exists() and not (out / "segmentation.tif").exists()
    volume = open_volume(str(out / "segmentation.zarr"))
    assert np.array_equal(volume.read(), expected) and volume.dtype == np.uint64
    assert volume.attributes["offset"] == [3, 0, 0] and volume.voxel_size == (40, 8, 4)
    assert open_volume(str(out / "fragments.zarr")).read().any()


@pytest.mark.parametrize("block", [None, (4, 12, 18)])
def test_more_thresholds_give_more_datasets_and_the_first_is_the_segmentation(
    tmp_path, predicted, block
):
    options = Named("waterz", WaterzConfig(scoring="mean", threshold=(0.5, 0.0)))
    config = Config(
        affinities=str(predicted), out=tmp_path, postprocess=options, min_size=0, block=block
    )
    result = run(config)
    assert result["thresholds"] == {"segmentation": 0.5, "segmentation_0": 0.0}
    assert segmented(tmp_path).max() == result["metrics"]["segments"]
    other = result["others"]["segmentation_0"]["segments"]
    assert segmented(tmp_path, "segmentation_0").max() == other


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"offsets": [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]}, "channel c at voxel p is the edge"),
        ({"axes": "cxyz"}, "axes = cxyz; only czyx is understood"),
        ({"offsets": None}, "attribute 'offsets' is missing; expected offsets = "),
    ],
)
def test_affinities_of_another_or_no_convention_are_refused(tmp_path, labels, changes, message):
    write(tmp_path, perfect(labels), **changes)
    with pytest.raises(DataError, match=message):
        run(Config(affinities=str(tmp_path), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_without_affinities_is_named(tmp_path):
    with pytest.raises(DataError, match="affinities.h5: no such file"):
        plan(Config(affinities=str(tmp_path)))


def test_options_of_the_method_come_from_plain_data():
    data = {"affinities": "p", "postprocess": {"name": "waterz", "scoring": "mean"}}
    assert build(Config, data).postprocess == Named("waterz", WaterzConfig(scoring="mean"))
    assert build(Config, {"affinities": "p", "block": "16,256,128"}).block == (16, 256, 128)


@pytest.mark.parametrize(
    "option, message",
    [
        ({"min_size": -1}, "min_size must be >= 0 voxels, got -1"),
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"halo": [1, -1, 0]}, "halo must be >= 0 voxels"),
        ({"memory_MiB": 0}, "memory_MiB must be >= 1, got 0"),
        ({"block": [16, 200, 128]}, "block side y is 200 voxels; above 128.*256 is the nearest"),
    ],
)
def test_sizes_that_are_none_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        build(Config, {"affinities": "p", **option})


@pytest.mark.parametrize("block", [None, (4, 6, 12)])
@pytest.mark.parametrize("dissolve", ["nearest", "background"])
def test_small_segments_are_dissolved_and_the_rest_is_renumbered(tmp_path, dissolve, block):
    labels = np.ones((4, 12, 12), np.int64)
    labels[:, 4:7, 4:7] = 2  # 36 voxels, below the default of 50; cut in two by the blocks
    write(tmp_path, perfect(labels))
    out = tmp_path / "out"
    asked = {"affinities": str(tmp_path), "out": out, "block": block}
    result = run(Config(dissolve=dissolve, **asked))
    found = segmented(out)
    assert result["metrics"]["segments"] == 1 and result["metrics"]["removed_segments"] == 1
    assert np.count_nonzero(found == 0) == (0 if dissolve == "nearest" else 36)
    assert result["metrics"]["background_fraction"] == np.mean(found == 0)
    kept = run(Config(min_size=0, **asked))
    assert kept["metrics"]["segments"] == 2


def test_an_unfinished_run_goes_on_with_its_blocks_and_is_not_mixed_with_another(
    tmp_path, monkeypatch
):
    from tokenunify_scale.postprocess import stages

    write(tmp_path, flipped(perfect(columns((8, 40, 44), count=8)), 0.05))
    asked = {"affinities": str(tmp_path), "out": tmp_path / "out", "halo": (1, 8, 8)}
    fresh = run(Config(**{**asked, "out": tmp_path / "fresh"}, block=(4, 20, 44)))
    plain, calls = stages.measure_edges, []

    def failing(job, block):
        calls.append(block.index)
        if block.index == 2 and len(calls) == 3:
            raise HostError("the disk is full")
        return plain(job, block)

    monkeypatch.setattr(stages, "measure_edges", failing)
    with pytest.raises(HostError, match="disk is full"):
        run(Config(**asked, block=(4, 20, 44)))
    assert not (tmp_path / "out" / "result.json").exists()
    with pytest.raises(ConfigError, match="unfinished run with min_size 50, this one has 9"):
        run(Config(**asked, block=(4, 20, 44), min_size=9))
    result = run(Config(**asked, block=(4, 20, 44), memory_MiB=900, format="both"))
    assert calls == [0, 1, 2, 2, 3] and result["blocks"] == 4
    assert result["metrics"] == fresh["metrics"]
    for name in ("segmentation", "fragments"):
        assert np.array_equal(
            segmented(tmp_path / "out", name), segmented(tmp_path / "fresh", name)
        )


def test_more_workers_than_one_need_their_package_before_anything_is_written(
    tmp_path, predicted, monkeypatch
):
    monkeypatch.setitem(sys.modules, "daisy.v2", None)
    with pytest.raises(HostError, match="pip install daisy"):
        run(Config(affinities=str(predicted), out=tmp_path / "out", workers=2))
    assert not (tmp_path / "out").exists()


BOUNDED = """
import json, resource, sys, threading, time
from pathlib import Path
from tokenunify_scale.config import Named
from tokenunify_scale.postprocess.waterz import WaterzConfig
from tokenunify_scale import segment
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20
options = Named("waterz", WaterzConfig(scoring="mean"))
asked = dict(memory_MiB=int(sys.argv[3]), postprocess=options, format="zarr",
             halo=(1, 16, 16))
segment.run(segment.Config(affinities=sys.argv[1], out=Path("warm"), block=(4, 16, 16), **asked))
base = peak = resident()
over = False
def watch():
    global peak
    while not over:
        peak = max(peak, resident())
        time.sleep(0.002)
thread = threading.Thread(target=watch); thread.start()
result = segment.run(segment.Config(affinities=sys.argv[2], out=Path("out"), **asked))
over = True
thread.join()
print(json.dumps({"base": base, "growth": peak - base, "blocks": result["blocks"],
                  "fragments": result["metrics"]["fragments"], "stages": result["stages"]}))
"""


@pytest.mark.slow
def test_affinities_four_times_the_memory_are_segmented_within_it(tmp_path):
    """Growth of the resident set over a process that has everything loaded."""
    limit = 64  # MiB; the affinities are 4 times that
    shape = (4, 2048, 2816)
    cells = np.arange(1, 5).reshape(1, 2, 2)
    tile = perfect(np.kron(cells, np.ones((4, 64, 64), np.int64)))
    write(tmp_path / "small", tile[:, :, :32, :32])
    store = Boxed.create(
        tmp_path / "large" / "affinities.zarr",
        shape=(3, *shape),
        dtype=np.float32,
        chunk=(16, 128, 128),
        attributes=ATTRIBUTES,
    )
    for y in range(0, shape[1], 128):
        for x in range(0, shape[2], 128):
            store.write(Box((0, y, x), (4, y + 128, x + 128)), tile)
    assert 3 * np.prod(shape) * 4 >= 4 * limit << 20
    child = subprocess.run(
        [sys.executable, "-c", BOUNDED, tmp_path / "small", tmp_path / "large", str(limit)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    told = json.loads(child.stdout.splitlines()[-1])
    assert told["growth"] < limit and told["blocks"] > 4, told
