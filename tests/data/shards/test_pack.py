import errno
import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import webdataset

from tokenunify_scale.config import ConfigError, DataError, HostError
from tokenunify_scale.data.shards import pack
from tokenunify_scale.data.shards.pack import finished, plan_shards, shard_bytes, write_shards
from tokenunify_scale.data.shards.reader import open_shards
from tokenunify_scale.train import runlog

CROP = (2, 3, 4)


class Samples:
    """Seven crops that remember which of them were asked for."""

    def __init__(self, stop_at=None, crop=CROP):
        self.asked, self.stop_at, self.crop = [], stop_at, crop

    def __len__(self):
        return 7

    def __getitem__(self, number):
        if number == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(number)
        crop = np.random.default_rng(number).integers(0, 256, self.crop).astype(np.uint8)
        return crop, {"volume": 0, "box": [[number, 0, 0], [number + 2, 3, 4]]}


class Tried(Samples):
    """Crops of two volumes, which say how many places were tried."""

    def __getitem__(self, number):
        crop, meta = super().__getitem__(number)
        return crop, {**meta, "volume": number // 4, "tried": number + 1}


def index(crop=CROP, **request):
    return {
        "crop": crop,
        "voxel_size": (40.0, 8.0, 8.0),
        "volumes": [{"path": "a.h5:raw"}, {"path": "b.h5:raw"}],
        "request": {"seed": 0, **request},
    }


def write(out, samples=None, **request):
    return write_shards(samples or Samples(), out, per_shard=3, index=index(**request))


def hashes(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_webdataset_reads_the_tars(tmp_path):
    write(tmp_path)
    urls = [str(tmp_path / f"shard-{n:06d}.tar") for n in range(3)]
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in read] == [f"{n:09d}" for n in range(7)]
    for number, sample in enumerate(read):
        crop, meta = Samples()[number]
        assert np.array_equal(sample["raw.npy"], crop) and sample["json"] == meta


def test_bytes_depend_on_the_samples_only_and_the_index_knows_them(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    data = json.loads((tmp_path / "a" / "index.json").read_text())
    for shard in data["shards"]:
        tar = (tmp_path / "a" / shard["name"]).read_bytes()
        assert shard["bytes"] == len(tar)
        assert shard["sha256"] == hashlib.sha256(tar).hexdigest()
    assert names(tmp_path / "a") == ["index.json", *(f"shard-00000{n}.tar" for n in range(3))]


def test_an_index_says_channels_only_where_there_are_several(tmp_path):
    write(tmp_path / "a")
    keys = ["version", "count", "crop", "voxel_size", "volumes", "request", "shards"]
    assert list(json.loads((tmp_path / "a" / "index.json").read_text())) == keys
    described = {**index((1, 3, 4)), "channels": 3}
    samples = Samples(crop=(3, 3, 4))
    written = write_shards(samples, tmp_path / "b", per_shard=3, index=described)
    assert (written.channels, written.crop, written.stored) == (3, (1, 3, 4), (3, 3, 4))
    planned = plan_shards(7, per_shard=3, crop=written.stored)
    assert planned == [(shard.name, shard.bytes) for shard in written.shards]


def test_names_and_sizes_are_known_before(tmp_path):
    written = write(tmp_path)
    planned = plan_shards(7, per_shard=3, crop=CROP)
    assert planned == [(shard.name, shard.bytes) for shard in written.shards]
    assert planned[0][1] == shard_bytes(3, crop=CROP)


def test_an_interrupted_run_is_continued_and_ends_as_if_undisturbed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", Samples(stop_at=4))
    assert names(tmp_path / "a") == ["index.partial.json", "shard-000000.tar"]
    with pytest.raises(DataError, match="interrupted"):
        open_shards(tmp_path / "a")
    with pytest.raises(ConfigError, match="seed was 0, is 1.*choose another --out"):
        write(tmp_path / "a", seed=1)
    (tmp_path / "a" / "shard-000002.tar.partial").write_bytes(b"of a process that was killed")
    (tmp_path / "a" / ".index.partial.json.1.tmp").write_bytes(b"so is this")
    rest = Samples()
    write(tmp_path / "a", rest)
    assert rest.asked == [3, 4, 5, 6]
    write(tmp_path / "b")
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_a_finished_folder_is_kept_and_another_request_is_refused(tmp_path):
    first, again = write(tmp_path), Samples()
    assert write(tmp_path, again) == first and again.asked == []
    assert finished(tmp_path, request={"seed": 0}) == first
    with pytest.raises(ConfigError, match="choose another --out"):
        write(tmp_path, seed=2)


@pytest.mark.parametrize("keep", [None, 100, 8000, -1])
def test_a_lost_or_cut_tar_alone_is_written_again_and_said(tmp_path, keep, capsys):
    write(tmp_path)
    good, tar = hashes(tmp_path), tmp_path / "shard-000001.tar"
    data = tar.read_bytes()
    tar.unlink() if keep is None else tar.write_bytes(data[:keep])
    again = Samples()
    write(tmp_path, again)
    assert again.asked == [3, 4, 5] and hashes(tmp_path) == good
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "shard-000001.tar" in lines[0] and "written again" in lines[0]


def test_a_tar_that_has_changed_since_is_not_kept(tmp_path):
    write(tmp_path)
    good = hashes(tmp_path)
    tar = tmp_path / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    data[1700] ^= 1  # a voxel: the tar is as whole as before
    tar.write_bytes(data)
    (tmp_path / "shard-000002.tar").unlink()
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, Samples(stop_at=1))
    again = Samples()
    write(tmp_path, again)  # what was known of it is known after an interruption, too
    assert again.asked == [0, 1, 2, 6] and hashes(tmp_path) == good


def test_files_of_others_stay_and_tars_of_others_are_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "shard-000000.tar").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="shards without index.json"):
        write(other)
    assert (other / "shard-000000.tar").read_bytes() == b"mine"
    with pytest.raises(ConfigError, match="notes.txt is not a folder"):
        write(tmp_path / "notes.txt")


