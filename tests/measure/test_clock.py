import time

import pytest
import torch

from tokenunify_scale.measure import clock


def test_works_take_turns_and_each_turn_warms_up(monkeypatch):
    monkeypatch.setattr(clock, "TURN", 0.0001)
    order = []

    def work(name):
        return lambda: (order.append(name), time.sleep(0.001))

    found = clock.medians({"a": work("a"), "b": work("b")}, repeats=2)
    assert "".join(order) == "ab" + "aabb" * 2
    assert found["a"] >= 0.001 and found["b"] >= 0.001


def test_work_that_takes_longer_needs_no_warm_caches(monkeypatch):
    monkeypatch.setattr(clock, "COLD", 0.005)
    runs = []
    clock.medians({"a": lambda: runs.append(time.sleep(0.03))}, repeats=2)
    assert len(runs) == 1 + 2


def test_short_work_is_timed_often_in_a_turn(monkeypatch):
    monkeypatch.setattr(clock, "TURN", 0.02)
    runs = []
    clock.medians({"short": lambda: runs.append(time.sleep(0.001))}, repeats=1)
    assert 8 < len(runs) < 24


@pytest.mark.parametrize("limit, runs", [(0.0, 1), (0.015, 1), (0.05, 3), (9.0, 3)])
def test_long_work_runs_once_and_again_while_it_fits(monkeypatch, limit, runs):
    monkeypatch.setattr(clock, "LONG", 0.005)
    monkeypatch.setattr(clock, "LIMIT", limit)
    times = []
    found = clock.medians({"long": lambda: times.append(time.sleep(0.01))}, repeats=3)
    assert len(times) == runs and found["long"] >= 0.01


def test_the_median_is_taken(monkeypatch):
    spent = iter([9.0, 1.0, 5.0, 2.0])
    monkeypatch.setattr(clock, "seconds_of", lambda work, clock: next(spent))
    monkeypatch.setattr(clock, "LONG", 10.0)
    assert clock.medians({"a": lambda: None}, repeats=3) == {"a": 2.0}


def test_one_thread_of_a_cpu_is_timed_by_its_own_work_and_anything_else_by_the_wall():
    with clock.threads(1):
        own = clock.own_clock("cpu")
        assert clock.own_clock("cuda") is time.perf_counter
    with clock.threads(2):
        assert clock.own_clock("cpu") is time.perf_counter
    assert clock.seconds_of(lambda: time.sleep(0.05), clock=own) < 0.04
    found = clock.medians({"a": lambda: torch.ones(2**16).sum()}, repeats=1, clock=own)
    assert 0 < found["a"] < 0.02


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with clock.threads(before + 2) as count:
        assert count == torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before
    with clock.threads(None) as count:
        assert count == before
