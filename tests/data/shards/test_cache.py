import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tokenunify_scale.config import ConfigError, DataError, HostError
from tokenunify_scale.data.shards.cache import Cache
from tokenunify_scale.volumes import store

SIZE = 1000


def content(name):
    return hashlib.sha256(name.encode()).digest() * 31 + name.encode().ljust(8)


def facts(name):
    return {"bytes": SIZE, "sha256": hashlib.sha256(content(name)).hexdigest()}


def url(name):
    return f"https://example.org/{name}/shard-000000.tar"


def read(cache, name):
    file = cache.open(url(name), **facts(name))
    return os.pread(file.descriptor, 2 * SIZE, 0)


def names(folder, *, among="abcdefgh"):
    """Which tars a cache holds."""
    held = {path.name for path in folder.glob("*.tar")}
    return "".join(name for name in among if f"{facts(name)['sha256']}.tar" in held)


def rest(folder):
    """What else lies there."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".tar")


@pytest.fixture
def asked(monkeypatch):
    """What was downloaded, instead of a network."""
    asked = []

    def download(url, path, *, bytes):
        asked.append(url.split("/")[3])
        path.write_bytes(content(asked[-1]))

    monkeypatch.setattr(store, "download", download)
    return asked


def test_a_tar_is_fetched_once_also_by_the_next_run(tmp_path, asked):
    for _ in range(2):
        cache = Cache(tmp_path / "new" / "cache", limit=2 * SIZE)
        for name in "abab":
            assert read(cache, name) == content(name)
    assert asked == ["a", "b"] and names(cache.folder) == "ab"
    assert rest(cache.folder) == ["cache.lock"]


def test_the_same_content_from_another_place_is_not_fetched_again(tmp_path, asked):
    cache = Cache(tmp_path, limit=2 * SIZE)
    read(cache, "a")
    cache.open("https://example.org/mirror/x.tar", **facts("a"))
    assert asked == ["a"]


def test_the_tars_least_recently_used_make_room(tmp_path, asked):
    cache = Cache(tmp_path, limit=3 * SIZE + 7)
    for name in "abc":
        read(cache, name)
    read(cache, "a")
    read(cache, "d")
    assert names(tmp_path) == "acd"
    smaller = Cache(tmp_path, limit=2 * SIZE)
    read(smaller, "d")
    read(smaller, "e")
    assert names(tmp_path) == "de" and asked == list("abcde")


def test_a_tar_that_is_being_read_may_go_and_is_read_on(tmp_path, asked):
    cache = Cache(tmp_path, limit=SIZE)
    file = cache.open(url("a"), **facts("a"))
    read(cache, "b")
    assert names(tmp_path) == "b"
    assert os.pread(file.descriptor, SIZE, 0) == content("a")


def test_other_files_in_the_folder_are_left_alone_and_do_not_count(tmp_path, asked):
    (tmp_path / "shard-000000.tar").write_bytes(bytes(5000))
    (tmp_path / "notes.part").write_text("mine")
    cache = Cache(tmp_path, limit=SIZE)
    for name in "ab":
        read(cache, name)
    assert names(tmp_path) == "b"
    assert (tmp_path / "shard-000000.tar").stat().st_size == 5000
    assert (tmp_path / "notes.part").read_text() == "mine"


def test_a_limit_that_holds_no_tar_is_refused(tmp_path, asked):
    for limit in (0, -5):
        with pytest.raises(ConfigError, match=f"a cache of {limit} bytes"):
            Cache(tmp_path, limit=limit)
    with pytest.raises(ConfigError, match=f"a/shard-000000.tar has 1000 bytes, more than the 999.*"
                       f"{tmp_path}"):  # fmt: skip
        read(Cache(tmp_path, limit=999), "a")
    assert asked == []


@pytest.mark.parametrize(
    "came, message",
    [
        (b"", "has 0 bytes, expected 1000"),
        (content("a")[:-1], "has 999 bytes, expected 1000"),
        (content("b"), f"its content has sha256 {facts('b')['sha256']}, expected "
                       f"{facts('a')['sha256']}"),
        (DataError("https://example.org/a: no such object"), "no such object"),
        (KeyboardInterrupt(), None),
    ],
)  # fmt: skip
def test_nothing_is_kept_of_what_is_not_the_tar(tmp_path, monkeypatch, asked, came, message):
    def download(url, path, *, bytes):
        path.write_bytes(b"x")
        if isinstance(came, BaseException):
            raise came
        path.write_bytes(came)

    cache, good = Cache(tmp_path, limit=SIZE), store.download
    monkeypatch.setattr(store, "download", download)
    wrong = KeyboardInterrupt if message is None else DataError
    with pytest.raises(wrong, match=message and f"https://example.org/a.*{message}"):
        read(cache, "a")
    assert os.listdir(tmp_path) == ["cache.lock"]
    monkeypatch.setattr(store, "download", good)
    assert read(cache, "a") == content("a")


def test_a_full_disk_and_a_folder_that_cannot_be_are_one_line(tmp_path, monkeypatch):
    def download(url, path, *, bytes):
        path.write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(store, "download", download)
    with pytest.raises(HostError, match=r"cache .*\.part: No space left on device$"):
        read(Cache(tmp_path / "cache", limit=SIZE), "a")
    assert os.listdir(tmp_path / "cache") == ["cache.lock"]
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="file/cache.*: Not a directory$"):
        Cache(tmp_path / "file" / "cache", limit=SIZE)


def test_what_a_killed_process_left_is_not_trusted_and_takes_no_room(tmp_path, asked):
    half, other = (facts(name)["sha256"] for name in "ab")
    (tmp_path / f"{half}.part").write_bytes(content("a")[:500])
    (tmp_path / f"{other}.part").write_bytes(content("b"))
    for name in (half, other):
        (tmp_path / f"{name}.lock").write_bytes(bytes(SIZE))
    (tmp_path / f"{facts('c')['sha256']}.tar").write_bytes(content("c")[:-1])
    cache = Cache(tmp_path, limit=SIZE)
    for name in "ac":
        assert read(cache, name) == content(name)
    assert asked == ["a", "c"] and names(tmp_path) == "c" and rest(tmp_path) == ["cache.lock"]


def test_threads_share_downloads_and_the_limit_is_never_passed(tmp_path, monkeypatch):
    asked, fullest = [], []

    def download(url, path, *, bytes):
        asked.append(url.split("/")[3])
        data = content(asked[-1])
        for end in (300, 1000):
            path.write_bytes(data[:end])
            sizes = (p.stat().st_size for p in tmp_path.iterdir() if p.suffix != ".lock")
            try:
                fullest.append(sum(sizes))
            except FileNotFoundError:
                pass
            time.sleep(0.005)

    monkeypatch.setattr(store, "download", download)
    caches = [Cache(tmp_path, limit=3 * SIZE) for _ in range(2)]
    with ThreadPoolExecutor(6) as pool:
        same = pool.map(lambda k: read(caches[k % 2], "a") == content("a"), range(12))
        assert all(same) and asked == ["a"]
        wanted = "abcdefgh" * 4
        found = list(pool.map(lambda k: read(caches[k % 2], wanted[k]), range(len(wanted))))
    assert found == [content(name) for name in wanted]
    assert 2 * SIZE < max(fullest) <= 3 * SIZE and len(names(tmp_path)) <= 3
    assert rest(tmp_path) == ["cache.lock"]


def test_prefetched_tars_are_there_and_errors_are_left_to_the_reader(tmp_path, monkeypatch, asked):
    good = store.download

    def download(url, path, *, bytes):
        if "/x/" in url:
            raise DataError(f"{url}: no such object")
        good(url, path, bytes=bytes)

    monkeypatch.setattr(store, "download", download)
    cache = Cache(tmp_path, limit=9 * SIZE)
    for name in "xabxa":
        cache.prefetch(url(name), **facts(name))
    deadline = time.monotonic() + 20
    while names(tmp_path) != "ab" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert read(cache, "a") == content("a") and asked == ["a", "b"]
    with pytest.raises(DataError, match="no such object"):
        read(cache, "x")
    while cache._fetcher is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    cache.prefetch(url("c"), **facts("c"))
    while names(tmp_path) != "abc":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_nothing_is_fetched_for_a_cache_that_is_gone(tmp_path, monkeypatch, asked):
    good, started, go_on = store.download, threading.Event(), threading.Event()

    def download(url, path, *, bytes):
        started.set()
        go_on.wait(20)
        good(url, path, bytes=bytes)

    monkeypatch.setattr(store, "download", download)
    cache = Cache(tmp_path, limit=9 * SIZE)
    for name in "abc":
        cache.prefetch(url(name), **facts(name))
    thread = cache._fetcher
    assert started.wait(20)
    del cache
    go_on.set()
    thread.join(20)
    assert not thread.is_alive() and asked == ["a"]


PROCESS = """
import os, sys, time
from pathlib import Path
from tokenunify_scale.data.shards.cache import Cache
from tokenunify_scale.volumes import store

