"""The file server: pages of other sites may read, whole files or parts, and only in the folder."""

import http.client
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from tokenunify_scale.viewer.serve import main, server
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box

BYTES = bytes(range(256)) * 300


@contextmanager
def served(folder):
    """A function that asks a server of ``folder``: (status, headers, body)."""
    with server(folder, port=0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        connection = http.client.HTTPConnection(*running.server_address, timeout=10)

        def ask(path, method="GET", **headers):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

        try:
            yield ask
        finally:
            connection.close()
            running.shutdown()
            thread.join()


def test_files_chunks_that_are_not_there_and_questions_are_open_to_any_site(tmp_path):
    (tmp_path / "a.bin").write_bytes(BYTES)
    with served(tmp_path) as ask:
        for path, method, status in (
            ("/a.bin", "GET", 200), ("/a.bin", "HEAD", 200), ("/0/0/0", "GET", 404),
            ("/a.bin", "OPTIONS", 204),
        ):  # fmt: skip
            found, headers, body = ask(path, method)
            assert found == status and headers["Access-Control-Allow-Origin"] == "*"
            assert body == BYTES if (method, status) == ("GET", 200) else body != BYTES
        assert "Range" in headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize(
    ("asked", "first", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=70000-", 70000, len(BYTES)),
        ("bytes=-5", len(BYTES) - 5, len(BYTES)),
        ("bytes=76000-99999999", 76000, len(BYTES)),
    ],
)
def test_a_part_of_a_file_is_that_part(tmp_path, asked, first, stop):
    (tmp_path / "a.bin").write_bytes(BYTES)
    with served(tmp_path) as ask:
        status, headers, body = ask("/a.bin", Range=asked)
        assert status == 206 and body == BYTES[first:stop]
        assert headers["Content-Range"] == f"bytes {first}-{stop - 1}/{len(BYTES)}"
        assert ask("/a.bin")[0] == 200  # and the next answer is whole


def test_a_part_beyond_the_end_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(BYTES)
    with served(tmp_path) as ask:
        status, headers, _ = ask("/a.bin", Range=f"bytes={len(BYTES)}-")
        assert status == 416 and headers["Content-Range"] == f"bytes */{len(BYTES)}"
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert ask("/a.bin", Range="bytes=1-2")[2] == BYTES[1:3]


def test_nothing_outside_the_folder_is_served(tmp_path):
    (tmp_path / "secret").write_text("no")
    (tmp_path / "open").mkdir()
    with served(tmp_path / "open") as ask:
        for path in ("/../secret", "/%2e%2e/secret", "/..%2fsecret"):
            assert ask(path)[0] == 404


def test_the_command_says_a_link_and_serves_what_it_names(tmp_path):
    told = {"voxel_size": (40, 4, 4), "offset": [0, 0, 0]}
    array = Boxed.create(
        tmp_path / "segmentation.zarr", shape=(4, 8, 8), dtype=np.uint64, chunk=(4, 8, 8),
        attributes=told,
    )  # fmt: skip
    array.write(Box.of((4, 8, 8)), np.full((4, 8, 8), 2**60, np.uint64))
    with server(tmp_path, port=0) as free:
        port = free.server_address[1]
    words = [sys.executable, "-m", "tokenunify_scale.viewer.serve", str(tmp_path)]
    running = subprocess.Popen(
        [*words, "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        # A shell lets its background jobs, this test perhaps among them, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        said = running.stdout.readline() + running.stdout.readline()
        assert re.search(rf"served at http://localhost:{port} until Ctrl-C\.\n2\. Open http", said)
        connection = http.client.HTTPConnection("localhost", port, timeout=10)
        for name in (".zarray", ".zattrs", "0/0/0"):
            connection.request("GET", f"/segmentation.zarr/{name}")
            answer = connection.getresponse()
            assert answer.status == 200 and answer.read()
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=20) == 0
    finally:
        running.kill()
        running.wait()


def test_an_empty_folder_and_a_taken_port_are_a_line_and_an_exit_code(tmp_path, capsys):
    assert main([str(tmp_path)]) == 4
    assert "--format zarr" in capsys.readouterr().err
    told = {"voxel_size": (40, 4, 4)}
    Boxed.create(
        tmp_path / "segmentation.zarr", shape=(1, 1, 1), dtype=np.uint8, chunk=(1, 1, 1),
        attributes=told,
    )  # fmt: skip
    with server(tmp_path, port=0) as taken:
        port = taken.server_address[1]
        assert main([str(tmp_path), "--port", str(port)]) == 3
    assert f"port {port}" in capsys.readouterr().err
