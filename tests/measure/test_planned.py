"""What is foretold beside what real ranks hold."""

import os

import pytest

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.measure import planned
from tokenunify_scale.measure.loader import make_data
from tokenunify_scale.measure.memory import STATUS

MEASURED = {
    "cells": [
        {"size": "atto", "stage": 0, "ranks": 1, "planned": 0.9, "measured": 1.0},
        {"size": "atto", "stage": 3, "ranks": 2, "planned": 1.05, "measured": 1.0},
    ],
    "crop": [16, 32, 32],
}


def test_sizes_are_measured_from_the_smallest_up():
    assert planned.ladder("emmamba_tiny") == ["atto", "femto", "pico", "nano", "tiny"]
    assert planned.ladder("emmamba_atto") == ["atto"]
    with pytest.raises(ConfigError, match="not of superhuman"):
        planned.ladder("superhuman")


def test_the_table_has_a_line_for_each_cell_and_the_target_is_of_the_worst():
    lines = planned.memory_table(MEASURED).splitlines()
    assert len(lines) == 3 and "0.900" in lines[1] and "1.050" in lines[2]
    (finding,) = planned.memory_findings(MEASURED)
    assert finding.value == pytest.approx(0.1) and finding.met


@pytest.mark.skipif(not STATUS.is_file(), reason="peaks are read from /proc")
def test_the_highest_is_what_was_held_at_once_and_does_not_fall():
    before = planned.highest()
    block = bytearray(os.urandom(1)) * (2 * before)
    after = planned.highest()
    del block
    assert 2 * before < after == pytest.approx(planned.highest(), rel=0.01)


def test_a_rank_that_is_too_slow_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(planned, "RANK", "import time; time.sleep(60)")
    monkeypatch.setattr(planned, "SECONDS", 0.2)
    with pytest.raises(HostError, match="no end within"):
        planned.measured([], world=2, folder=tmp_path)


@pytest.mark.skipif(not STATUS.is_file(), reason="peaks are read from /proc")
def test_a_rank_that_fails_and_a_system_that_does_not_tell_are_errors(monkeypatch, tmp_path):
    monkeypatch.setattr(planned, "RANK", "import os, sys; sys.exit(2 * int(os.environ['RANK']))")
    with pytest.raises(HostError, match=r"ranks ended with \[0, 2\]: see rank0.log"):
        planned.measured([], world=2, folder=tmp_path)
    with pytest.raises(HostError, match="ended with 2"):
        planned.planned(["--size", "nothing"], tmp_path / "plan.yaml")
    monkeypatch.setattr(planned, "STATUS", tmp_path / "status")
    with pytest.raises(HostError, match="which is not there"):
        planned.compare(["atto"], shards=tmp_path, folder=tmp_path, crop=(16, 32, 32))


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.is_file(), reason="peaks are read from /proc")
def test_real_ranks_hold_within_15_percent_of_what_was_planned(tmp_path):
    crop, volume = (16, 160, 160), "synthetic:seed=7,shape=32x192x192"
    data = make_data(tmp_path / "data", volume=volume, crop=crop, count=planned.CROPS)
    cells = planned.compare(["atto"], shards=data.shards, folder=tmp_path, crop=crop)["cells"]
    assert [(c["stage"], c["ranks"]) for c in cells] == [(0, 1), (0, 2), (3, 1), (3, 2)]
    for cell in cells:
        assert cell["planned"] == pytest.approx(cell["measured"], rel=0.15), cell
