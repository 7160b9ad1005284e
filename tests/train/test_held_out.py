import os
import signal

import pytest
import torch

from tests.train.fake_engine import FakeEngine, counting, fake_train, run_folder
from tokenunify_scale.config import ConfigError, Stopped
from tokenunify_scale.train.engine import Step
from tokenunify_scale.train.held_out import HeldOut, means, micro_batch
from tokenunify_scale.train.runlog import read_metrics
from tokenunify_scale.train.training import Training


def run(path, engine, *, every, steps=5):
    held_out = HeldOut(open_batches=counting, crops=4, every=every)
    training = Training(steps=steps, log_every=2, save_every=2, global_batch=2)
    folder = run_folder(path)
    return fake_train(engine, counting, training=training, run=folder, held_out=held_out)


def test_the_same_crops_are_measured_at_both_ends_and_every_so_often(tmp_path):
    engine = FakeEngine([1.0] * 5)
    metrics = run(tmp_path, engine, every=3)
    records = read_metrics(tmp_path)
    assert [r["step"] for r in records] == [0, 2, 3, 4, 5]
    assert [r["step"] for r in records if "held_out_loss" in r] == [0, 3, 5]
    assert [positions for positions, _ in engine.evaluated] == [[0, 1], [2, 3]] * 3
    assert [progress for _, progress in engine.evaluated] == [0, 0, 0.6, 0.6, 1, 1]
    assert metrics["held_out_loss"] == metrics["held_out_random"] == 1.5
    assert metrics["loss"] == 1, "what is trained on is told apart"


def test_a_run_that_goes_on_measures_what_is_still_due(tmp_path):
    with pytest.raises(KeyError):
        run(tmp_path, FakeEngine({0: 1.0, 2: 1.0, 4: 1.0, 6: 1.0}.__getitem__), every=2)
    engine = FakeEngine([1.0])
    run(tmp_path, engine, every=2)
    assert [progress for _, progress in engine.evaluated] == [1, 1]
    assert [r["step"] for r in read_metrics(tmp_path)] == [0, 2, 4, 5]


def test_a_run_that_begins_anew_forgets_what_was_measured_before_its_first_step(tmp_path):
    with pytest.raises(KeyError):
        run(tmp_path, FakeEngine({}.__getitem__), every=5)
    run(tmp_path, FakeEngine([1.0] * 5), every=5)
    assert [r["step"] for r in read_metrics(tmp_path)] == [0, 2, 4, 5]


def test_a_signal_ends_the_measurement_and_the_step_before_it_is_saved(tmp_path):
    class Interrupted(FakeEngine):
        def evaluate(self, batch, *, progress):
            found = super().evaluate(batch, progress=progress)
            if progress == 0.6:
                os.kill(os.getpid(), signal.SIGTERM)
            return found

    engine = Interrupted([1.0] * 5)
    with pytest.raises(Stopped, match="SIGTERM: stopped after step 3 of 5"):
        run(tmp_path, engine, every=3)
    assert engine.saved == [2, 3]
    assert len([1 for _, progress in engine.evaluated if progress == 0.6]) == 1
    assert "held_out_loss" not in read_metrics(tmp_path)[-1]


@pytest.mark.parametrize(
    ("crops", "world", "most", "micro"), [(32, 1, 8, 8), (30, 2, 8, 5), (4, 4, 8, 1), (7, 1, 4, 1)]
)
def test_ranks_share_the_crops_in_the_largest_equal_micro_batches(crops, world, most, micro):
    assert micro_batch(crops, world=world, most=most) == micro


@pytest.mark.parametrize("crops", [1, 5])
def test_crops_that_ranks_cannot_share_are_refused(crops):
    with pytest.raises(ConfigError, match=f"held_out_crops {crops} is not a multiple of 2 ranks"):
        micro_batch(crops, world=2, most=8)


def test_a_term_without_samples_has_no_mean():
    steps = [Step(torch.tensor(2.0), {"next": torch.zeros(2)}, 0.0)] * 2
    assert means(steps) == {"loss": 2.0, "next": None}
