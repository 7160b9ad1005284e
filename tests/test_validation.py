import numpy as np
import pytest
import torch

from tests.train.fake_engine import FakeEngine
from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.models.tiling import Windows
from tokenunify_scale.objectives.affinity import PREDICTION, AffinityConfig
from tokenunify_scale.train.distributed import World
from tokenunify_scale.train.engine import Step
from tokenunify_scale.validation import Validation, ValidationConfig, region_of
from tokenunify_scale.volumes.geometry import Box, tiles
from tokenunify_scale.volumes.hdf5 import write_hdf5

SHAPE = (12, 30, 40)


def objects(dtype=np.uint64) -> np.ndarray:
    """Four bars through all sections, with gaps between them; one has an id above 2^53."""
    labels = np.zeros(SHAPE, dtype)
    labels[:, 1:14, 1:19], labels[:, 1:14, 21:39] = 7, 9
    labels[:, 16:29, 1:19], labels[:, 16:29, 21:39] = 2**63 + 1, 2**63 + 2
    return labels


@pytest.fixture
def cube(tmp_path):
    """A volume bright in objects, and its labels."""
    labels = objects()
    path = tmp_path / "cube.h5"
    write_hdf5(path, {"raw": np.where(labels, 255, 0).astype(np.uint8), "labels": labels},
               attributes=None)  # fmt: skip
    return {"volume": [f"{path}:raw"], "labels": [f"{path}:labels"]}


class Network(FakeEngine):
    """Predicts that bright voxels are joined to their neighbours, and others are not."""

    def __init__(self, channels=3, rank=0, size=1, bright=1.0):
        super().__init__([])
        self.channels, self.bright, self.calls = channels, bright, 0
        self.world = World(rank, size, 0, torch.device("cpu"))

    def evaluate(self, batch, *, progress):
        self.calls += 1
        assert batch.keys() == {"crops"} and batch["crops"].dtype == torch.uint8
        found = self.bright * (batch["crops"] > 0).float().expand(-1, self.channels, -1, -1, -1)
        return Step(torch.zeros(()), {PREDICTION: found}, 0.0)


def validation(cube, sections=(4, 12), tile=(4, 12, 16), every=3, cuts=(0.3, 0.7), margin=None,
               config=None):  # fmt: skip
    region = region_of(ValidationConfig(), sections, trained=(0, 4), **cube)
    margin = margin or (0, 0, 0)
    look = Windows(tile, (1, 2, 4), margin, (0, 0, 0))
    judge, config = ValidationConfig(thresholds=cuts), config or AffinityConfig()
    return Validation(region, look=look, every=every, judge=judge, config=config)


def measured(found, engine):
    return found.measure(engine, progress=0.5, asked=lambda: None)


def test_a_perfect_prediction_scores_near_perfect_and_names_a_threshold(cube):
    found = measured(validation(cube), Network())
    assert {*found} == {
        "held_out_loss", "held_out_voi", "held_out_voi_split", "held_out_voi_merge",
        "held_out_arand", "held_out_threshold",
    }  # fmt: skip
    assert found["held_out_voi"] < 0.01 and found["held_out_arand"] < 0.01
    assert found["held_out_threshold"] in (0.3, 0.7)
    assert found["held_out_loss"] < 0.1  # the first voxel of an object has no one before it


def test_a_prediction_that_joins_all_scores_as_one_segment(cube):
    class Blind(Network):
        def evaluate(self, batch, *, progress):
            step = super().evaluate(batch, progress=progress)
            return step._replace(parts={PREDICTION: torch.ones_like(step.parts[PREDICTION])})

    found = measured(validation(cube), Blind())
    assert found["held_out_voi"] == pytest.approx(2, abs=0.05)  # four equal objects: 2 bits
    assert found["held_out_voi_split"] == pytest.approx(0, abs=1e-6)


def test_longer_edges_are_predicted_and_compared_too(cube):
    config = AffinityConfig(offsets=((1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0)))
    found = measured(validation(cube, config=config), Network(channels=4))
    assert found["held_out_voi"] < 0.01


def test_a_prediction_that_is_no_number_is_no_score(cube):
    found = measured(validation(cube), Network(bright=float("nan")))
    assert len(found) == 6 and set(found.values()) == {None}


