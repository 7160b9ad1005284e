import os

import pytest

from tokenunify_scale.measure import memory


@pytest.mark.skipif(not os.access(memory.RESET, os.W_OK), reason="needs Linux's clear_refs")
def test_a_scans_peak_is_some_times_its_input_and_less_than_the_states_of_all_steps():
    times = memory.peak_extra(channels=64, length=25600, states=16, threads=1)
    assert 1 < times < 16  # y at least; B E L N would be 16 times


def test_what_the_system_cannot_tell_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "RESET", tmp_path / "clear_refs")
    assert memory.peak_extra(channels=1, length=1, states=1, threads=1) is None
