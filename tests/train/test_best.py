import pytest
import torch

from tests.train.fake_engine import FakeEngine, counting, fake_train, run_folder
from tokenunify_scale.train.best import FOLDER, LAST, Best
from tokenunify_scale.train.checkpoint import (
    WEIGHTS,
    Description,
    read_description,
    read_measured,
    read_weights,
)
from tokenunify_scale.train.training import Training

ABOUT = Description(model={"name": "a"}, in_channels=1, out_channels=3, objective="affinity")


class Trained(FakeEngine):
    """Its one weight is the number of steps that were taken."""

    class objective:  # noqa: N801
        backbone = None

    def weights(self, module):
        return {"steps": torch.tensor(float(len(self.applied))), "extra": torch.zeros(1)}


class Scores:
    """Finds what it was given, every second step."""

    def __init__(self, scores):
        self.scores = scores

    def due(self, step, *, steps):
        return step > 0 and step % 2 == 0

    def measure(self, engine, *, progress, asked):
        step = round(progress * 8)
        return {"held_out_voi": self.scores[step], "held_out_loss": 1.0}


def ship(weights):
    return {name: value for name, value in weights.items() if name != "extra"}


def keeper(path):
    return Best(path, by="held_out_voi", about=ABOUT, ship=ship)


def train(path, scores, losses=(1.0,) * 8, save_every=3):
    training = Training(steps=8, log_every=8, save_every=save_every, global_batch=2)
    folder, best = run_folder(path), keeper(path)
    engine = Trained(list(losses) if isinstance(losses, tuple) else losses)
    fake_train(engine, counting, training=training, run=folder, held_out=Scores(scores), best=best)
    return engine, best


def test_the_weights_of_the_lowest_score_are_the_runs_and_the_last_lie_beside(tmp_path):
    engine, best = train(tmp_path, {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.0})
    assert read_weights(tmp_path / FOLDER)[0]["steps"] == 4  # of equals the first
    found = best.finish(ship(engine.weights(None)), step=8)
    assert found == {"step": 4, "held_out_voi": 1.0, "held_out_loss": 1.0}
    for folder, steps in ((tmp_path, 4), (tmp_path / FOLDER, 4), (tmp_path / LAST, 8)):
        weights, description = read_weights(folder)
        assert weights == {"steps": steps} and description == ABOUT
    assert read_measured(tmp_path) == found and read_measured(tmp_path / LAST) is None


def test_a_run_whose_last_weights_are_best_has_no_others(tmp_path):
    engine, best = train(tmp_path, {2: 3.0, 4: 2.0, 6: 1.5, 8: 1.0})
    assert best.finish(engine.weights(None), step=8)["step"] == 8
    assert not (tmp_path / LAST).exists() and read_weights(tmp_path)[0]["steps"] == 8


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf")])
def test_what_could_not_be_scored_is_never_the_best(tmp_path, nothing):
    engine, best = train(tmp_path, dict.fromkeys((2, 4, 6, 8), nothing))
    assert best.finish(engine.weights(None), step=8) is None
    assert read_weights(tmp_path)[0]["steps"] == 8 and not (tmp_path / FOLDER).exists()


def test_a_run_that_goes_on_keeps_its_best_even_from_behind_its_last_save(tmp_path):
    scores = {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.0}
    with pytest.raises(KeyError):  # killed after step 5, saved after step 3
        train(tmp_path, scores, losses={2 * i: 1.0 for i in range(5)}.__getitem__)
    assert read_measured(tmp_path / FOLDER)["step"] == 4
    engine, best = train(tmp_path, scores, losses=lambda place: 1.0)
    assert engine.applied[0] == 6
    assert best.finish(engine.weights(None), step=8)["step"] == 4


def test_a_run_that_begins_anew_does_not_keep_what_another_left(tmp_path):
    _, best = train(tmp_path, {2: 0.5, 4: 1.0, 6: 2.0, 8: 2.0}, save_every=100)
    best.finish({"steps": torch.zeros(1)}, step=8)
    for path in (tmp_path / "checkpoints").glob("step-*"):
        path.rename(tmp_path / "gone")
    (tmp_path / "latest").unlink()
    _, best = train(tmp_path, {2: 3.0, 4: 2.5, 6: 2.0, 8: 2.0}, save_every=100)
    assert best.found()["step"] == 6 and not (tmp_path / LAST / WEIGHTS).exists()


def test_the_file_can_be_opened_while_the_run_trains(tmp_path):
    best = keeper(tmp_path)
    best.offer(Trained([]), None, step=2, measured={"held_out_voi": 1.0})
    assert read_description(tmp_path / FOLDER) == ABOUT
    best.offer(Trained([]), None, step=4, measured={"held_out_voi": 1.5})
    best.offer(Trained([]), None, step=6, measured={"held_out_loss": 0.1})
    assert best.found()["step"] == 2
