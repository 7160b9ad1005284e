import logging
import sys
from types import SimpleNamespace

import pytest

from tokenunify_scale.config import HostError
from tokenunify_scale.train import boards
from tokenunify_scale.train.boards import Boards, TensorBoard, wanted

NOTHING = {"tensorboard": False, "wandb": None, "name": "run", "config": {}}


def scalars(folder):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(folder))
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_a_run_that_goes_back_draws_over_what_it_left(tmp_path):
    pytest.importorskip("tensorboard")
    board = TensorBoard(tmp_path)
    for start, end in ((0, 4), (2, 5)):
        board.begin(start)
        for step in range(start + 1, end):
            board.write(step, {"loss/loss": step + start / 4})
    board.close()
    assert scalars(tmp_path / "tensorboard") == {
        "loss/loss": [(1, 1.0), (2, 2.0), (3, 3.5), (4, 4.5)]
    }


def test_what_is_not_installed_is_told_once_or_refused_if_it_was_asked_for(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.delitem(sys.modules, "tensorboard", raising=False)
    monkeypatch.setattr(boards, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert wanted(tmp_path, **NOTHING | {"tensorboard": "auto"}) == []
    assert "pip install 'tokenunify-scale[tensorboard]'" in caplog.text
    for name, value in (("tensorboard", True), ("wandb", "em")):
        with pytest.raises(HostError, match=rf"telemetry.{name}: .*tokenunify-scale\[{name}\]"):
            wanted(tmp_path, **NOTHING | {name: value})
    assert wanted(tmp_path, **NOTHING) == []


class FakeWandb(SimpleNamespace):
    """What of the package is used, remembering what it is told."""

    def __init__(self):
        super().__init__(calls=[], error=None)

    def init(self, **options):
        if self.error:
            raise self.error
        self.calls.append(options)
        return SimpleNamespace(
            define_metric=lambda *a, **o: None, log=self.calls.append,
            finish=lambda: self.calls.append("finished"),
        )  # fmt: skip


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def opened(folder, step):
    made = Boards(wanted(folder, **NOTHING | {"wandb": "em", "config": {"steps": 9}}))
    made.begin(step)
    return made


def test_weights_and_biases_goes_on_with_the_run_that_the_folder_knows(tmp_path, wandb):
    first = opened(tmp_path, 0)
    first.write(5, {"loss/loss": 0.5})
    first.begin(3)  # back within one process: the same run
    first.close()
    opened(tmp_path, 3)
    opened(tmp_path, 0)
    one, point, end, again, anew = wandb.calls
    assert one["project"] == "em" and one["config"] == {"steps": 9} and one["name"] == "run"
    assert point == {"step": 5, "loss/loss": 0.5} and end == "finished"
    assert again["id"] == one["id"] != anew["id"] and one["resume"] == "allow"


def test_weights_and_biases_that_cannot_be_had_is_an_error_at_the_start(tmp_path, wandb):
    wandb.error = RuntimeError("no API key\nconfigured")
    with pytest.raises(HostError, match="telemetry.wandb: no API key configured"):
        opened(tmp_path, 0)


def test_a_board_that_fails_later_is_told_once_and_left(tmp_path, wandb, caplog):
    made = opened(tmp_path, 0)

    def fail(values):
        raise OSError("no space left")

    made._boards[0]._wandb.log = fail
    made.write(7, {"loss/loss": 1.0})
    made.write(8, {"loss/loss": 1.0})
    assert caplog.text.count("no space left") == 1 and "step 7" in caplog.text