def test_an_index_that_is_damaged_is_named_and_nothing_is_written_over_it(tmp_path):
    write(tmp_path)
    (tmp_path / "index.json").write_text("{")
    before = hashes(tmp_path)
    with pytest.raises(DataError, match="index.json is not readable"):
        write(tmp_path)
    assert hashes(tmp_path) == before


@pytest.mark.parametrize("shards", [None, [], [{"name": "shard-000000.tar"}], [3]])
def test_an_index_without_facts_of_its_tars_is_written_anew(tmp_path, shards):
    write(tmp_path)
    good = hashes(tmp_path)
    data = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**data, "shards": shards}))
    again = Samples()
    write(tmp_path, again)
    assert again.asked == [] and hashes(tmp_path) == good


def test_tried_places_are_summed_up_by_volume_whoever_wrote_the_tars(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", Tried(stop_at=5))
    assert [volume["tried"] for volume in write(tmp_path / "a", Tried()).volumes] == [10, 18]
    write(tmp_path / "b", Tried())
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert all("tried" not in volume for volume in write(tmp_path / "c").volumes)


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.tar")


def test_a_full_disk_is_one_line_and_keeps_what_is_finished(tmp_path, monkeypatch):
    write_tar, written = pack._write_tar, []

    def second_is_too_much(path, samples):
        written.append(path)
        if len(written) == 2:
            monkeypatch.setattr(os, "fsync", full)
        write_tar(path, samples)

    monkeypatch.setattr(pack, "_write_tar", second_is_too_much)
    with pytest.raises(HostError, match="cannot write x.tar: No space left on device"):
        write(tmp_path)
    assert names(tmp_path) == ["index.partial.json", "shard-000000.tar"]
    monkeypatch.undo()
    again = Samples()
    write(tmp_path, again)
    assert again.asked == [3, 4, 5, 6]


def test_a_disk_that_is_full_when_the_index_is_due_keeps_all_tars(tmp_path, monkeypatch):
    calls = []

    def no_room_for_the_second(path, text):
        calls.append(path)
        if len(calls) == 2:
            path.with_name(f".{path.name}.{os.getpid()}.tmp").write_text("half")
            full()
        runlog.write_atomically(path, text)

    monkeypatch.setattr(pack, "write_atomically", no_room_for_the_second)
    with pytest.raises(HostError, match="No space left"):
        write(tmp_path)
    tars = [f"shard-00000{n}.tar" for n in range(3)]
    assert names(tmp_path) == ["index.partial.json", *tars]
    monkeypatch.undo()
    again = Samples()
    assert write(tmp_path, again).count == 7 and again.asked == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs mount")
    if done.returncode:
        pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path):
    crop = (36, 36, 36)  # a tar of three takes 160 KiB
    with pytest.raises(HostError, match=r"cannot write .*disk.*: No space left on device"):
        write_shards(Samples(crop=crop), small_disk, per_shard=3, index=index(crop))
    assert names(small_disk) == ["index.partial.json", "shard-000000.tar"]
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    again = Samples(crop=crop)
    write_shards(again, small_disk, per_shard=3, index=index(crop))
    assert again.asked == [3, 4, 5, 6]