def test_a_signal_leaves_the_rest(cube):
    engine = Network()
    assert validation(cube).measure(engine, progress=0, asked=lambda: "SIGTERM") is None
    assert engine.calls == 1


def test_it_is_due_every_so_often_and_after_the_last_step_but_not_before_the_first(cube):
    found = validation(cube)
    assert [step for step in range(9) if found.due(step, steps=8)] == [3, 6, 8]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 40])
def test_ranks_share_the_tiles_and_call_the_network_equally_often(cube, size):
    found, taken, calls = validation(cube), [], set()
    for rank in range(size):
        shares = list(found._shares(Network(rank=rank, size=size)))
        calls.add(len(shares))
        assert all(boxes and real <= len(boxes) <= 2 for boxes, real in shares)
        taken += [box for boxes, real in shares for box in boxes[:real]]
    every = tiles((8, 30, 40), tile=(4, 12, 16), overlap=(1, 2, 4))
    assert len(calls) == 1 and len(taken) == len(every) and {*taken} == {*every}


def test_what_a_network_sees_beyond_is_read_where_it_is_and_mirrored_where_not(cube):
    class Seeing(Network):
        def evaluate(self, batch, *, progress):
            step = super().evaluate(batch, progress=progress)
            inner = step.parts[PREDICTION][..., 1:-1, 2:-2, 3:-3]
            assert batch["crops"].shape[2:] == (6, 16, 22) and inner.shape[2:] == (4, 12, 16)
            return step._replace(parts={PREDICTION: inner})

    found = measured(validation(cube, margin=(1, 2, 3)), Seeing())
    assert found["held_out_voi"] < 0.01


@pytest.mark.parametrize("wrong", ["shape", "float", "background", "negative"])
def test_labels_that_cannot_be_are_one_line(cube, tmp_path, wrong):
    labels = objects().astype(np.int64) % 100
    labels = {
        "shape": labels[:, :-1],
        "float": labels.astype(np.float32),
        "background": np.zeros_like(labels),
        "negative": labels - 1,
    }[wrong]
    write_hdf5(tmp_path / "wrong.h5", {"labels": labels}, attributes=None)
    expected = {"shape": "its labels", "float": "not float32", "background": "all 0",
                "negative": "is negative"}[wrong]  # fmt: skip
    with pytest.raises(DataError, match=expected):
        validation({**cube, "labels": [f"{tmp_path / 'wrong.h5'}:labels"]})


@pytest.mark.parametrize("trained", [None, (0, 5), (11, 12), (4, 12)])
def test_sections_that_are_trained_on_are_not_validated_on(cube, trained):
    with pytest.raises(ConfigError, match="must not overlap: give --sections 0:4"):
        region_of(ValidationConfig(), (4, 12), trained=trained, **cube)


def test_another_volume_is_taken_whole_and_nothing_is_nothing(cube):
    assert region_of(ValidationConfig(), None, trained=None, **cube) is None
    other = ValidationConfig(volume=cube["volume"][0], labels=cube["labels"][0])
    elsewhere = {"volume": ["synthetic:seed=1,shape=8x32x32"], "labels": ["unused"]}
    region = region_of(other, None, trained=None, **elsewhere)
    assert region.box == Box.of(SHAPE)
    assert region_of(other, (2, 3), trained=None, **elsewhere).box.shape == (1, 30, 40)
    with pytest.raises(ConfigError, match="overlap"):  # the same, named twice
        region_of(other, None, trained=None, **cube)


@pytest.mark.parametrize("sections", [(4, 4), (5, 4), (4, 13)])
def test_sections_that_are_not_there_are_refused(cube, sections):
    with pytest.raises(ConfigError, match="must be within 0 to 12 and not empty"):
        region_of(ValidationConfig(), sections, trained=(0, 2), **cube)


@pytest.mark.parametrize(
    "wrong", [{"volume": "a.h5:raw"}, {"every": 0}, {"thresholds": ()}, {"thresholds": (0.5, 2.0)}]
)
def test_a_request_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="go together|must be"):
        ValidationConfig(**wrong)


def test_a_huge_region_is_warned_of(cube, caplog, monkeypatch):
    monkeypatch.setattr("tokenunify_scale.validation.LARGE", 100)
    validation(cube)
    assert "9,600 voxels needs about 0 GiB on rank 0" in caplog.text
