"""Show a run folder's Zarr arrays in Neuroglancer: python -m tokenunify_scale.viewer.serve FOLDER.

A browser reads from another site only what that site allows, and viewers ask for parts of files;
Python's own file server does neither.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

from tokenunify_scale.config import DataError
from tokenunify_scale.viewer.neuroglancer import PORT, write_state


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder, whole or in part, for pages of any site; nothing is written."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Options are those of the handler it extends."""
        self.part: tuple[int, int] | None = None
        super().__init__(*arguments, **options)

    def end_headers(self) -> None:
        """Add what lets a page of another site read the answer."""
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Expose-Headers", "Content-Length, Content-Range")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def do_OPTIONS(self) -> None:  # noqa: N802 - the name that the server calls
        """Answer a browser that asks before it asks."""
        self.send_response(HTTPStatus.NO_CONTENT)
        self.send_header("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
        self.send_header("Access-Control-Allow-Headers", "Range, Cache-Control")
        self.send_header("Access-Control-Allow-Private-Network", "true")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_head(self) -> BinaryIO | None:
        """Open a file, at the part that is asked for; one part, which is all that viewers use."""
        self.part = None
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "").strip())
        path = Path(self.translate_path(self.path))
        if asked is None or asked.groups() == ("", "") or not path.is_file():
            return super().send_head()
        size = path.stat().st_size
        first, last = asked.groups()
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start >= stop:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.part = start, stop
        return path.open("rb")

    def copyfile(self, source: BinaryIO, outputfile: BinaryIO) -> None:
        """Send the file, or the part of it."""
        if self.part is None:
            super().copyfile(source, outputfile)
            return
        start, stop = self.part
        source.seek(start)
        while start < stop and (block := source.read(min(1 << 16, stop - start))):
            outputfile.write(block)
            start += len(block)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: a screen is hundreds of chunks."""


def server(folder: Path, *, port: int) -> ThreadingHTTPServer:
    """A server of a folder, for browsers of this machine only; port 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(folder)))


def main(words: Sequence[str] | None = None) -> int:
    """Write neuroglancer.json, say the link, and serve until Ctrl-C; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tokenunify_scale.viewer.serve")
    parser.add_argument("folder", type=Path, help="with segmentation.zarr or affinities.zarr")
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}")
    parser.add_argument("--raw", help="the raw image, such as precomputed://gs://bucket/image")
    options = parser.parse_args(words)
    base = f"http://localhost:{options.port}"
    try:
        link = write_state(options.folder, base=base, raw=options.raw)
        served = server(options.folder, port=options.port)
    except DataError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"port {options.port}: {error.strerror}; choose another --port", file=sys.stderr)
        return 3
    print(f"1. {options.folder} is served at {base} until Ctrl-C.\n2. Open {link}", flush=True)
    with served:
        try:
            served.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