folder, theirs, name, size, sha256, slow = sys.argv[1:]
def download(url, path, *, bytes):
    with open(theirs + ".log", "a") as log:
        print(os.getpid(), file=log)
    data = Path(theirs).read_bytes()
    path.write_bytes(data[:500])
    time.sleep(float(slow))
    path.write_bytes(data)
store.download = download
cache = Cache(folder, limit=int(size))
if name == "prefetch":
    for digest in (sha256, "0" * 64, "1" * 64):
        cache.prefetch("https://x", bytes=int(size), sha256=digest)
    while not Path(theirs + ".log").exists():
        time.sleep(0.01)
else:
    file = cache.open(name, bytes=int(size), sha256=sha256)
    sys.exit(os.pread(file.descriptor, 5000, 0) != Path(theirs).read_bytes())
"""


def start(folder, theirs, name="https://x", *, slow):
    theirs.write_bytes(content("a"))
    words = [folder, theirs, name, SIZE, facts("a")["sha256"], slow]
    return subprocess.Popen([sys.executable, "-c", PROCESS, *map(str, words)])


def wait_for(path: Path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_that_want_the_same_tar_fetch_it_once(tmp_path):
    theirs = tmp_path / "theirs"
    processes = [start(tmp_path / "cache", theirs, slow=0.5) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len((tmp_path / "theirs.log").read_text().split()) == 1
    assert names(tmp_path / "cache") == "a" and rest(tmp_path / "cache") == ["cache.lock"]


def test_a_killed_download_leaves_nothing_that_is_taken_for_whole(tmp_path, asked):
    cache = Cache(tmp_path / "cache", limit=SIZE)
    process = start(cache.folder, tmp_path / "theirs", slow=60)
    part = cache.folder / f"{facts('a')['sha256']}.part"
    wait_for(part)
    waiting = threading.Thread(target=read, args=(cache, "b"), daemon=True)
    waiting.start()
    time.sleep(0.3)
    assert waiting.is_alive() and asked == [] and part.exists()
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    waiting.join(20)
    assert asked == ["b"] and names(cache.folder) == "b" and rest(cache.folder) == ["cache.lock"]
    assert read(cache, "a") == content("a") and names(cache.folder) == "a"


def test_a_program_that_ends_takes_the_tar_that_is_on_its_way_and_no_other(tmp_path):
    process = start(tmp_path / "cache", tmp_path / "theirs", "prefetch", slow=0.3)
    assert process.wait(60) == 0
    assert len((tmp_path / "theirs.log").read_text().split()) == 1
    assert names(tmp_path / "cache") == "a" and rest(tmp_path / "cache") == ["cache.lock"]
