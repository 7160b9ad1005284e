import math
import os
import signal

import pytest
import torch

from tests.train.fake_engine import FakeEngine, counting, fake_train, run_folder
from tokenunify_scale.config import DivergedError, Stopped
from tokenunify_scale.train.engine import Step
from tokenunify_scale.train.guard import GuardConfig
from tokenunify_scale.train.loop import summarise
from tokenunify_scale.train.optim import OptimConfig, learning_rate
from tokenunify_scale.train.runlog import read_metrics
from tokenunify_scale.train.training import Training

NAN = math.nan


def go(path, engine, open_batches=counting, **settings):
    settings = {"global_batch": 2, "log_every": 1, **settings}
    training, run = Training(**settings), run_folder(path)
    return fake_train(engine, open_batches, training=training, run=run)


def steps_of(path):
    return [record["step"] for record in read_metrics(path)]


def test_steps_logs_and_checkpoints_come_when_they_should(tmp_path):
    engine = FakeEngine([1.0] * 5)
    metrics = go(tmp_path, engine, steps=5, log_every=2, save_every=3)
    assert steps_of(tmp_path) == [2, 4, 5]
    assert engine.saved == [3, 5] and (tmp_path / "latest").read_text() == "step-00000005\n"
    assert metrics["loss"] == 1.0 and metrics["random"] == 1.5
    assert metrics["next"] is None, "no sample had this term: that is not a loss of 0"
    assert [progress for _, _, progress in engine.asked] == [0, 0.2, 0.4, 0.6, 0.8]


def test_a_run_goes_on_behind_its_checkpoint_with_the_same_schedule_and_data(tmp_path):
    settings = {"steps": 6, "save_every": 3}
    with pytest.raises(KeyError):
        go(tmp_path, FakeEngine({0: 1.0, 2: 1.0, 4: 1.0, 6: 1.0}.__getitem__), **settings)
    assert steps_of(tmp_path) == [1, 2, 3, 4]
    engine = FakeEngine([1.0] * 3)
    go(tmp_path, engine, **settings)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert engine.applied == [6, 8, 10]
    assert engine.asked[0][1] == learning_rate(OptimConfig(), step=3, steps=6)


def test_a_finished_run_trains_no_further_and_reports_its_last_line(tmp_path):
    go(tmp_path, FakeEngine([1.0, 0.5]), steps=2)
    engine = FakeEngine([])
    again = go(tmp_path, engine, steps=2)
    assert again["loss"] == 0.5 and not engine.asked


def test_accumulation_takes_that_many_micro_batches_a_step(tmp_path):
    engine = FakeEngine([1.0] * 2, accumulation=3)
    go(tmp_path, engine, steps=2, global_batch=6)
    assert [count for count, _, _ in engine.asked] == [3, 3]


def test_a_loss_that_is_no_number_is_skipped_and_counted(tmp_path, capfd):
    engine = FakeEngine([1.0, NAN, 2.0, 4.0])
    metrics = go(tmp_path, engine, steps=4, log_every=4)
    assert engine.applied == [0, 4, 6]
    assert metrics["loss"] == pytest.approx(7 / 3), "only of steps that were taken"
    assert read_metrics(tmp_path)[0]["steps_skipped"] == 1
    assert "step 2 skipped: the loss is nan" in capfd.readouterr().err


def test_after_several_in_a_row_the_run_goes_back_and_leaves_their_data_out(tmp_path, capfd):
    # The data from position 8 to 13 gives no numbers; the newest save is of step 4, position 8.
    engine = FakeEngine(lambda place: NAN if 8 <= place < 14 else 1.0)
    settings = {"steps": 10, "save_every": 2, "guard": GuardConfig(patience=2)}
    go(tmp_path, engine, **settings)
    # Steps 5 and 6 failed on 8 and 10, then on 12 and 14 once: the second is good again.
    assert engine.applied == [0, 2, 4, 6, 14, 16, 18, 20, 22]
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert "going back to step 4" in capfd.readouterr().err


def test_a_run_that_went_back_reads_the_same_data_when_it_is_resumed(tmp_path):
    def bad(place):
        if place == 18:
            raise KeyError
        return NAN if 8 <= place < 12 else 1.0

    settings = {"steps": 8, "save_every": 2, "guard": GuardConfig(patience=2)}
    with pytest.raises(KeyError):
        go(tmp_path, FakeEngine(bad), **settings)
    engine = FakeEngine(lambda place: 1.0)
    go(tmp_path, engine, **settings)
    assert engine.applied == [16, 18], "steps 7 and 8, two batches further on"


def test_a_run_that_goes_back_in_vain_has_diverged_and_keeps_its_saves(tmp_path):
    engine = FakeEngine(lambda place: NAN if place >= 4 else 1.0)
    settings = {"steps": 9, "save_every": 1, "guard": GuardConfig(patience=2, limit=2)}
    with pytest.raises(DivergedError, match="the loss is nan, and the run went back 2 of at most"):
        go(tmp_path, engine, **settings)
    assert (tmp_path / "checkpoints" / "step-00000001").is_dir()


def test_without_a_save_there_is_nothing_to_go_back_to(tmp_path):
    with pytest.raises(DivergedError, match="step 5: the loss is nan, and there is no save"):
        go(tmp_path, FakeEngine([NAN] * 9), steps=9)


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_saves_the_step_at_hand_and_the_run_goes_on_from_there(asked, tmp_path):
    def loss(place):
        if place == 4:
            os.kill(os.getpid(), asked)
        return 1.0

    engine = FakeEngine(loss)
    with pytest.raises(Stopped, match=f"{asked.name}: stopped after step 3 of 5") as caught:
        go(tmp_path, engine, steps=5)
    assert caught.value.exit_code == 75 and engine.saved == [3]
    go(tmp_path, engine := FakeEngine([1.0] * 2), steps=5)
    assert engine.applied == [6, 8] and steps_of(tmp_path) == [1, 2, 3, 4, 5]


def test_a_signal_in_the_last_step_lets_the_run_finish(tmp_path):
    engine = FakeEngine(lambda place: os.kill(os.getpid(), signal.SIGTERM) or 1.0)
    assert go(tmp_path, engine, steps=1)["loss"] == 1.0
    assert engine.saved == [1]


def test_amid_bad_steps_nothing_is_saved_and_what_was_due_comes_after(tmp_path):
    engine = FakeEngine([1.0, NAN, NAN, 1.0, 1.0])
    go(tmp_path, engine, steps=5, save_every=2)
    assert engine.saved == [4, 5]


def test_means_weigh_samples_not_batches():
    steps = [
        Step(torch.tensor(1.0), {"next": torch.tensor([4.0, 1.0])}, 1.0),
        Step(torch.tensor(3.0), {"next": torch.tensor([2.0, 2.0])}, 3.0),
    ]
    assert summarise(steps) == {"loss": 2.0, "next": 2.0, "grad_norm": 2.0}
