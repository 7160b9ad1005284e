"""Objects behind paths and URLs: local files, http(s), Google Cloud Storage and S3 in one way.

A place is a local path, ``file://``, ``http://``, ``https://``, ``gs://`` or ``s3://``. Credentials
are found as the clouds' own tools find them; without any, requests are anonymous.
"""

import functools
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from tokenunify_scale.config import ConfigError, DataError, HostError

SCHEMES = ("file://", "http://", "https://", "gs://", "s3://")
CACHE_BYTES = 256 << 20
"""Decoded chunks kept in memory, for all volumes of a process together."""
ANSWER_SECONDS = 60
"""How long a host may take to answer a question about metadata."""
READ_SECONDS = 600
"""How long a host may take to deliver a crop, or a piece of a download, retries included."""
PIECE_BYTES = 8 << 20
PIECES_AT_ONCE = 4
COPY_THREADS = 4
HIDDEN = re.compile(r"PERMISSION_DENIED|UNAUTHENTICATED|HTTP code 40[13]")
"""How a host words that something may not be read."""
RANGE_IGNORED = "was ignored by server"


def library() -> ModuleType:
    """The package tensorstore.

    Raises:
        HostError: it is not installed.
    """
    try:
        import tensorstore
    except ImportError as error:
        raise HostError(
            "URLs, Zarr, N5 and precomputed volumes need tensorstore: pip install tensorstore"
        ) from error
    return tensorstore


@functools.cache
def context(purpose: str) -> Any:
    """What all handles of a process share: threads, retries, and one cache of chunks.

    Args:
        purpose: ``"ask"`` gives up on a silent host within seconds; ``"read"`` is patient, since
            a run that streams for days meets hosts that are away for minutes.
    """
    patience = {"max_retries": 3, "initial_delay": "500ms", "max_delay": "2s"}
    if purpose == "read":
        patience = {"max_retries": 10, "initial_delay": "1s", "max_delay": "32s"}
    retries = {f"{kind}_request_retries": patience for kind in ("http", "gcs", "s3")}
    limits = {
        "cache_pool": {"total_bytes_limit": CACHE_BYTES},
        "data_copy_concurrency": {"limit": COPY_THREADS},
    }
    return library().Context({**retries, **limits})


def is_remote(url: str) -> bool:
    """Whether a place is behind a network."""
    return "://" in url and not url.startswith("file://")


def local_path(url: str) -> Path:
    """The path of a local place."""
    return Path(unquote(url.removeprefix("file://")) if url.startswith("file://") else url)


def join(url: str, name: str) -> str:
    """The place ``name`` below ``url``; a query of an http address stays at its end."""
    if not name:
        return url
    if not url.startswith(("http://", "https://")):
        return f"{url.rstrip('/')}/{name}"
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()


def kvstore(url: str) -> dict[str, Any]:
    """What tensorstore calls a place, as the JSON of its key-value stores.

    Args:
        url: of one object, or of a folder with a slash at its end.

    Raises:
        ConfigError: a scheme that is not read, or no bucket or host in the URL.
    """
    if not is_remote(url):
        path = local_path(url).absolute()
        return {"driver": "file", "path": f"{path}/" if url.endswith("/") else str(path)}
    parts = urlsplit(url)
    if f"{parts.scheme}://" not in SCHEMES or not parts.netloc:
        raise ConfigError(f"{url}: not a URL of {', '.join(SCHEMES)} with a host or bucket")
    if parts.scheme in ("http", "https"):
        query = f"?{parts.query}" if parts.query else ""
        base = f"{parts.scheme}://{parts.netloc}{query}"
        return {"driver": "http", "base_url": base, "path": unquote(parts.path) or "/"}
    key = url.removeprefix(f"{parts.scheme}://{parts.netloc}").removeprefix("/")
    driver = "gcs" if parts.scheme == "gs" else "s3"
    return {"driver": driver, "bucket": parts.netloc, "path": key}


def read_bytes(url: str) -> bytes | None:
    """One small object, whole.

    Returns:
        Its bytes; None where there is none, or where the host lets nobody read it, which hosts
        that hide their listing answer for what does not exist.

    Raises:
        ConfigError: not a URL that can be read.
        DataError: the host cannot be reached, or fails.
    """
    if not is_remote(url):
        path = local_path(url)
        try:
            return path.read_bytes() if path.is_file() else None
        except OSError as error:
            raise DataError(f"{url}: cannot be read ({error.strerror})") from error
    future = _start(url, purpose="ask")
    try:
        answer = future.result(timeout=ANSWER_SECONDS)
    except (ValueError, TimeoutError) as error:
        if HIDDEN.search(str(error)):
            return None
        raise DataError(f"{url}: {brief(error)}") from error
    return answer.value if answer.state == "value" else None


