import functools
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.shards import members
from tokenunify_scale.data.shards import reader as shards
from tokenunify_scale.data.shards.cache import Cache, OpenFile
from tokenunify_scale.data.shards.pack import write_shards
from tokenunify_scale.data.shards.reader import open_shards
from tokenunify_scale.volumes import store

CROP = (2, 3, 4)


class Samples:
    """Seven crops."""

    def __len__(self):
        return 7

    def __getitem__(self, number):
        crop = np.random.default_rng(number).integers(0, 256, CROP).astype(np.uint8)
        return crop, {"volume": 0, "box": [[number, 0, 0], [number + 2, 3, 4]]}


def write(out, samples=None):
    index = {
        "crop": CROP,
        "voxel_size": (40.0, 8.0, 8.0),
        "volumes": [{"path": "a.h5:raw"}],
        "request": {"seed": 0},
    }
    return write_shards(samples or Samples(), out, per_shard=3, index=index)


def change_index(folder, change):
    path = folder / "index.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def assert_all_read(found, numbers=range(7)):
    for number in numbers:
        crop, meta = Samples()[number]
        read, told = found.read(number)
        assert np.array_equal(read, crop) and told == meta
        out = np.zeros(CROP, np.uint8)
        found.read_into(number, out)
        assert np.array_equal(out, crop)


def test_each_sample_is_read_back_by_its_number(tmp_path):
    written = write(tmp_path / "s")
    found = open_shards(tmp_path / "s")
    assert found.index == written and found.lost == {}
    assert len(found) == 7 and [s.count for s in written.shards] == [3, 3, 1]
    assert written.voxel_size == (40.0, 8.0, 8.0) and written.crop == CROP
    assert_all_read(found, (6, 0, 3, 2, 5, 1, 4))
    for sample in (7, -1):
        with pytest.raises(IndexError, match=f"sample {sample} of 7"):
            found.read(sample)
        with pytest.raises(IndexError, match=f"sample {sample} of 7"):
            found.read_into(sample, np.empty(CROP, np.uint8))


def test_a_path_is_a_file_url_too(tmp_path):
    write(tmp_path / "s")
    assert_all_read(open_shards(f"file://{tmp_path}/s"), (3,))


def test_a_batch_is_filled_in_place_by_one_call_each(tmp_path, monkeypatch):
    write(tmp_path)
    found, calls, preadv = open_shards(tmp_path), [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *words: calls.append(words) or preadv(*words))
    monkeypatch.setattr(os, "pread", None)
    batch = np.full((7, 1, *CROP), 77, np.uint8)
    for sample in (5, 2):
        found.read_into(sample, batch[sample, 0])
        assert np.array_equal(batch[sample, 0], Samples()[sample][0])
    assert len(calls) == 2 and all(words[1][1].base is batch for words in calls)
    assert (batch[[0, 1, 3, 4, 6]] == 77).all()


