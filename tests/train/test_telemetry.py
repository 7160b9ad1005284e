import json
from types import SimpleNamespace

import pytest
import torch

from tokenunify_scale.config import DataError
from tokenunify_scale.train import telemetry
from tokenunify_scale.train.distributed import World
from tokenunify_scale.train.runlog import RunFolder, read_metrics
from tokenunify_scale.train.telemetry import ENDED, GIB, Facts, Telemetry, TelemetryConfig, peak_rss

FACTS = Facts(steps=100, global_batch=8, voxels=1000, tokens=40, gmac=500.0, peak_tflops=6.0)


class Clock:
    """Stands still until it is moved."""

    now = 50.0

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def place(rank=0, size=1, device="cpu"):
    return World(rank, size, rank, torch.device(device))


def begun(tmp_path, clock, *, facts=FACTS, world=None, start=0, **config):
    world = world or place()
    made = Telemetry(
        TelemetryConfig(**{"tensorboard": False} | config),
        run=RunFolder.create(tmp_path, verb="pretrain", config={}, rank=world.rank),
        facts=facts, world=world, clock=clock, now=lambda: 1000.0 + clock.now,
    )  # fmt: skip
    made.begin(start)
    return made


def train(made, clock, *, steps, data=0.5, work=1.5, weights=None):
    for _ in range(steps):
        with made.waiting():
            clock.pass_(data)
        clock.pass_(work)
        made.count(weights)


def last(tmp_path):
    return read_metrics(tmp_path)[-1]


def test_rates_are_those_of_the_window(tmp_path, clock):
    made = begun(tmp_path, clock)
    train(made, clock, steps=5)  # 10 s in which 40 crops were learned from
    made.log(5, {"loss": 0.5, "random": None}, lr=1e-3, skipped=2)
    line = last(tmp_path)
    assert line["crops_per_s"] == 4.0 and line["tokens_per_s"] == 160.0
    assert line["tflop_per_s"] == pytest.approx(4 * 3 * 2 * 0.5)  # crops, passes, MACs, 1e12
    assert line["mfu"] == pytest.approx(12 / 6) and line["peak_tflops"] == 6.0
    assert line["data_wait"] == 0.25 and "communication" not in line
    assert line["step"] == 5 and line["time"] == 1060.0
    assert line["loss"] == 0.5 and line["random"] is None and line["lr"] == 1e-3
    assert line["skipped"] == 2 and made.note == "loss 0.5, 4 crops/s"
    train(made, clock, steps=1, data=0, work=1)
    made.log(6, {"loss": 0.5})
    assert last(tmp_path)["crops_per_s"] == 8.0 and last(tmp_path)["data_wait"] == 0


def test_what_is_not_known_is_not_logged(tmp_path, clock):
    made = begun(tmp_path, clock, facts=Facts(steps=10, global_batch=2, voxels=1000))
    train(made, clock, steps=1)
    made.log(1, {"loss": 0.5})
    assert last(tmp_path)["voxels_per_s"] == 1000.0
    assert not {"tokens_per_s", "tflop_per_s", "mfu", "peak_tflops"} & last(tmp_path).keys()


def test_the_peak_that_was_asked_for_goes_before_the_data_sheets(tmp_path, clock):
    made = begun(tmp_path, clock, peak_tflops=24.0)
    train(made, clock, steps=5)
    made.log(5, {})
    assert last(tmp_path)["mfu"] == pytest.approx(0.5) and last(tmp_path)["peak_tflops"] == 24.0
    with pytest.raises(ValueError, match="peak_tflops must be > 0, got 0"):
        TelemetryConfig(peak_tflops=0)


def test_a_save_is_in_no_rate_but_in_the_time_left(tmp_path, clock):
    made = begun(tmp_path, clock)
    train(made, clock, steps=5)
    made.log(5, {})
    assert last(tmp_path)["seconds_left"] == 190.0  # 2 s a step, 95 of them
    with made.pausing():
        clock.pass_(10)
    train(made, clock, steps=5)
    made.log(10, {})
    assert last(tmp_path)["crops_per_s"] == 4.0 and last(tmp_path)["data_wait"] == 0.25
    assert last(tmp_path)["seconds_left"] == 90 * (10 + 10) / 5


