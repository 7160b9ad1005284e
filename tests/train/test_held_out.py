from types import SimpleNamespace

import pytest
import torch

from tokenunify_scale.config import ConfigError
from tokenunify_scale.train.engine import Step
from tokenunify_scale.train.held_out import HeldOut, means, micro_batch
from tokenunify_scale.train.loop import Training, train
from tokenunify_scale.train.runlog import RunFolder, read_metrics


class Fake:
    """An engine whose loss on a batch is the mean of its crops, in training 1."""

    accumulation, micro_batch = 1, 2

    def __init__(self):
        self.world = SimpleNamespace(rank=0, size=1, is_main=True)
        self.seen, self.progress = [], []

    def step(self, batches, *, lr, progress):
        return Step(torch.tensor(1.0), {"random": torch.tensor([1.0, 1.0])}, 0.5)

    def evaluate(self, batch, *, progress):
        self.seen.append(batch["positions"].tolist())
        self.progress.append(progress)
        values = batch["crops"].float().flatten(1).mean(1)
        return Step(values.mean(), {"random": torch.stack([values.sum(), torch.tensor(2.0)])}, 0.0)

    def save(self, folder, *, tag, state):
        (folder / tag).mkdir(parents=True, exist_ok=True)

    def load(self, folder, *, tag):
        return {"step": int(tag.removeprefix("step-"))}


def counting(*, start, global_batch, micro, **place):
    """Crops that hold their position, without end."""
    while True:
        positions = torch.arange(start, start + micro)
        yield {"crops": positions[:, None], "positions": positions}
        start += micro


def run(tmp_path, engine, *, every, steps=5):
    folder = RunFolder.create(tmp_path, verb="pretrain", config={})
    held_out = HeldOut(open_batches=counting, crops=4, every=every)
    training = Training(steps=steps, log_every=2, save_every=2)
    return train(
        engine, counting, training=training, run=folder, description="", held_out=held_out
    )


def test_the_same_crops_are_measured_at_both_ends_and_every_so_often(tmp_path):
    engine = Fake()
    metrics = run(tmp_path, engine, every=3)
    records = read_metrics(tmp_path)
    assert [r["step"] for r in records] == [0, 2, 3, 4, 5]
    assert [r["step"] for r in records if "held_out_loss" in r] == [0, 3, 5]
    assert engine.seen == [[0, 1], [2, 3]] * 3
    assert engine.progress == [0, 0, 0.6, 0.6, 1, 1]
    assert metrics["held_out_loss"] == metrics["held_out_random"] == 1.5
    assert metrics["loss"] == 1, "what is trained on is told apart"


def test_a_run_that_goes_on_measures_what_is_still_due(tmp_path):
    run(tmp_path, Fake(), every=2)
    (tmp_path / "latest").write_text("step-00000004\n")
    engine = Fake()
    run(tmp_path, engine, every=2)
    assert engine.progress == [1, 1]
    assert [r["step"] for r in read_metrics(tmp_path)] == [0, 2, 4, 5]


def test_a_run_that_begins_anew_forgets_what_was_measured_before_its_first_step(tmp_path):
    run(tmp_path, Fake(), every=5)
    (tmp_path / "latest").unlink()
    run(tmp_path, Fake(), every=5)
    assert [r["step"] for r in read_metrics(tmp_path)] == [0, 2, 4, 5]


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