def read_json(url: str) -> dict[str, Any] | None:
    """A JSON object, or None where there is none.

    Raises:
        DataError: what is there is not a JSON object, or the host fails.
    """
    text = read_bytes(url)
    # Some servers answer every question with a page.
    if text is None or (is_remote(url) and text.lstrip()[:1] == b"<"):
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError(f"{url}: not readable JSON ({error})") from error
    if not isinstance(found, dict):
        raise DataError(f"{url}: a JSON object is expected, this is a {type(found).__name__}")
    return found


def exists(url: str) -> bool:
    """Whether there is an object of this name that may be read.

    Raises:
        DataError: the host cannot be reached, or fails.
    """
    if not is_remote(url):
        return local_path(url).exists()
    future = _start(url, part=slice(0, 1), purpose="ask")
    try:
        return future.result(timeout=ANSWER_SECONDS).state == "value"
    except (ValueError, TimeoutError) as error:
        # The refused range is one of an object that is there; an empty object has none.
        if RANGE_IGNORED in str(error) or "OUT_OF_RANGE" in str(error):
            return True
        if HIDDEN.search(str(error)):
            return False
        raise DataError(f"{url}: {brief(error)}") from error


def download(url: str, path: Path, *, bytes: int) -> None:
    """Copy one object into a local file, piece by piece, a few pieces at once.

    Args:
        url: local path or URL.
        path: of the file, which is replaced; its folder exists. After a failure it is gone.
        bytes: length of the object.

    Raises:
        ConfigError: not a URL that can be read.
        DataError: no such object, a shorter one, or the host fails.
        OSError: the file cannot be written.
    """
    pieces: list[slice | None] = [None]
    if bytes > PIECE_BYTES and not _ignores_ranges(url):
        starts = range(0, bytes, PIECE_BYTES)
        pieces = [slice(start, min(start + PIECE_BYTES, bytes)) for start in starts]
    written = 0
    try:
        with path.open("wb") as file:
            pending: list[Any] = []
            for number, piece in enumerate(pieces):
                ahead = pieces[number + len(pending) : number + PIECES_AT_ONCE]
                pending += [_start(url, part=part, purpose="read") for part in ahead]
                written += file.write(_arrived(pending.pop(0), url))
                expected = bytes if piece is None else piece.stop
                if written != expected:
                    raise DataError(f"{url}: {written} bytes came where {expected} are expected")
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def brief(error: BaseException) -> str:
    """One short line of what tensorstore said: no codes, no specs, no repeated paths."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = re.split(r"\s*\[(?:tensorstore_spec|source locations)=", str(error))[0]
    text = re.sub(r"^[A-Z_]+: ", "", " ".join(text.split()))
    text = re.sub(r'^Error opening "\w+" driver: ', "", text)
    text = re.sub(r"All \d+ retry attempts failed: |CURL error |\s*\[curl_code=[^]]*\]", "", text)
    text = re.sub(r"Unknown \[HTTP code (3\d\d)\]", r"moved, redirects are not followed (\1)", text)
    return text if len(text) <= 300 else f"{text[:297]}..."


def _start(url: str, *, part: slice | None = None, purpose: str) -> Any:
    """The future of reading an object, or a part of it."""
    spec = kvstore(url)
    try:
        store = library().KvStore.open(spec, context=context(purpose)).result()
    except ValueError as error:
        raise ConfigError(f"{url}: {brief(error)}") from error
    return store.read("", byte_range=part)


def _ignores_ranges(url: str) -> bool:
    """Whether a host sends whole objects where a part is asked for, as the simplest ones do."""
    future = _start(url, part=slice(0, 1), purpose="read")
    try:
        future.result(timeout=READ_SECONDS)
    except (ValueError, TimeoutError) as error:
        return RANGE_IGNORED in str(error)
    return False


def _arrived(future: Any, url: str) -> bytes:
    """The bytes of a piece of a download."""
    try:
        answer = future.result(timeout=READ_SECONDS)
    except (ValueError, TimeoutError) as error:
        raise DataError(f"{url}: {brief(error)}") from error
    if answer.state != "value":
        raise DataError(f"{url}: no such object")
    return answer.value
