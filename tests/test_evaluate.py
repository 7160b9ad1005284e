"""The evaluate verb: what is scored, the pictures, a run's rollout, and runs compared."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.evaluate import Config, plan, run
from tokenunify_scale.volumes.hdf5 import write_hdf5

QUIET = {"neurons": "off", "viewer": "off"}
FIB25 = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "fib25_train2_labeled.h5"


@pytest.fixture
def source(tmp_path):
    """A file of raw, labels, and a segmentation with one error, of 6 sections."""
    generator = np.random.default_rng(0)
    labels = np.kron(np.arange(1, 7).reshape(1, 2, 3), np.ones((6, 20, 20), int)).astype(np.uint32)
    wrong = labels.copy()
    wrong[3:, :20, :20] = 77
    raw = generator.integers(0, 256, labels.shape).astype(np.uint8)
    facts = {"resolution_nm": [40, 8, 8]}
    write_hdf5(
        tmp_path / "source.h5",
        {"raw": raw, "labels": labels, "wrong": wrong, "short": labels[:, :, :59]},
        attributes={name: facts for name in ("raw", "labels", "wrong", "short")},
    )
    return f"{tmp_path}/source.h5"


def colours(path):
    return len(np.unique(imread(path).reshape(-1, 4), axis=0))


def test_a_volume_is_scored_and_drawn(tmp_path, source):
    out = tmp_path / "out"
    result = run(
        Config(
            segmentation=f"{source}:wrong",
            labels=f"{source}:labels",
            raw=f"{source}:raw",
            out=out,
            **QUIET,
        )
    )
    assert json.loads((out / "result.json").read_text())["metrics"] == result["metrics"]
    assert result["metrics"]["voi_split"] == pytest.approx(1 / 6)
    assert result["metrics"]["voi_merge"] == pytest.approx(0)
    assert result["voxel_size"] == [40, 8, 8]
    assert colours(out / "sections.png") > 100 and colours(out / "errors.png") > 100


def test_sections_are_counted_in_the_source_volume(tmp_path, source):
    config = Config(
        segmentation=f"{source}:wrong",
        labels=f"{source}:labels",
        sections=(3, 6),
        out=tmp_path,
        **QUIET,
    )
    assert run(config)["metrics"]["voi"] == pytest.approx(0)


def test_a_segmentation_with_an_offset_is_compared_where_it_lies(tmp_path, source):
    labels = np.ones((2, 40, 60), np.uint64)
    labels[1] = 2
    whole = np.full((6, 40, 60), 9, np.uint64)
    whole[2:4] = labels
    write_hdf5(f"{tmp_path}/whole.h5", {"labels": whole})
    folder = tmp_path / "segment"
    affinities = np.random.default_rng(0).random((3, 2, 40, 60)).astype(np.float32)
    place = {"offset": [2, 0, 0]}
    told = {"offsets": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "axes": "czyx", **place}
    write_hdf5(
        folder / "segmentation.h5",
        {"segmentation": labels, "fragments": labels},
        attributes={"segmentation": place},
    )
    write_hdf5(
        folder / "affinities.h5", {"affinities": affinities}, attributes={"affinities": told}
    )
    config = Config(
        segmentation=str(folder),
        labels=f"{tmp_path}/whole.h5:labels",
        raw=f"{source}:raw",
        affinities=str(folder),
        out=tmp_path / "out",
        **QUIET,
    )
    assert plan(config) == {"start": [2, 0, 0], "stop": [4, 40, 60], "scored": True}
    assert run(config)["metrics"]["voi"] == pytest.approx(0)
    with pytest.raises(ConfigError, match="sections 0:3 must be within 2:4"):
        plan(Config(segmentation=str(folder), sections=(0, 3)))


def test_without_labels_segments_are_counted_and_drawn(tmp_path, source):
    words = {"segmentation": f"{source}:wrong", "raw": f"{source}:raw", **QUIET}
    result = run(Config(**words, out=tmp_path / "out"))
    assert result["metrics"] == {"segments": 7, "background_fraction": 0.0}
    assert (tmp_path / "out" / "sections.png").is_file()
    assert not (tmp_path / "out" / "errors.png").exists()


def test_labels_of_another_shape_are_refused_with_both_shapes(tmp_path, source):
    config = Config(segmentation=f"{source}:wrong", labels=f"{source}:short", out=tmp_path / "out")
    for step in (plan, run):
        with pytest.raises(DataError, match=r"\(6, 40, 59\).*\(6, 40, 60\)"):
            step(config)
    assert not (tmp_path / "out").exists()


def test_labels_of_background_only_end_in_one_line(tmp_path, source):
    write_hdf5(f"{tmp_path}/empty.h5", {"labels": np.zeros((6, 40, 60), np.uint8)})
    config = Config(segmentation=f"{source}:wrong", labels=f"{tmp_path}/empty.h5", out=tmp_path)
    with pytest.raises(DataError, match="all background"):
        run(config)


@pytest.mark.skipif(not FIB25.is_file(), reason="needs ../shared/data/fib25_train2_labeled.h5")
def test_the_oversegmentation_of_fib25_scores_as_its_description_says(tmp_path):
    config = Config(
        segmentation=f"{FIB25}:supervoxels", labels=f"{FIB25}:labels", out=tmp_path / "out", **QUIET
    )
    metrics = run(config)["metrics"]
    assert metrics["voi_split"] == pytest.approx(2.41, abs=0.01)
    assert metrics["voi_merge"] == pytest.approx(0.33, abs=0.01)


@pytest.mark.skipif(not FIB25.is_file(), reason="needs ../shared/data/fib25_train2_labeled.h5")
def test_the_ffn_result_of_fib25_scores_as_described_where_it_is_not_background(tmp_path):
    config = Config(
        segmentation=f"{FIB25}:ffn_segmentation",
        labels=f"{FIB25}:labels",
        ignore_segment=0,
        out=tmp_path / "out",
        **QUIET,
    )
    metrics = run(config)["metrics"]
    assert metrics["voi_split"] == pytest.approx(0.61, abs=0.01)
    assert metrics["voi_merge"] == pytest.approx(0.26, abs=0.01)
    assert metrics["background_fraction"] == pytest.approx(0.1125, abs=1e-3)


def test_what_is_wrong_is_told_and_drawn_by_the_command_line(tmp_path, source, tokenunify):
    out = tmp_path / "out"
    words = ["--segmentation", f"{source}:wrong", "--labels", f"{source}:labels", "--out", out]
    words += ["--units", "nats", "--border", "widened", "--worst", 3, "--neurons", "77,1"]
    done = tokenunify("evaluate", *words)
    assert done.returncode == 0, done.stderr
    assert "split object" in done.stdout
    result = json.loads((out / "result.json").read_text())
    assert result["neurons"] == {"77": "chosen", "1": "chosen"}
    assert result["convention"]["border"] == "widened" and result["convention"]["units"] == "nats"
    (split,) = (out / "errors.csv").read_text().splitlines()[1:]
    assert split.startswith("split,1,") and colours(out / "neurons.png") > 100
    assert (out / "viewer.html").is_file() and (out / "errors.md").is_file()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.*no such folder"):
        plan(Config(segmentation=str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    "words, message",
    [
        ({}, "give --segmentation, or --rollout or --reconstruct with --raw.*got none"),
        ({"segmentation": "s.h5:ids", "rollout": Path("runs/p")}, "got segmentation, rollout"),
        ({"rollout": Path("a"), "reconstruct": (Path("a"),)}, "got rollout, reconstruct"),
        ({"reconstruct": (Path("a"),)}, "needs --raw, a volume, or --images"),
        ({"reconstruct": (Path("a"),), "raw": "a.h5", "images": "b"}, "and not both"),
        ({"segmentation": "s.h5:ids", "images": "b"}, "--images goes with --reconstruct"),
        ({"reconstruct": (Path("a"),), "images": "b", "sections": (0, 2)}, "has no --sections"),
        (
            {"segmentation": "s.h5:ids", "ratio": 0.0},
            r"ratio must be in \(0, 1\), got 0.25 and 0.0",
        ),
        ({"segmentation": "s.h5:ids", "prefixes": 0}, "got 8, 1 and 0"),
        ({"rollout": Path("runs/p")}, "--rollout needs --raw"),
        ({"segmentation": "s.h5:ids", "prefix": 1.0}, r"must be in \(0, 1\), got 1.0 and 0.75"),
        ({"segmentation": "s.h5:ids", "crops": 0}, "got 0, 1 and 8"),
        ({"segmentation": "s.h5:ids", "worst": -1}, "worst must be >= 0, got -1"),
        (
            {"segmentation": "s.h5:ids", "border": "widened", "ignore_label": None},
            "border_voxels >= 1 and ignore_label 0, got 1 and None",
        ),
    ],
)
def test_what_is_no_evaluation_or_two_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        Config(**words)


def test_a_pretrained_run_is_rolled_out_by_the_command_line(tmp_path, demo, pretrained, tokenunify):
    raw, out = f"{demo}/volume/synthetic.h5:raw", tmp_path / "out"
    words = ["--rollout", pretrained, "--raw", raw, "--crops", 2, "--prefix", 0.5, "--every", 4]
    done = tokenunify("evaluate", *words, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "psnr_sequential" in done.stdout
    result = json.loads((out / "result.json").read_text())
    assert result["verb"] == "evaluate" and result["objective"] == "tokenunify"
    assert result["patch"] == [4, 8, 8] and result["crop"] == [8, 32, 32]
    assert result["patches_shown"] == 16 and result["forward_passes_a_crop"] == 4
    metrics = result["metrics"]
    for name in ("sequential", "at_once"):
        low, high = metrics[f"exponent_{name}_interval"]
        assert low <= metrics[f"exponent_{name}"] <= high and 5 < metrics[f"psnr_{name}"] < 40
    assert len((out / "rollout.csv").read_text().splitlines()) == 17
    assert colours(out / "rollout.png") > 100


def test_a_rollout_is_planned_without_computing(pretrained, demo, tmp_path):
    raw = f"{demo}/volume/synthetic.h5:raw"
    config = Config(rollout=pretrained, raw=raw, every=3, out=tmp_path / "out")
    found = plan(config)
    assert found["patches_predicted"] == 24 and found["forward_passes_a_crop"] == 8
    assert not (tmp_path / "out").exists()


def test_runs_are_compared_by_the_command_line(tmp_path, demo, pretrained, tokenunify):
    raw, out = f"{demo}/volume/synthetic.h5:raw", tmp_path / "out"
    again = tmp_path / "again"
    shutil.copytree(pretrained, again)
    words = ["--reconstruct", pretrained, again, "--raw", raw, "--crops", 2, "--prefixes", 2]
    done = tokenunify("evaluate", *words, "--sections", "4:16", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "next-all" in done.stdout and "mean of the visible" in done.stdout
    result = json.loads((out / "result.json").read_text())
    assert list(result["metrics"]) == ["pretrained", "again"]
    metrics = result["metrics"]["pretrained"]
    assert metrics == result["metrics"]["again"] and 5 < metrics["next_all_psnr"] < 40
    assert result["runs"]["again"]["patch"] == [4, 8, 8]
    assert len((out / "reconstruct.csv").read_text().splitlines()) == 5
    assert colours(out / "reconstruct.png") > 100


def test_a_comparison_is_planned_without_computing(pretrained, demo, tmp_path):
    raw = f"{demo}/volume/synthetic.h5:raw"
    found = plan(Config(reconstruct=(pretrained,), raw=raw, out=tmp_path / "out"))
    assert found["runs"]["pretrained"]["patches"] == 32 and found["ratio"] == 0.75
    assert not (tmp_path / "out").exists()