def test_colours_are_read_in_place_too(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    samples = [(rng.integers(0, 256, (3, 4, 5)).astype(np.uint8), {"volume": 0})] * 2
    index = {"crop": (1, 4, 5), "channels": 3, "voxel_size": None, "volumes": [{}], "request": {}}
    write_shards(samples, tmp_path, per_shard=2, index=index)
    found, calls, preadv = open_shards(tmp_path), [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *words: calls.append(words) or preadv(*words))
    monkeypatch.setattr(os, "pread", None)
    crop, meta = found.read(1)
    assert np.array_equal(crop, samples[1][0]) and meta == {"volume": 0}
    batch = np.zeros((2, 3, 1, 4, 5), np.uint8)
    found.read_into(1, batch.reshape(2, 3, 4, 5)[0])
    assert np.array_equal(batch[0, :, 0], samples[1][0]) and not batch[1].any()
    assert len(calls) == 2 and calls[1][1][1].base is batch
    with pytest.raises(ValueError, match=r"read into uint8 \(3, 4, 5\), not into"):
        found.read_into(1, np.empty((1, 4, 5), np.uint8))


@pytest.mark.parametrize(
    "out",
    [
        np.empty((2, 3, 5), np.uint8),
        np.empty(24, np.uint8),
        np.empty(CROP, np.int8),
        np.empty(CROP, np.uint16),
        np.empty(CROP[::-1], np.uint8).T,
        np.empty((2, 3, 8), np.uint8)[:, :, ::2],
    ],
)
def test_a_crop_is_not_read_to_where_it_does_not_fit(tmp_path, out):
    write(tmp_path)
    with pytest.raises(ValueError, match="uint8|contiguous"):
        open_shards(tmp_path).read_into(0, out)


@pytest.mark.parametrize("layout", ["order", "pax", "folders", "fortran", "more"])
def test_tars_that_others_laid_out_are_read(tmp_path, layout):
    sizes = {"pax": (tarfile.PAX_FORMAT, 0.5)}.get(layout, (tarfile.GNU_FORMAT, 7))
    offsets, path = [], tmp_path / "theirs.tar"
    with tarfile.open(path, "w", format=sizes[0]) as tar:
        for number in range(7):
            crop, meta = Samples()[number]
            npy = io.BytesIO()
            np.save(npy, np.asfortranarray(crop) if layout == "fortran" else crop)
            parts = {"json": json.dumps(meta).encode(), "raw.npy": npy.getvalue()}
            if layout == "order":
                parts = dict(reversed(parts.items()))
            if layout == "more":
                parts = {"cls": b"1", **parts, "txt": b""}
            offsets.append(tar.offset)
            for name, content in parts.items():
                key = f"dir.v2/{number}" if layout == "folders" else number
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size, info.mtime = len(content), sizes[1]
                tar.addfile(info, io.BytesIO(content))
        offsets.append(tar.offset)
    content = path.read_bytes()
    shard = {
        "name": path.name, "count": 7, "bytes": len(content), "offsets": offsets,
        "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    write(tmp_path)
    change_index(tmp_path, lambda data: data.update(shards=[shard]))
    assert_all_read(open_shards(tmp_path))


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
    tar.write_bytes(data + b"x")
    with pytest.raises(DataError, match=f"has {len(data) + 1} bytes, index.json says {len(data)}$"):
        open_shards(tmp_path)
    tar.unlink()
    with pytest.raises(DataError, match="shard-000002.tar is missing"):
        open_shards(tmp_path)
    (tmp_path / "index.json").write_text('{"version": 99}')
    for damaged in ("stop", "skip"):
        with pytest.raises(DataError, match="format version 99"):
            open_shards(tmp_path, damaged=damaged)


def test_damaged_tars_can_be_left_out_and_are_named_once(tmp_path, capsys):
    write(tmp_path)
    first, second = (tmp_path / f"shard-00000{n}.tar" for n in range(2))
    second.write_bytes(second.read_bytes()[:-512])
    first.unlink()
    found = open_shards(tmp_path, damaged="skip")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("2 of 3 tars cannot be read: ")
    assert f"{first} is missing" in lines[0] and f"{second} has 9728 bytes" in lines[0]
    assert len(found) == 7 and sorted(found.lost) == [0, 1]
    assert_all_read(found, [6])
    out = np.zeros(CROP, np.uint8)
    for sample, message in {2: "shard-000000.tar is missing", 3: "says 10240, it was cut"}.items():
        with pytest.raises(DataError, match=f"{message}.*sample {sample}, byte"):
            found.read(sample)
        with pytest.raises(DataError, match=f"{message}.*sample {sample}, byte"):
            found.read_into(sample, out)
    (tmp_path / "shard-000002.tar").unlink()
    with pytest.raises(DataError, match="shard-000000.tar is missing"):
        open_shards(tmp_path, damaged="skip")
    assert capsys.readouterr().err == ""


def test_damage_after_opening_is_named_with_file_and_byte(tmp_path):
    write(tmp_path)
    found, out = open_shards(tmp_path), np.zeros(CROP, np.uint8)
    assert_all_read(found)
    offset, tar = found.index.shards[0].offsets[1], tmp_path / "shard-000000.tar"
    data, lost = tar.read_bytes(), f"shard-000000.tar is damaged: sample 1 at byte {offset}"
    ends = f"shard-000000.tar ends early: sample 1 at byte {offset}"

    def both(sample, message):
        with pytest.raises(DataError, match=message):
            found.read(sample)
        with pytest.raises(DataError, match=message):
            found.read_into(sample, out)

    tar.write_bytes(data[:offset] + bytes(100) + data[offset + 100 :])
    both(1, lost)
    tar.write_bytes(data[: offset + 1024] + bytes(100) + data[offset + 1124 :])
    both(1, lost)
    tar.write_bytes(data.replace(b"(2, 3, 4)", b"(4, 3, 2)"))
    both(1, rf"{lost}: a crop of uint8 \(4, 3, 2\), not uint8 \(2, 3, 4\)")
    for size in (offset, offset + 10, found.index.shards[0].offsets[2] - 1):
        tar.write_bytes(data[:size])
        both(1, ends)
    tar.write_bytes(data)
    assert_all_read(found)
    tar.unlink()
    both(0, "shard-000000.tar: No such file.*sample 0, byte 0")
    tar.write_bytes(data)
    assert_all_read(found)
    (tmp_path / "new.tar").write_bytes(bytes(len(data)))
    (tmp_path / "new.tar").replace(tar)
    both(1, lost)


def test_a_meta_that_is_no_json_is_damage_of_its_sample_alone(tmp_path):
    write(tmp_path)
    tar = tmp_path / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b'{"box": [[1', b'{"box": [[x'))
    found, out = open_shards(tmp_path), np.zeros(CROP, np.uint8)
    with pytest.raises(DataError, match="shard-000000.tar is damaged: sample 1 at byte"):
        found.read(1)
    found.read_into(1, out)
    assert np.array_equal(out, Samples()[1][0])
    assert_all_read(found, (0, 2))


