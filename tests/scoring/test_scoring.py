"""What is scored of a segmentation, where it lies, what is told, and how much memory it takes."""

import csv
import json

import numpy as np
import pytest
from matplotlib.image import imread

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.measure.memory import printed
from tokenunify_scale.metrics import score
from tokenunify_scale.scoring import Scoring, inputs, pictures
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import write_hdf5

QUIET = {"viewer": "off", "neurons": "off"}


@pytest.fixture
def source(tmp_path):
    """Two objects in 4 sections of 20 x 20, and a segmentation that merges them."""
    labels = np.ones((4, 20, 20), np.uint8)
    labels[:, 10:] = 2
    merged = np.ones_like(labels)
    half = np.where(labels == 1, 1, 0)
    datasets = {"labels": labels, "merged": merged, "empty": 0 * labels, "half": half}
    write_hdf5(tmp_path / "a.h5", datasets)
    return f"{tmp_path}/a.h5"


def test_scores_counts_tables_and_pictures_come_from_one_call(tmp_path, source, capsys):
    scoring = Scoring(segmentation=f"{source}:merged", labels=f"{source}:labels")
    result = scoring.run(tmp_path)
    assert result["metrics"]["voi_merge"] == pytest.approx(1)
    assert result["metrics"]["voi_split"] == 0
    assert result["metrics"]["segments"] == 1 and result["metrics"]["objects"] == 2
    assert result["stop"] == [4, 20, 20]
    for name in ("sections.png", "errors.png", "neurons.png"):
        assert imread(tmp_path / name).size
    (merge,) = csv.DictReader((tmp_path / "errors.csv").open())
    place = tuple(int(merge[axis]) for axis in "zyx")
    assert (merge["kind"], merge["id"], merge["parts"]) == ("merge", "1", "2")
    assert 0 <= place[0] < 4 and 10 <= place[1] < 20
    assert "merge" in (tmp_path / "errors.md").read_text()
    assert "merge segment" in capsys.readouterr().out
    assert "<html" in (tmp_path / "viewer.html").read_text()[:200]


def test_the_result_says_what_was_scored(tmp_path, source):
    words = {"segmentation": f"{source}:merged", "labels": f"{source}:labels", **QUIET}
    plain = Scoring(**words).run(tmp_path)["convention"]
    assert plain["units"] == "bits" and plain["ignore_label"] == 0
    assert (plain["border"], plain["border_voxels"], plain["voxels_scored"]) == (
        "original",
        0,
        1600,
    )
    widened = Scoring(**words, border="widened", border_voxels=2, units="nats").run(tmp_path)
    assert widened["convention"]["voxels_scored"] == 4 * 20 * 16
    assert widened["convention"]["border_voxels"] == 2
    assert widened["metrics"]["voi_merge"] == pytest.approx(np.log(2))


@pytest.mark.parametrize("border", ["original", "widened"])
def test_a_volume_read_in_parts_scores_like_the_whole(tmp_path, monkeypatch, border):
    generator = np.random.default_rng(0)
    labels = np.kron(generator.integers(0, 30, (40, 7, 4)), np.ones((1, 19, 40), np.int64))
    segmentation = np.kron(generator.integers(0, 40, (40, 19, 10)), np.ones((1, 7, 16), np.int64))
    segmentation = segmentation.astype(np.uint64) + np.uint64(2**60)
    write_hdf5(tmp_path / "a.h5", {"labels": labels, "ids": segmentation})
    monkeypatch.setattr(inputs, "BYTES", 1)
    scoring = Scoring(
        segmentation=f"{tmp_path}/a.h5:ids",
        labels=f"{tmp_path}/a.h5:labels",
        border=border,
        **QUIET,
    )
    result = scoring.run(tmp_path)
    wide = labels if border == "original" else inputs.widened(labels, voxels=1)
    expected = score(segmentation, wide).to_dict()
    assert {key: result["metrics"][key] for key in expected} == pytest.approx(expected, abs=1e-12)
    for row in csv.DictReader((tmp_path / "errors.csv").open()):
        place = tuple(int(row[axis]) for axis in "zyx")
        assert (segmentation[place], wide[place]) == (int(row["segment"]), int(row["object"]))


MEASURED = """
from pathlib import Path
from tokenunify_scale.measure.memory import print_peak
from tokenunify_scale.scoring import Scoring, inputs, pictures
import contextlib, io
inputs.BYTES, pictures.draw = 4 << 20, lambda *_, **__: None  # three sections, and matplotlib
def run(name):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        words = {"segmentation": f"{name}.h5:ids", "labels": f"{name}.h5:labels"}
        Scoring(**words, viewer="off", neurons="off").run(Path(name))
run("FOLDER/small")
print_peak(lambda: run("FOLDER/deep"))
"""


def test_memory_is_bounded_by_the_parts_not_by_the_volume(tmp_path):
    for name, depth in (("small", 16), ("deep", 256)):
        labels = np.kron(np.arange(1, 17).reshape(1, 4, 4), np.ones((depth, 64, 64), np.uint32))
        ids = np.roll(labels, 8, axis=1)
        write_hdf5(tmp_path / f"{name}.h5", {"labels": labels, "ids": ids})
        (tmp_path / name).mkdir()
    code = MEASURED.replace("FOLDER", str(tmp_path))
    peak = printed(code, environment={"OMP_NUM_THREADS": "1"})
    if peak is None:
        pytest.skip("needs /proc/self/clear_refs")
    assert peak < (labels.nbytes + ids.nbytes) / 3


