import json
import shutil

import numpy as np
import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.data.shards.pack import write_shards
from tokenunify_scale.data.shards.verify import read_facts, report_on, verify


def write(folder):
    """Three tars of three, three and one crop."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (7, 2, 3, 4)).astype(np.uint8)
    samples = [(crop, {"volume": 0, "box": [[0, 0, 0], [2, 3, 4]]}) for crop in crops]
    index = {"crop": (2, 3, 4), "voxel_size": None, "volumes": [{}], "request": {}}
    write_shards(samples, folder, per_shard=3, index=index)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "s")
    return tmp_path / "s"


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_folder_that_is_whole_is_one_line(folder, capsys):
    report_on(folder)
    size = sum(path.stat().st_size for path in folder.glob("*.tar")) / 1e6
    line = f"{folder}: shards: 3, crops: 7, {size:.1f} MB; all as index.json says\n"
    assert capsys.readouterr().out == line


def test_each_damage_is_named_with_its_tar(folder, capsys):
    tars = sorted(folder.glob("*.tar"))
    shutil.copy(tars[0], folder / "other.tar")
    tars[0].write_bytes(tars[0].read_bytes()[:-512])
    flip(tars[1], 1700)
    tars[2].unlink()
    with pytest.raises(DataError, match="4 of its tars are damaged or not its own: delete them"):
        report_on(folder)
    lines = capsys.readouterr().out.splitlines()
    for line, words in zip(
        lines,
        (
            "shard-000000.tar: 9728 bytes, index.json says 10240",
            "shard-000001.tar: sha256 is ",
            "shard-000002.tar: No such file or directory",
            "other.tar: index.json does not list it",
            "damaged: 4",
        ),
        strict=True,
    ):
        assert words in line


def test_a_changed_voxel_is_found_and_other_crops_are_still_good(folder):
    flip(folder / "shard-000001.tar", 1700)
    faults = verify(folder).faults
    assert list(faults) == ["shard-000001.tar"]
    assert "index.json says" in faults["shard-000001.tar"]
    assert "cannot be read" not in faults["shard-000001.tar"]


def test_samples_that_do_not_decode_are_counted_even_where_the_sha256_is_right(folder):
    data = json.loads((folder / "index.json").read_text())
    data["shards"][0]["offsets"][1] += 512
    (folder / "index.json").write_text(json.dumps(data))
    fault = verify(folder).faults["shard-000000.tar"]
    assert fault.startswith("2 of 3 samples cannot be read: ") and "sha256" not in fault


def test_a_folder_that_cannot_be_checked_is_named(folder, tmp_path):
    with pytest.raises(DataError, match="nowhere: no such shard folder"):
        read_facts(tmp_path / "nowhere")
    with pytest.raises(DataError, match="index.json: missing"):
        read_facts(tmp_path)
    (folder / "index.json").rename(folder / "index.partial.json")
    with pytest.raises(DataError, match="prepare was interrupted, run it again"):
        read_facts(folder)


def test_what_is_deleted_after_a_check_is_written_again(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    flip(folder / "shard-000000.tar", 1700)
    (name,) = verify(folder).faults
    (folder / name).unlink()
    write(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not verify(folder).faults
