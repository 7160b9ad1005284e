import json

import pytest

from tokenunify_scale.config import DataError, dump_yaml
from tokenunify_scale.hub.settings import POSTPROCESSOR, PREPROCESSOR, scored_model, told, used


@pytest.fixture
def study(tmp_path):
    """Folders of a prediction, a segmentation with several thresholds, and its evaluation."""

    def write(folder, name, content):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)

    segmentation = {
        "affinities": str(tmp_path / "predict"),
        "postprocess": {"name": "waterz", "threshold": [0.6, 0.3], "scoring": "q75", "bins": None},
        "min_size": 50,
        "dissolve": "nearest",
    }
    (tmp_path / "model").mkdir()
    prediction = {"model": str(tmp_path / "model"), "tile": [8, 32, 32], "overlap": None}
    prediction["tta"] = "none"
    write("predict", "config.yaml", dump_yaml(prediction))
    write("segment", "config.yaml", dump_yaml(segmentation))

    def evaluation(dataset):
        scored = f"{tmp_path / 'segment'}" + (f"/segmentation.h5:{dataset}" if dataset else "")
        facts = {"verb": "evaluate", "segmentation": scored, "voxel_size": [35.0, 8.0, 8.0]}
        write("evaluate", "result.json", json.dumps(facts))
        return tmp_path / "evaluate"

    return evaluation


@pytest.mark.parametrize(
    "dataset, threshold", [("", 0.6), ("segmentation", 0.6), ("segmentation_0.3", 0.3)]
)
def test_the_threshold_that_was_scored_and_the_tiles_are_told(study, dataset, threshold):
    before, after = used(study(dataset))
    assert after == {
        "name": "waterz", "threshold": threshold, "scoring": "q75", "min_size": 50,
        "dissolve": "nearest",
    }  # fmt: skip
    assert before == {"voxel_size": [35.0, 8.0, 8.0], "tile": [8, 32, 32], "tta": "none"}


def test_of_folders_that_are_gone_nothing_is_told(study, tmp_path):
    folder = study("segmentation")
    (tmp_path / "segment" / "config.yaml").unlink()
    assert used(folder) == ({"voxel_size": [35.0, 8.0, 8.0]}, {})


def test_an_export_tells_what_predict_and_segment_take(study, tmp_path):
    before, after = used(study("segmentation_0.3"))
    (tmp_path / PREPROCESSOR).write_text(json.dumps({"axes": "bczyx", **before}))
    (tmp_path / POSTPROCESSOR).write_text(json.dumps(after))
    predict, segment = told(tmp_path)
    assert predict == {"tile": [8, 32, 32], "tta": "none"}
    assert segment == {
        "postprocess": {"name": "waterz", "threshold": 0.3, "scoring": "q75"},
        "min_size": 50,
        "dissolve": "nearest",
    }


def test_a_run_tells_nothing_and_a_damaged_file_is_named(tmp_path):
    assert told(tmp_path) == ({}, {})
    (tmp_path / POSTPROCESSOR).write_text("{")
    with pytest.raises(DataError, match=f"{POSTPROCESSOR}: damaged"):
        told(tmp_path)


def test_the_model_that_was_scored_is_known_as_long_as_it_is_there(study, tmp_path):
    folder = study("segmentation")
    assert scored_model(folder) == tmp_path / "model"
    (tmp_path / "model").rmdir()
    assert scored_model(folder) is None