def test_without_labels_nothing_is_scored(tmp_path, source):
    scoring = Scoring(segmentation=f"{source}:labels", sections=(1, 3), **QUIET)
    assert scoring.plan() == {"start": [1, 0, 0], "stop": [3, 20, 20], "scored": False}
    result = scoring.run(tmp_path)
    assert result["metrics"] == {"segments": 2, "background_fraction": 0.0}
    assert result["convention"] is None
    assert not (tmp_path / "errors.png").exists() and not (tmp_path / "errors.csv").exists()


def test_ids_that_are_ignored_do_not_count(tmp_path, source):
    words = {"segmentation": f"{source}:merged", "labels": f"{source}:labels", **QUIET}
    assert Scoring(**words, ignore_label=2).run(tmp_path)["metrics"]["voi"] == 0


def test_neurons_are_chosen_or_named(tmp_path, source, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "draw_neurons", lambda path, *_, **__: drawn.append(path.name))
    words = {"segmentation": f"{source}:labels", "viewer": "off"}
    assert Scoring(**words).run(tmp_path)["neurons"] == {"1": "the largest", "2": "the largest"}
    assert Scoring(**words, neurons=(2,)).run(tmp_path)["neurons"] == {"2": "chosen"}
    assert Scoring(**words, neurons="off").run(tmp_path)["neurons"] == {}
    assert drawn == ["neurons.png"] * 2
    with pytest.raises(DataError, match="no segment 77"):
        Scoring(**words, neurons=(77,)).run(tmp_path)


def test_ids_above_two_to_the_53_are_told_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "draw_neurons", lambda *_, **__: None)
    labels = np.full((2, 8, 8), 2**63 + 1, np.uint64)
    labels[:, 4:] += np.uint64(1)
    write_hdf5(tmp_path / "a.h5", {"labels": labels, "ids": np.full_like(labels, 2**64 - 1)})
    words = {"segmentation": f"{tmp_path}/a.h5:ids", "labels": f"{tmp_path}/a.h5:labels", **QUIET}
    result = Scoring(**words | {"neurons": (2**64 - 1,)}).run(tmp_path)
    assert result["metrics"]["voi_merge"] == pytest.approx(1)
    assert json.loads(json.dumps(result))["neurons"] == {str(2**64 - 1): "chosen"}
    (row,) = csv.DictReader((tmp_path / "errors.csv").open())
    assert row["id"] == str(2**64 - 1) and row["object"] in (str(2**63 + 1), str(2**63 + 2))


def test_a_link_shows_the_zarr_arrays_of_a_folder(tmp_path, source, capsys):
    folder = tmp_path / "run"
    shape = (4, 20, 20)
    array = Boxed.create(
        folder / "segmentation.zarr", shape=shape, dtype=np.uint64, chunk=shape,
        attributes={"voxel_size": [40, 8, 8]},
    )  # fmt: skip
    array.write(Box.of(shape), np.ones(shape, np.uint64))
    result = Scoring(segmentation=str(folder), neuroglancer="http://here:1", **QUIET).run(tmp_path)
    assert result["neuroglancer"].startswith("https://") and "here" in result["neuroglancer"]
    assert result["neuroglancer"] in capsys.readouterr().out
    with pytest.raises(ConfigError, match="segment with --format zarr"):
        Scoring(segmentation=f"{source}:labels", neuroglancer="http://here:1").plan()


def test_negative_ids_are_scored_and_have_no_page(tmp_path):
    labels = np.repeat([-1, 4], 32).reshape(1, 8, 8)
    write_hdf5(tmp_path / "a.h5", {"labels": labels, "ids": -labels})
    words = {"segmentation": f"{tmp_path}/a.h5:ids", "labels": f"{tmp_path}/a.h5:labels"}
    assert Scoring(**words, neurons="off").run(tmp_path)["metrics"]["voi"] == pytest.approx(0)
    assert not (tmp_path / "viewer.html").exists()


def test_what_cannot_be_scored_ends_in_one_line(tmp_path, source):
    labelled = {"labels": f"{source}:labels"}
    with pytest.raises(DataError, match="all background"):
        Scoring(segmentation=f"{source}:labels", labels=f"{source}:empty").run(tmp_path)
    with pytest.raises(DataError, match="do not overlap"):
        Scoring(segmentation=f"{source}:empty", **labelled, ignore_segment=0).run(tmp_path)
    with pytest.raises(ConfigError, match="sections 2:9 must be within 0:4"):
        Scoring(segmentation=f"{source}:labels", sections=(2, 9)).plan()
    with pytest.raises(ConfigError, match="no such folder"):
        Scoring(segmentation=f"{tmp_path}/nowhere").plan()
    with pytest.raises(DataError, match="no such file or folder of affinities"):
        Scoring(segmentation=f"{source}:labels", affinities=f"{tmp_path}/nowhere").plan()


def test_a_segmentation_of_background_is_one_segment_and_said_so(tmp_path, source, caplog):
    scoring = Scoring(segmentation=f"{source}:empty", labels=f"{source}:labels", **QUIET)
    metrics = scoring.run(tmp_path)["metrics"]
    assert (metrics["voi_merge"], metrics["segments"]) == (pytest.approx(1), 0)
    assert "background 0 wherever there are labels" in caplog.text
    assert not (tmp_path / "neurons.png").exists()