def test_the_time_left_forgets_the_first_window_which_compiles(tmp_path, clock):
    made = begun(tmp_path, clock)
    train(made, clock, steps=5, work=1000)
    made.log(5, {})
    train(made, clock, steps=5)
    made.log(10, {})
    assert last(tmp_path)["seconds_left"] == 180.0


def test_a_line_without_steps_has_no_rates(tmp_path, clock):
    made = begun(tmp_path, clock)
    made.log(0, {"held_out_loss": 1.0})
    assert last(tmp_path) == {"step": 0, "time": 1050.0, "held_out_loss": 1.0}


def test_a_run_that_goes_back_drops_its_window(tmp_path, clock):
    made = begun(tmp_path, clock)
    train(made, clock, steps=30, data=100)
    made.begin(20)
    train(made, clock, steps=5)
    made.log(25, {})
    assert last(tmp_path)["crops_per_s"] == 4.0 and last(tmp_path)["seconds_left"] == 150.0


def test_weights_of_the_curriculum_are_means_over_the_window(tmp_path, clock):
    made = begun(tmp_path, clock)
    train(made, clock, steps=3, weights={"random": 1.0, "next": 0.0})
    train(made, clock, steps=1, weights={"random": 0.0, "next": 1.0})
    made.log(4, {})
    assert last(tmp_path)["weight_random"] == 0.75 and last(tmp_path)["weight_next"] == 0.25


def test_ranks_share_their_numbers_the_slowest_loader_counts_and_the_fullest_memory(
    tmp_path, clock, monkeypatch
):
    others = torch.tensor([[0.0] * 4, [0.9, 0.2, 7.0, 0.0]], dtype=torch.float64)
    monkeypatch.setattr(telemetry, "sum_over_ranks", lambda rows: rows + others)
    monkeypatch.setattr(telemetry, "peak_rss", lambda: 2 * GIB)
    made = begun(tmp_path, clock, world=place(size=2))
    train(made, clock, steps=4)
    made._blocked.seconds += 0.8  # of 8 s
    with made.pausing():
        made._blocked.seconds += 3
        clock.pass_(3)
    made.log(4, {})
    line = last(tmp_path)
    assert line["data_wait"] == 0.9 and line["peak_rss_gib"] == 7.0
    assert line["communication"] == pytest.approx((0.1 + 0.2) / 2)
    assert line["mfu"] == pytest.approx(12 / (2 * 6))  # of two devices


def test_on_gpus_communication_is_not_measured_and_their_memory_is(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * GIB)
    made = begun(tmp_path, clock, world=SimpleNamespace(**vars(place(size=2)), is_main=True))
    made._world.device = torch.device("cuda", 0)
    assert made._gpu() == 3 * GIB
    with begun(tmp_path, clock, world=place(size=2, device="cuda:0")) as other:
        assert other._blocked is None


def test_other_ranks_write_nothing(tmp_path, clock):
    made = begun(tmp_path / "run", clock, world=place(rank=1, size=2))
    with pytest.raises(DataError), made:
        train(made, clock, steps=1)
        raise DataError("gone")
    assert not (tmp_path / "run").exists()


def test_an_error_is_left_in_the_folder_until_the_run_goes_on(tmp_path, clock):
    made = begun(tmp_path, clock)
    with pytest.raises(DataError), made:
        train(made, clock, steps=5)
        made.log(5, {})
        raise DataError("shard 3\nis damaged")
    ended = json.loads((tmp_path / ENDED).read_text())
    assert ended == {
        "kind": "DataError", "exit_code": 4, "message": "shard 3 is damaged", "step": 5,
        "time": 1060.0,
    }  # fmt: skip
    with begun(tmp_path, clock):
        assert not (tmp_path / ENDED).exists()
    assert not (tmp_path / ENDED).exists()


def test_lines_are_drawn_too(tmp_path, clock):
    pytest.importorskip("tensorboard")
    with begun(tmp_path, clock, tensorboard=True) as made:
        train(made, clock, steps=1)
        made.log(1, {"loss": 0.5, "next": None})
    assert any((tmp_path / "tensorboard").iterdir())


def test_peak_memory_is_in_bytes():
    assert 10 << 20 < peak_rss() < 1 << 40
