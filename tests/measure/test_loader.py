import numpy as np
import pytest

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.shards.reader import open_shards
from tokenunify_scale.measure import clock, loader
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.volume import open_volume

VOLUME = "synthetic:seed=1,shape=8x24x24"


@pytest.fixture
def data(tmp_path):
    return loader.make_data(tmp_path, volume=VOLUME, crop=(4, 8, 8), count=16)


def test_the_shards_hold_crops_of_the_volume_that_is_opened_for_each(data):
    shards = open_shards(data.shards)
    crop, meta = shards.read(15)
    start, stop = meta["box"]
    with open_volume(data.volume) as volume, open_volume(VOLUME) as made:
        whole = volume.read()
        assert np.array_equal(whole, made.read())
    assert len(shards) == 16
    assert np.array_equal(crop, whole[tuple(map(slice, start, stop))])


def test_what_was_made_is_used_again_and_other_words_are_refused(data):
    folder = data.shards.parent
    before = {path: path.stat().st_mtime_ns for path in data.shards.glob("*.tar")}
    assert loader.make_data(folder, volume=VOLUME, crop=(4, 8, 8), count=16) == data
    assert before == {path: path.stat().st_mtime_ns for path in data.shards.glob("*.tar")}
    with pytest.raises(ConfigError, match="count was 16, is 17"):
        loader.make_data(folder, volume=VOLUME, crop=(4, 8, 8), count=17)


def test_a_volume_that_is_no_uint8_or_too_small_is_refused(tmp_path):
    write_hdf5(tmp_path / "a.h5", {"raw": np.zeros((8, 8, 8), np.uint16)})
    with pytest.raises(DataError, match="uint16 of shape"):
        loader.make_data(tmp_path, volume=f"{tmp_path}/a.h5:raw", crop=(4, 8, 8), count=2)
    with pytest.raises(DataError, match=r"crops of \(16, 8, 8\)"):
        loader.make_data(tmp_path, volume=VOLUME, crop=(16, 8, 8), count=2)


def test_every_way_is_timed_and_two_ratios_have_targets(data, monkeypatch):
    monkeypatch.setattr(clock, "TURN", 0.0)
    measured = loader.compare(data, repeats=1, wholes=1)
    rates = measured["crops_per_s"]
    assert min(rates.values()) > 0 and list(rates)[0] == loader.BYTES
    assert list(rates)[-1] == loader.WHOLE
    findings = {finding.kind: finding.value for finding in loader.loader_findings(measured)}
    streams = [rate for name, rate in rates.items() if name in
               [f"stream, workers: {n}" for n in loader.WORKERS]]  # fmt: skip
    assert findings["loader"] == max(streams) / rates[loader.BYTES]
    assert findings["whole volumes"] == max(streams) / rates[loader.WHOLE]
    assert "16 crops of 4x8x8" in loader.loader_table(measured)