def test_no_damaged_byte_gives_another_crop_without_a_word(tmp_path):
    write(tmp_path)
    found, out, rng = open_shards(tmp_path), np.zeros(CROP, np.uint8), np.random.default_rng(0)
    start, stop = found.index.shards[0].offsets[1:3]
    tar, voxels = tmp_path / "shard-000000.tar", stop - members.Layout(CROP).behind
    data, errors = tar.read_bytes(), 0
    for at in rng.permutation(np.arange(start, voxels))[:300]:
        changed = bytearray(data)
        changed[at] ^= int(rng.integers(1, 256))
        tar.write_bytes(changed)
        try:
            found.read_into(1, out)
        except DataError as error:
            assert f"sample 1 at byte {start}" in str(error)
            errors += 1
        else:
            assert np.array_equal(out, Samples()[1][0])
    assert errors


def test_threads_read_at_once_with_few_files_open(tmp_path, monkeypatch):
    opened = []

    def count(path):
        opened.append(path)
        return OpenFile(path)

    monkeypatch.setattr(shards, "keep_open", functools.lru_cache(2)(count))
    write(tmp_path)
    found = open_shards(tmp_path)
    order = np.random.default_rng(0).integers(0, 7, 2000).tolist()
    before = len(os.listdir("/proc/self/fd"))

    def check(number):
        out = np.empty(CROP, np.uint8)
        found.read_into(number, out)
        return np.array_equal(out, Samples()[number][0])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(check, order))
    assert len(opened) > 3 and len(os.listdir("/proc/self/fd")) <= before + 2
    found.read(0)
    opened.clear()
    for _ in range(9):
        found.read(0)
    assert opened == []


class Host:
    """Objects by URL instead of a network; remembers what was asked for."""

    def __init__(self, monkeypatch, folder, url):
        self.objects = {f"{url}/{path.name}": path.read_bytes() for path in folder.iterdir()}
        self.asked = []
        monkeypatch.setattr(store, "read_bytes", self.objects.get)
        monkeypatch.setattr(store, "download", self.download)

    def download(self, url, path, *, bytes):
        self.asked.append(url.rpartition("/")[2])
        if url not in self.objects:
            raise DataError(f"{url}: no such object")
        path.write_bytes(self.objects[url])


URL = "https://example.org/shards"


@pytest.fixture
def host(monkeypatch, tmp_path):
    write(tmp_path / "theirs")
    return Host(monkeypatch, tmp_path / "theirs", URL)


