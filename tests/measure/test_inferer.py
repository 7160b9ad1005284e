import importlib.util
import os

import numpy as np
import pytest

from tokenunify_scale.config import HostError, Named
from tokenunify_scale.measure import inferer
from tokenunify_scale.measure.memory import RESET
from tokenunify_scale.measure.report import verdicts
from tokenunify_scale.registry import MODELS
from tokenunify_scale.volumes.hdf5 import read_hdf5

ATTO = Named("emmamba_atto", MODELS.get("emmamba_atto").config)
SHAPE, TILE = (12, 40, 40), (8, 32, 32)
MIB = 2**20


def compare(folder, **changes):
    asked = {"shape": SHAPE, "tile": TILE, "repeats": 1, "threads": 1, **changes}
    return inferer.compare(ATTO, folder=folder, **asked)


def run(name, job, *, folder):
    seconds = {inferer.OURS: 4.0, inferer.MONAI: 5.0}[name]
    above = {inferer.OURS: 100 * MIB, inferer.MONAI: 300 * MIB}[name]
    return {"seconds": seconds, "files": 2 * seconds, "base": 400 * MIB, "above": above,
            "peak": 400 * MIB + above}  # fmt: skip


@pytest.fixture
def monai(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


@pytest.mark.skipif(not os.access(RESET, os.W_OK), reason="needs Linux's clear_refs")
def test_ways_take_turns_and_are_held_against_each_other(monai, monkeypatch, tmp_path):
    turns = []

    def noted(name, job, *, folder):
        turns.append(name)
        return run(name, job, folder=folder)

    monkeypatch.setattr(inferer, "_run", noted)
    measured = compare(tmp_path, repeats=2)
    assert turns == ["monai", "predict", "predict", "monai"]
    assert measured["overlap"] == [2, 6, 6] and measured["tiles"] == 2 * 2 * 2
    table = inferer.inferer_table(measured)
    assert "12x40x40 voxels in 8 tiles of 8x32x32" in table and "2,400" in table
    values = [round(f.value, 3) for f in inferer.inferer_findings(measured)]
    assert values == [1.25, 0.625, 0.333, 0.714]
    text = verdicts(inferer.inferer_findings(measured))
    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["PASS", "FAIL", "PASS", "FAIL"]


def test_without_monai_it_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HostError, match="pip install monai"):
        compare(tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not os.access(RESET, os.W_OK), reason="needs Linux's clear_refs")
def test_a_process_that_fails_says_where_to_read_why(monai, monkeypatch, tmp_path):
    monkeypatch.setattr(inferer, "CODE", {"predict": "raise SystemExit('broken')"})
    with pytest.raises(HostError, match="predict ended with 1: see .*predict.log"):
        compare(tmp_path)
    assert "broken" in (tmp_path / "predict.log").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not os.access(RESET, os.W_OK), reason="needs Linux's clear_refs")
def test_both_predict_the_same(tmp_path):
    pytest.importorskip("monai", reason="MONAI is not installed")
    # A tile that the network takes as it is: predict grows others by what lies there.
    measured = compare(tmp_path, shape=(20, 40, 40), tile=(16, 32, 32))
    for way in measured["ways"].values():
        assert way["files"] >= way["seconds"] > 0
        assert way["peak"] == way["base"] + way["above"] > way["base"] > 50 * MIB
    ours, theirs = (
        read_hdf5(tmp_path / "out" / name, "affinities")[0]
        for name in ("affinities.h5", "monai.h5")
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
