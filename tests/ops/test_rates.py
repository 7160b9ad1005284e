import time

import pytest
import torch

from tokenunify_scale.ops import rates
from tokenunify_scale.ops.rates import Load, Rates, floor_seconds, loads, needs, roofline_seconds

SMALL = {"EXPONENTIALS": 1000, "MULTIPLY_ADDS": 1000, "COPIED": 1000, "LARGEST_COPY": 1600}


@pytest.fixture
def small(monkeypatch):
    for name, amount in SMALL.items():
        monkeypatch.setattr(rates, name, amount)


def test_a_scan_needs_what_its_tensors_say():
    u, delta, z, y, dy, du, ddelta, dz = (torch.empty(2, 3, 5) for _ in range(8))
    B, C, dB, dC = (torch.empty(2, 7, 5) for _ in range(4))
    forward, backward = (u, delta, z, B, C, y), (u, delta, z, dy, B, C, du, ddelta, dz, dB, dC)
    found = needs(batch=2, channels=3, length=5, states=7)
    assert found.moved_bytes == sum(t.nbytes for t in (*forward, *backward))
    every = (u, delta, z, y, dy, du, ddelta, dz, B, C, dB, dC)
    assert found.footprint == sum(t.nbytes for t in every)
    assert found.exponentials == 2 * u.numel() * (7 + 1 + 1)
    assert found.multiply_adds == u.numel() * 7 * (3 + 11)
    half = needs(batch=2, channels=3, length=5, states=7, itemsize=2)
    assert half.moved_bytes * 2 == found.moved_bytes
    assert half.exponentials == found.exponentials


def test_the_floor_is_bytes_and_exponentials_and_no_multiply_adds():
    need = needs(batch=1, channels=1, length=1, states=16)
    memory = 4 * (11 + 6 * 16) / 2
    rates_ = Rates(exponentials=36.0, multiply_adds=1e-9, moved_bytes=memory, near_bytes=1e9)
    assert floor_seconds(need, rates_) == pytest.approx(1 + 2)


@pytest.mark.parametrize("near, seconds", [(4 * (11 + 6 * 16) / 2, 2.5), (1, 428)])
def test_the_roofline_is_the_longer_of_computing_and_near_copies(near, seconds):
    need = needs(batch=1, channels=1, length=1, states=16)
    rates_ = Rates(exponentials=36.0, multiply_adds=14 * 16 / 1.5, moved_bytes=1, near_bytes=near)
    assert roofline_seconds(need, rates_) == pytest.approx(seconds)


def test_rates_are_amounts_over_seconds():
    amounts = zip(Rates._fields, range(6, 10), strict=True)
    work = {name: Load(print, amount) for name, amount in amounts}
    assert Rates.of(work, dict.fromkeys(Rates._fields, 2.0)) == (3, 3.5, 4, 4.5)


@pytest.mark.parametrize("threads", [1, 3])
def test_every_rate_has_work_that_runs_on_all_threads(small, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = loads(footprint=800)
        for load in found.values():
            load.run()
    finally:
        torch.set_num_threads(before)
    assert tuple(found) == Rates._fields
    assert found["exponentials"].amount % threads == 0
    assert 1000 <= found["near_bytes"].amount <= 2000
    assert found["moved_bytes"].amount == 1600


def test_twice_the_exponentials_take_about_twice_as_long(monkeypatch):
    def fastest(amount):
        monkeypatch.setattr(rates, "EXPONENTIALS", amount)
        run, times = loads(footprint=8)["exponentials"].run, []
        for _ in range(15):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    assert 1.5 < fastest(2**23) / fastest(2**22) < 2.7
