import errno
import shutil
from pathlib import Path

import numpy as np
import pytest

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.data import copies
from tokenunify_scale.data.copies import is_synthetic, missing, names, read_labels, write_copies
from tokenunify_scale.data.inputs import Source, open_sources
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.volume import Volume, open_volume

SYNTHETIC = "synthetic:seed=7,shape=8x48x48"


def source(path, dataset=None, shape=(2, 3, 4)):
    volume = Volume(path, np.ones(shape, np.uint8), voxel_size=None, attributes={})
    return Source(volume, Box.of(shape), None, dataset)


def test_copies_are_called_as_what_they_are_of():
    paths = ["a/b.h5:raw", "c/b.h5:raw", SYNTHETIC, "s3://bucket/fafb.zarr", "stack.tif"]
    sources = [*map(source, paths), source("gs://x/y", dataset="fib25")]
    wanted = ["b.h5", "b_2.h5", "synthetic.h5", "fafb.h5", "stack.h5", "fib25.h5"]
    assert names(sources) == wanted


def test_a_copy_holds_the_part_that_may_be_used_and_what_is_known_of_it(tmp_path):
    array = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    write_hdf5(tmp_path / "a.h5", {"raw": array}, attributes=None)
    box, size = Box((1, 0, 2), (3, 5, 6)), (40.0, 4.0, 4.0)
    with open_volume(f"{tmp_path}/a.h5:raw") as volume:
        part = Source(volume, box, size, "x")
        assert missing([part], tmp_path / "out") == [0]
        write_copies([part], tmp_path / "out", numbers=[0])
        assert missing([part], tmp_path / "out") == []
        with pytest.raises(ConfigError, match="x.h5 exists and is no copy of .*a.h5:raw"):
            missing([Source(volume, Box.of(array.shape), size, "x")], tmp_path / "out")
    with open_volume(f"{tmp_path}/out/x.h5:raw") as copy:
        assert np.array_equal(copy.read(), array[box.slices]) and copy.voxel_size == size


def test_a_synthetic_volume_comes_with_its_labels(tmp_path):
    box = Box((2, 0, 8), (8, 48, 48))
    with open_sources([SYNTHETIC, f"{SYNTHETIC},dataset=raw"]) as sources:
        labels = read_labels(sources[0].volume, box)
        with open_volume(f"{SYNTHETIC},dataset=labels") as volume:
            assert np.array_equal(labels, volume.read(box))
        assert np.array_equal(read_labels(sources[1].volume, box), labels)
        write_copies(sources, tmp_path, numbers=[1])
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic_2.h5"]
    with open_volume(f"{tmp_path}/synthetic_2.h5:labels") as copy:
        assert np.array_equal(copy.read(box), labels)
    assert read_labels(source("a.h5").volume, box) is None
    assert is_synthetic("synthetic") and not is_synthetic("synthetic.h5:raw")


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=23)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(HostError, match=r"cannot write .*x/y: .*MB are to be written.* are free"):
        write_copies([source("a.h5")], tmp_path / "x" / "y", numbers=[0])
    write_copies([source("a.h5")], tmp_path / "x" / "y", numbers=[])
    assert not any(tmp_path.iterdir())


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(path, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(copies, "write_hdf5", full)
    with pytest.raises(HostError, match=r"cannot write .*a.h5: No space left on device"):
        write_copies([source("a.h5")], Path(tmp_path), numbers=[0])