def test_a_folder_behind_a_url_is_read_through_the_cache(host, tmp_path):
    found = open_shards(f"{URL}/", cache=Cache(tmp_path / "cache", limit=30720))
    assert host.asked == [] and len(found) == 7
    assert_all_read(found, (4, 3, 5))
    assert host.asked == ["shard-000001.tar"]
    assert_all_read(found)
    again = open_shards(URL, cache=Cache(tmp_path / "cache", limit=30720))
    assert_all_read(again)
    assert host.asked == ["shard-000001.tar", "shard-000000.tar", "shard-000002.tar"]


def test_a_folder_larger_than_the_cache_is_read_all_the_same(host, tmp_path):
    found = open_shards(URL, cache=Cache(tmp_path / "cache", limit=20480))
    for _ in range(2):
        assert_all_read(found)
        assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 20480
    assert len(host.asked) > 3


def test_a_tar_is_fetched_before_it_is_read(host, tmp_path):
    cache = Cache(tmp_path / "cache", limit=30720)
    found = open_shards(URL, cache=cache)
    found.prefetch(6)
    found.prefetch(0)
    deadline = time.monotonic() + 20
    while cache._fetcher is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert host.asked == ["shard-000002.tar", "shard-000000.tar"]
    assert_all_read(found, (0, 1, 2, 6))
    assert len(host.asked) == 2
    open_shards(tmp_path / "theirs").prefetch(0)


def test_what_is_wrong_with_a_folder_behind_a_url_is_said(host, tmp_path):
    with pytest.raises(ConfigError, match=f"{URL}: .*through a cache folder"):
        open_shards(URL)
    with pytest.raises(DataError, match="https://example.org/other/index.json: missing"):
        open_shards("https://example.org/other", cache=Cache(tmp_path / "c", limit=10**6))
    small = Cache(tmp_path / "c", limit=10239)
    with pytest.raises(ConfigError, match="shard-000000.tar has 10240 bytes, more than the 10239"):
        open_shards(URL, cache=small)
    host.objects[f"{URL}/index.json"] = b"<html>"
    with pytest.raises(DataError, match=f"{URL}/index.json is not readable"):
        open_shards(URL, cache=Cache(tmp_path / "c", limit=10**6))


def test_a_tar_that_came_otherwise_than_listed_stops_or_is_not_asked_for_again(host, tmp_path):
    good = host.objects[f"{URL}/shard-000001.tar"]
    digest = hashlib.sha256(good).hexdigest()
    host.objects[f"{URL}/shard-000001.tar"] = good[:-1] + b"x"
    del host.objects[f"{URL}/shard-000002.tar"]
    cache = Cache(tmp_path / "cache", limit=10**6)
    stop, skip = open_shards(URL, cache=cache), open_shards(URL, cache=cache, damaged="skip")
    message = f"{URL}/shard-000001.tar: its content has sha256 .*expected {digest} .sample 4, byte"
    for found in (stop, skip, skip, skip):
        with pytest.raises(DataError, match=message):
            found.read(4)
    with pytest.raises(DataError, match="shard-000002.tar: no such object .sample 6, byte 0"):
        skip.read_into(6, np.empty(CROP, np.uint8))
    assert_all_read(skip, (0, 1, 2))
    assert host.asked == ["shard-000001.tar"] * 2 + ["shard-000002.tar", "shard-000000.tar"]
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 1
    host.objects[f"{URL}/shard-000001.tar"] = good
    assert_all_read(stop, (3, 4, 5))


def test_shards_are_read_over_http(tmp_path):
    pytest.importorskip("tensorstore")

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words):
            pass

    write(tmp_path / "theirs")
    serve = functools.partial(Handler, directory=str(tmp_path / "theirs"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        found = open_shards(url, cache=Cache(tmp_path / "cache", limit=30720))
        assert_all_read(found)
        (tmp_path / "theirs" / "shard-000000.tar").unlink()
        found = open_shards(url, cache=Cache(tmp_path / "other", limit=30720))
        with pytest.raises(DataError, match="shard-000000.tar: no such object"):
            found.read(0)
        server.shutdown()
    assert os.listdir(tmp_path / "other") in ([], ["cache.lock"])
