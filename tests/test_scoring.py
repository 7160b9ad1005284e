"""What is scored of a segmentation, where it lies, and what is drawn."""

import numpy as np
import pytest
from matplotlib.image import imread

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.scoring import Scoring
from tokenunify_scale.volumes.hdf5 import write_hdf5


@pytest.fixture
def source(tmp_path):
    """Two objects in 4 sections of 20 x 20, and a segmentation that merges them."""
    labels = np.ones((4, 20, 20), np.uint8)
    labels[:, 10:] = 2
    merged = np.ones_like(labels)
    write_hdf5(tmp_path / "a.h5", {"labels": labels, "merged": merged, "empty": 0 * labels})
    return f"{tmp_path}/a.h5"


def test_scores_counts_and_pictures_come_from_one_call(tmp_path, source):
    scoring = Scoring(segmentation=f"{source}:merged", labels=f"{source}:labels")
    result = scoring.run(tmp_path)
    assert result["metrics"]["voi_merge"] == pytest.approx(1)
    assert result["metrics"]["voi_split"] == 0
    assert result["metrics"]["segments"] == 1 and result["metrics"]["objects"] == 2
    assert result["stop"] == [4, 20, 20]
    assert imread(tmp_path / "sections.png").size and imread(tmp_path / "errors.png").size


def test_without_labels_nothing_is_scored(tmp_path, source):
    scoring = Scoring(segmentation=f"{source}:labels", sections=(1, 3))
    assert scoring.plan() == {"start": [1, 0, 0], "stop": [3, 20, 20], "scored": False}
    assert scoring.run(tmp_path)["metrics"] == {"segments": 2, "background_fraction": 0.0}
    assert not (tmp_path / "errors.png").exists()


def test_ids_that_are_ignored_do_not_count(tmp_path, source):
    scoring = Scoring(segmentation=f"{source}:merged", labels=f"{source}:labels", ignore_label=2)
    assert scoring.run(tmp_path)["metrics"]["voi"] == 0


def test_what_cannot_be_scored_ends_in_one_line(tmp_path, source):
    with pytest.raises(DataError, match="all background"):
        Scoring(segmentation=f"{source}:labels", labels=f"{source}:empty").run(tmp_path)
    with pytest.raises(ConfigError, match="sections 2:9 must be within 0:4"):
        Scoring(segmentation=f"{source}:labels", sections=(2, 9)).plan()
    with pytest.raises(ConfigError, match="no such folder"):
        Scoring(segmentation=f"{tmp_path}/nowhere").plan()
