import copy
import hashlib
import json

import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.data.shards.index import padded, read_index
from tokenunify_scale.train.sealed import file_sha256

DIGEST = "0" * 64
GOOD = {
    "version": 1,
    "crop": [2, 3, 4],
    "count": 3,
    "voxel_size": [40.0, 8.0, 8.0],
    "volumes": [{"path": "a.h5:raw"}],
    "request": {"seed": 0},
    "shards": [
        {
            "name": "shard-000000.tar", "count": 2, "bytes": 10240, "sha256": DIGEST,
            "offsets": [0, 2048, 4096],
        },
        {
            "name": "shard-000001.tar", "count": 1, "bytes": 10240, "sha256": DIGEST,
            "offsets": [0, 2048],
        },
    ],
}  # fmt: skip


def write(path, data):
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_an_index_is_read_as_it_was_written(tmp_path):
    index = read_index(write(tmp_path / "index.json", GOOD))
    assert index.crop == (2, 3, 4) and index.count == 3 and index.voxel_size == (40.0, 8.0, 8.0)
    assert index.volumes == ({"path": "a.h5:raw"},) and index.request == {"seed": 0}
    assert [shard.offsets for shard in index.shards] == [(0, 2048, 4096), (0, 2048)]
    unknown = read_index(write(tmp_path / "index.json", {**GOOD, "voxel_size": None}))
    assert unknown.voxel_size is None


def test_channels_lie_one_after_another_in_what_is_stored(tmp_path):
    grey = read_index(write(tmp_path / "index.json", GOOD))
    assert grey.channels == 1 and grey.stored == grey.crop == (2, 3, 4)
    colour = read_index(write(tmp_path / "index.json", {**GOOD, "channels": 3}))
    assert colour.channels == 3 and colour.stored == (6, 3, 4) and colour.crop == (2, 3, 4)
    with pytest.raises(DataError, match="offsets 0, 2048: no room for 2064 voxels"):
        read_index(write(tmp_path / "index.json", {**GOOD, "channels": 86}))


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("channels", 0, "channels is 0, not a number of them"),
        ("channels", [3], r"channels is \[3\], not a number"),
        ("version", 99, "format version 99, this program reads 1"),
        ("version", None, "format version None"),
        ("crop", [2, 3], r"crop is \[2, 3\], not three sides in voxels"),
        ("crop", [2, 3, 0], "crop is"),
        ("crop", [2, 3, 4.0], "crop is"),
        ("crop", "234", "crop is"),
        ("crop", 7, "not an index of shards"),
        ("voxel_size", [8.0, 8.0], r"voxel_size is \[8.0, 8.0\], not three sides in nm"),
        ("voxel_size", [8.0, 8.0, -1.0], "voxel_size is"),
        ("voxel_size", [], "voxel_size is"),
        ("count", 4, "count is 4, but its shards hold 3"),
        ("shards", 7, "not an index of shards"),
        ("shards", ["shard-000000.tar"], "not an index of shards"),
        ("surprise", 1, "not an index of shards: .*surprise"),
    ],
)
def test_an_index_that_cannot_be_is_refused_in_one_line(tmp_path, key, value, message):
    path = write(tmp_path / "index.json", {**GOOD, key: value})
    with pytest.raises(DataError, match=message) as caught:
        read_index(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["crop", "count", "shards", "volumes", "request"])
def test_an_index_that_lacks_something_is_refused(tmp_path, key):
    data = {name: value for name, value in GOOD.items() if name != key}
    with pytest.raises(DataError, match=f"not an index of shards: .*{key}"):
        read_index(write(tmp_path / "index.json", data))


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("name", "../secret.tar", "../secret.tar is not the name of a tar in this folder"),
        ("name", "/etc/x.tar", "not the name of a tar"),
        ("name", ["a.tar"], "not the name of a tar"),
        ("name", "shard-000000.tar", "shard-000000.tar is listed twice"),
        ("sha256", "0" * 63, "sha256 of '0{63}', not 64 hexadecimal digits"),
        ("sha256", "../" + "0" * 61, "not 64 hexadecimal digits"),
        ("sha256", None, "not 64 hexadecimal digits"),
        ("count", 2, "has 2 samples, but 2 offsets and not one more"),
        ("count", 0, "has 0 samples in 10240 bytes"),
        ("count", "1", "has '1' samples"),
        ("bytes", -1, "1 samples in -1 bytes"),
        ("bytes", 2047, "offsets beyond its 2047 bytes, the last is 2048"),
        ("offsets", [0, 10752], "offsets beyond its 10240 bytes, the last is 10752"),
        ("offsets", [0, 2048.0], "offsets beyond"),
        ("offsets", [-512, 2048], "offsets beyond"),
        ("offsets", [2048, 2048], "offsets 2048, 2048: no room for 24 voxels, its sample 0"),
        ("offsets", [4096, 2048], "offsets 4096, 2048: no room for 24 voxels, its sample 0"),
        ("offsets", [0, 23], "no room for 24 voxels"),
        ("offsets", 7, "not an index of shards"),
    ],
)
def test_a_tar_that_cannot_be_is_refused_by_its_name(tmp_path, key, value, message):
    data = copy.deepcopy(GOOD)
    data["shards"][1][key] = value
    with pytest.raises(DataError, match=message):
        read_index(write(tmp_path / "index.json", data))


def test_what_is_no_json_object_is_refused(tmp_path):
    for text, message in {"{": "is not readable", "[]": "does not hold a JSON object"}.items():
        with pytest.raises(DataError, match=f"index.json {message}"):
            read_index(write(tmp_path / "index.json", text))
    with pytest.raises(DataError, match="nowhere.json is not readable: No such file"):
        read_index(tmp_path / "nowhere.json")


def test_sizes_are_rounded_up_and_digests_are_of_the_content(tmp_path):
    assert [padded(n) for n in (0, 1, 512, 513)] == [0, 512, 512, 1024] and padded(5, 4) == 8
    (tmp_path / "a").write_bytes(bytes(range(256)) * 9000)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(bytes(range(256)) * 9000).hexdigest()
