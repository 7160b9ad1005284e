import math
from types import SimpleNamespace

import pytest
import torch

from tokenunify_scale.config import ConfigError, DivergedError
from tokenunify_scale.train.engine import Step
from tokenunify_scale.train.loop import Training, deepspeed_config, summarise, train
from tokenunify_scale.train.optim import OptimConfig, learning_rate
from tokenunify_scale.train.runlog import RunFolder, read_metrics


class Fake:
    """An engine that remembers what it was asked, with losses given beforehand."""

    def __init__(self, losses, accumulation=1):
        self.losses, self.accumulation, self.micro_batch = losses, accumulation, 2
        self.world = SimpleNamespace(rank=0, size=1, is_main=True)
        self.asked, self.saved = [], []

    def step(self, batches, *, lr, progress):
        self.asked.append((len(batches), lr, progress))
        loss = torch.tensor(self.losses[len(self.asked) - 1])
        return Step(loss, {"random": torch.tensor([3.0, 2.0]), "next": torch.zeros(2)}, 0.5)

    def save(self, folder, *, tag, state):
        (folder / tag).mkdir(parents=True)
        self.saved.append(state["step"])

    def load(self, folder, *, tag):
        return {"step": int(tag.removeprefix("step-"))}


def endless(**place):
    endless.place = place
    while True:
        yield {"crops": torch.zeros(2, 1, 2, 2, 2)}


def run_folder(tmp_path):
    return RunFolder.create(tmp_path, verb="pretrain", config={})


def test_steps_logs_and_checkpoints_come_when_they_should(tmp_path):
    engine, training = Fake([1.0] * 5), Training(steps=5, log_every=2, save_every=3)
    metrics = train(engine, endless, training=training, run=run_folder(tmp_path), description="")
    assert [r["step"] for r in read_metrics(tmp_path)] == [2, 4, 5]
    assert engine.saved == [3, 5] and (tmp_path / "latest").read_text() == "step-00000005\n"
    assert metrics["loss"] == 1.0 and metrics["random"] == 1.5
    assert metrics["next"] is None, "no sample had this term: that is not a loss of 0"
    assert [progress for _, _, progress in engine.asked] == [0, 0.2, 0.4, 0.6, 0.8]


def test_a_run_goes_on_behind_its_checkpoint_with_the_same_schedule(tmp_path):
    run = run_folder(tmp_path)
    (tmp_path / "checkpoints" / "step-00000003").mkdir(parents=True)
    (tmp_path / "latest").write_text("step-00000003\n")
    for step in (2, 3, 4):
        run.log(step=step, loss=0.0)
    engine, training = Fake([1.0] * 9), Training(steps=6, log_every=1, global_batch=4)
    train(engine, endless, training=training, run=run, description="")
    assert [r["step"] for r in read_metrics(tmp_path)] == [2, 3, 4, 5, 6]
    assert len(engine.asked) == 3
    assert engine.asked[0][1] == learning_rate(OptimConfig(), step=3, steps=6)


def test_the_stream_is_opened_at_the_position_of_the_checkpoint(tmp_path):
    run, seen = run_folder(tmp_path), {}
    (tmp_path / "checkpoints" / "step-00000002").mkdir(parents=True)
    (tmp_path / "latest").write_text("step-00000002\n")

    def opened(**place):
        seen.update(place)
        return endless()

    train(Fake([1.0] * 9), opened, training=Training(steps=3, global_batch=4), run=run,
          description="")  # fmt: skip
    assert seen == {"start": 8, "global_batch": 4, "rank": 0, "world": 1, "micro": 2}


def test_a_finished_run_trains_no_further_and_reports_its_last_line(tmp_path):
    training = Training(steps=2, log_every=1)
    train(Fake([1.0, 0.5]), endless, training=training, run=run_folder(tmp_path), description="")
    engine = Fake([])
    again = train(engine, endless, training=training, run=run_folder(tmp_path), description="")
    assert again["loss"] == 0.5 and not engine.asked


def test_accumulation_takes_that_many_micro_batches_a_step(tmp_path):
    engine = Fake([1.0] * 2, accumulation=3)
    train(engine, endless, training=Training(steps=2), run=run_folder(tmp_path), description="")
    assert [count for count, _, _ in engine.asked] == [3, 3]


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_what_was_saved(tmp_path):
    engine, training = Fake([1.0, 1.0, math.nan]), Training(steps=9, log_every=1, save_every=1)
    with pytest.raises(DivergedError, match="step 3"):
        train(engine, endless, training=training, run=run_folder(tmp_path), description="")
    assert (tmp_path / "latest").read_text() == "step-00000002\n"


def test_means_weigh_samples_not_batches():
    steps = [
        Step(torch.tensor(1.0), {"next": torch.tensor([4.0, 1.0])}, 1.0),
        Step(torch.tensor(3.0), {"next": torch.tensor([2.0, 2.0])}, 3.0),
    ]
    assert summarise(steps) == {"loss": 2.0, "next": 2.0, "grad_norm": 2.0}


def test_the_strategy_is_the_sizes_unless_another_is_named():
    assert deepspeed_config(Training(), size="huge", world=8)["zero_optimization"]["stage"] == 3
    config = deepspeed_config(Training(strategy="atto", zero=2), size="huge", world=8)
    assert config["zero_optimization"]["stage"] == 2
    with pytest.raises(ConfigError, match="5 ranks"):
        deepspeed_config(Training(global_batch=8), size="atto", world=5)


def test_a_checkpoint_is_not_written_over_good_ones_once_the_loss_is_no_number(tmp_path):
    engine, training = Fake([1.0, math.nan, 1.0]), Training(steps=3, log_every=3, save_every=1)
    with pytest.raises(DivergedError, match="step 2"):
        train(engine, endless, training=training, run=run_folder(tmp_path), description="")
    assert engine.saved == [1]
