import functools
import http.server
import re
import threading

import numpy as np
import pytest

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.volumes import store

BIG = np.random.default_rng(0).bytes(1000)


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A server that sends the part that is asked for, as those of the web do; one door is shut."""

    asked: list[tuple[str, str | None]] = []

    def log_message(self, *args):
        """Say nothing."""

    def do_GET(self):
        asked = self.headers.get("Range")
        self.asked.append((self.path, asked))
        if "secret" in self.path:
            return self.send_error(403)
        if "broken" in self.path:
            return self.send_error(418)
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "")
        if not match or "big" not in self.path:
            return super().do_GET()
        first, last = int(match[1]), min(int(match[2]), len(BIG) - 1)
        if first > last:
            return self.send_error(416)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(BIG)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(BIG[first : last + 1])


class Whole(http.server.SimpleHTTPRequestHandler):
    """The simplest server, which sends whole files only."""

    def log_message(self, *args):
        """Say nothing."""


def serve(handler, folder):
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=folder)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same files as a local path, a file URL, and behind both kinds of server."""
    folder = tmp_path_factory.mktemp("a b")
    (folder / "big").write_bytes(BIG)
    (folder / "empty").write_bytes(b"")
    (folder / "facts.json").write_text('{"a": 1}')
    (folder / "page").write_text("<html>not what you asked for</html>")
    servers = [serve(kind, folder) for kind in (Ranges, Whole)]
    urls = [f"http://127.0.0.1:{server.server_port}" for server in servers]
    yield [str(folder), f"file://{str(folder).replace(' ', '%20')}", *urls]
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(store, "PIECE_BYTES", 64)


def test_an_object_is_read_whole_and_a_missing_one_is_none(places):
    for place in places:
        assert store.read_bytes(store.join(place, "big")) == BIG
        assert store.read_bytes(store.join(place, "empty")) == b""
        assert store.read_bytes(store.join(place, "none")) is None
        names = ("big", "empty", "none")
        assert [store.exists(store.join(place, name)) for name in names] == [True, True, False]


def test_what_a_host_does_not_let_be_read_counts_as_missing(places):
    assert store.read_bytes(store.join(places[2], "secret")) is None
    assert not store.exists(store.join(places[2], "secret"))
    with pytest.raises(DataError, match=r"/broken: .*418"):
        store.read_bytes(store.join(places[2], "broken"))
    with pytest.raises(DataError, match=r"/broken: .*418"):
        store.exists(store.join(places[2], "broken"))


def test_json_is_an_object_or_refused_and_a_page_of_a_server_is_none(places):
    for place in places:
        assert store.read_json(store.join(place, "facts.json")) == {"a": 1}
        with pytest.raises(DataError, match="big: not readable JSON"):
            store.read_json(store.join(place, "big"))
    assert store.read_json(store.join(places[2], "page")) is None


def test_a_download_is_the_object_byte_for_byte(places, tmp_path, small):
    for place in places:
        store.download(store.join(place, "big"), tmp_path / "got", bytes=len(BIG))
        assert (tmp_path / "got").read_bytes() == BIG
        store.download(store.join(place, "empty"), tmp_path / "got", bytes=0)
        assert (tmp_path / "got").read_bytes() == b""


def test_a_download_asks_for_pieces_and_never_twice(places, tmp_path, small):
    Ranges.asked.clear()
    store.download(f"{places[2]}/big", tmp_path / "got", bytes=len(BIG))
    ranges = [f"bytes={start}-{min(start + 64, 1000) - 1}" for start in range(0, 1000, 64)]
    assert sorted(r for _, r in Ranges.asked) == sorted(["bytes=0-0", *ranges])


@pytest.mark.parametrize("name, bytes", [("big", 1001), ("big", 5000), ("none", 1000), ("none", 5)])
def test_an_object_that_is_short_or_missing_leaves_no_file(places, tmp_path, small, name, bytes):
    for place in places:
        with pytest.raises(DataError, match=f"{name}: "):
            store.download(store.join(place, name), tmp_path / "got", bytes=bytes)
        assert not (tmp_path / "got").exists()


def test_a_download_into_no_folder_is_an_os_error(places, tmp_path):
    with pytest.raises(OSError):
        store.download(f"{places[0]}/big", tmp_path / "none" / "got", bytes=1000)


@pytest.mark.parametrize(
    "url, expected",
    [
        ("gs://pail/a/b c?", {"driver": "gcs", "bucket": "pail", "path": "a/b c?"}),
        ("s3://pail", {"driver": "s3", "bucket": "pail", "path": ""}),
        ("s3://pail/key/", {"driver": "s3", "bucket": "pail", "path": "key/"}),
        ("http://h/a%20b", {"driver": "http", "base_url": "http://h", "path": "/a b"}),
        ("https://h:1/a?k=1", {"driver": "http", "base_url": "https://h:1?k=1", "path": "/a"}),
        ("https://h", {"driver": "http", "base_url": "https://h", "path": "/"}),
        ("/a/b/", {"driver": "file", "path": "/a/b/"}),
        ("file:///a%20b", {"driver": "file", "path": "/a b"}),
    ],
)
def test_a_place_in_the_words_of_tensorstore(url, expected):
    assert store.kvstore(url) == expected
    assert store.library().KvStore.Spec(expected).path in (expected["path"], "")


@pytest.mark.parametrize("url", ["ftp://host/a", "gs:///a", "https:///a"])
def test_other_urls_are_refused(url):
    with pytest.raises(ConfigError, match="not a URL of"):
        store.read_bytes(url)


def test_a_bucket_whose_name_cannot_be_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="Invalid S3 bucket name"):
        store.read_bytes("s3://b/key")
    with pytest.raises(ConfigError, match="Invalid S3 bucket name"):
        store.download("s3://b/key", tmp_path / "got", bytes=5)


def test_a_name_is_joined_before_the_query():
    assert store.join("https://h/a/?k=1", "b/c") == "https://h/a/b/c?k=1"
    assert store.join("s3://b", "c") == "s3://b/c" and store.join("a/", "") == "a/"


def test_the_words_of_tensorstore_are_cut_to_the_point():
    said = (
        'NOT_FOUND: Error opening "n5" driver: All 3 retry attempts failed: CURL error Could not\n'
        "connect [curl_code='7'] [tensorstore_spec='{\"driver\"}']"
    )
    assert store.brief(ValueError(said)) == "Could not connect"
    assert store.brief(TimeoutError()) == "no answer in time"
    assert len(store.brief(ValueError("x" * 1000))) == 300
