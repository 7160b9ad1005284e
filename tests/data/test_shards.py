import hashlib
import json

import numpy as np
import pytest
import webdataset

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.pack import finished, write_shards
from tokenunify_scale.data.shards import open_shards

CROP = (2, 3, 4)


class Samples:
    """Seven crops that remember which of them were asked for."""

    def __init__(self, stop_at=None):
        self.asked, self.stop_at = [], stop_at

    def __len__(self):
        return 7

    def __getitem__(self, number):
        if number == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(number)
        crop = np.random.default_rng(number).integers(0, 256, CROP).astype(np.uint8)
        return crop, {"volume": 0, "box": [[number, 0, 0], [number + 2, 3, 4]]}


def index(**request):
    return {
        "crop": CROP,
        "voxel_size": (40.0, 8.0, 8.0),
        "volumes": [{"path": "a.h5:raw"}],
        "request": {"seed": 0, **request},
    }


def write(out, samples=None, **request):
    return write_shards(samples or Samples(), out, per_shard=3, index=index(**request))


def hashes(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_each_sample_is_read_back_by_its_number(tmp_path):
    written = write(tmp_path / "s")
    shards, samples = open_shards(tmp_path / "s"), Samples()
    assert shards.index == written
    assert len(shards) == 7 and [s.count for s in written.shards] == [3, 3, 1]
    assert written.voxel_size == (40.0, 8.0, 8.0) and written.crop == CROP
    for number in (6, 0, 3, 2, 5, 1, 4):
        crop, meta = shards.read(number)
        assert np.array_equal(crop, samples[number][0]) and meta == samples[number][1]
    with pytest.raises(IndexError, match="sample 7 of 7"):
        shards.read(7)


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


def test_an_interrupted_run_is_continued_and_ends_as_if_undisturbed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", Samples(stop_at=4))
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["index.partial.json", "shard-000000.tar"]
    with pytest.raises(DataError, match="interrupted"):
        open_shards(tmp_path / "a")
    with pytest.raises(ConfigError, match="seed was 0, is 1.*choose another --out"):
        write(tmp_path / "a", seed=1)
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
def test_a_lost_or_cut_tar_alone_is_written_again(tmp_path, keep):
    write(tmp_path)
    good, tar = hashes(tmp_path), tmp_path / "shard-000001.tar"
    data = tar.read_bytes()
    tar.unlink() if keep is None else tar.write_bytes(data[:keep])
    again = Samples()
    write(tmp_path, again)
    assert again.asked == [3, 4, 5] and hashes(tmp_path) == good


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


def test_what_is_missing_or_of_another_size_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such shard folder"):
        open_shards(tmp_path / "nowhere")
    with pytest.raises(DataError, match="index.json: missing"):
        open_shards(tmp_path)
    write(tmp_path)
    tar = tmp_path / "shard-000002.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[:-1])
    with pytest.raises(DataError, match=f"shard-000002.tar has {len(data) - 1} bytes.*cut off"):
        open_shards(tmp_path)
    tar.unlink()
    with pytest.raises(DataError, match="shard-000002.tar is missing"):
        open_shards(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(DataError, match="index.json is not readable"):
        open_shards(tmp_path)
    (tmp_path / "index.json").write_text('{"version": 99}')
    with pytest.raises(DataError, match="format version 99"):
        open_shards(tmp_path)


def test_damage_after_opening_is_named_with_file_and_byte(tmp_path):
    write(tmp_path)
    shards = open_shards(tmp_path)
    offset, tar = shards.index.shards[0].offsets[1], tmp_path / "shard-000000.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[:offset] + bytes(100) + data[offset + 100 :])
    with pytest.raises(DataError, match=f"shard-000000.tar is damaged: sample 1 at byte {offset}"):
        shards.read(1)
    tar.write_bytes(data[: offset + 10])
    with pytest.raises(DataError, match=f"shard-000000.tar ends early: sample 1 at byte {offset}"):
        shards.read(1)
    tar.unlink()
    with pytest.raises(DataError, match="shard-000000.tar.*sample 0"):
        shards.read(0)
