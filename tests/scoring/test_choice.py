"""The choice among thresholds: on other sections than those that are scored."""

import json

import numpy as np
import pytest

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.scoring import Choice, Scoring
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import write_hdf5

QUIET = {"viewer": "off", "neurons": "off"}


@pytest.fixture
def arrays():
    """Two objects in 6 sections; one segmentation is right in the first half, one in the second."""
    labels = np.ones((6, 20, 20), np.uint64)
    labels[:, 10:] = 2
    early, late = labels.copy(), labels.copy()
    early[3:], late[:3] = 1, 1
    return {"labels": labels, "segmentation": late, "segmentation_0.3": early}


@pytest.fixture
def folder(tmp_path, arrays):
    """A segment folder of two thresholds, beside its labels."""
    labels = arrays.pop("labels")
    write_hdf5(tmp_path / "a.h5", {"labels": labels})
    write_hdf5(tmp_path / "segmentation.h5", arrays)
    told = {"thresholds": {"segmentation": 0.5, "segmentation_0.3": 0.3}}
    (tmp_path / "result.json").write_text(json.dumps(told))
    return tmp_path


def scoring(folder, **changes):
    words = {"segmentation": str(folder), "labels": f"{folder}/a.h5:labels", **QUIET}
    return Scoring(**{**words, **changes})


def test_what_is_best_on_the_sections_of_the_choice_is_scored_on_the_others(folder):
    result = Choice(scoring=scoring(folder, sections=(3, 6)), sections=(0, 3)).run(folder)
    assert result["choice"]["segmentation"] == "segmentation_0.3"
    assert result["choice"]["voi"] == pytest.approx({"segmentation": 1, "segmentation_0.3": 0})
    # It was right where it was chosen and is wrong here: the score is that of here.
    assert result["metrics"]["voi"] == pytest.approx(1) and result["start"] == [3, 0, 0]
    assert result["segmentation"].endswith("segmentation.h5:segmentation_0.3")


def test_of_equal_ones_the_first_that_was_asked_for_is_taken(folder, arrays):
    same = dict.fromkeys(("segmentation", "segmentation_0.3"), arrays["segmentation"])
    write_hdf5(folder / "segmentation.h5", same)
    result = Choice(scoring=scoring(folder, sections=(3, 6)), sections=(0, 3)).run(folder)
    assert result["choice"]["segmentation"] == "segmentation"


def test_arrays_of_a_folder_are_chosen_among_too(folder, arrays):
    (folder / "segmentation.h5").unlink()
    whole = Box.of((6, 20, 20))
    for name in ("segmentation", "segmentation_0.3"):
        store = Boxed.create(folder / f"{name}.zarr", shape=whole.shape, dtype=np.uint64,
                             chunk=(16, 32, 32), attributes={})  # fmt: skip
        store.write(whole, arrays[name])
    result = Choice(scoring=scoring(folder, sections=(0, 3)), sections=(3, 6)).run(folder)
    assert result["choice"]["segmentation"] == "segmentation"


def test_the_plan_names_what_there_is_and_refuses_sections_that_are_not(folder):
    choice = Choice(scoring=scoring(folder, sections=(3, 6)), sections=(0, 3))
    plan = choice.plan()
    assert plan["start"] == [3, 0, 0] and plan["chosen_on"] == [0, 3]
    assert plan["candidates"] == ["segmentation", "segmentation_0.3"]
    with pytest.raises(ConfigError, match="sections"):
        Choice(scoring=scoring(folder, sections=(3, 6)), sections=(6, 9)).plan()


@pytest.mark.parametrize("sections", [None, (2, 6), (0, 3)])
def test_a_choice_on_what_is_scored_is_refused(folder, sections):
    with pytest.raises(ConfigError, match="--choose 0:3 must not be among the scored"):
        Choice(scoring=scoring(folder, sections=sections), sections=(0, 3))


def test_a_choice_needs_labels_and_a_finished_folder(folder):
    with pytest.raises(ConfigError, match="--choose compares scores: it needs --labels"):
        Choice(scoring=scoring(folder, labels=None, sections=(3, 6)), sections=(0, 3))
    (folder / "result.json").unlink()
    with pytest.raises(DataError, match="is no finished segment folder"):
        Choice(scoring=scoring(folder, sections=(3, 6)), sections=(0, 3)).plan()
