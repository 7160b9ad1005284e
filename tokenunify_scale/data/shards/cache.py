"""A folder that keeps downloaded tars up to a limit; threads and processes may share it.

A tar lies there under the sha256 of its content, and only once that was checked: folders that are
copies of each other share tars, and other folders' shards of the same name do not collide. While
one is fetched, ``NAME.part`` holds what came, and ``NAME.lock`` is locked; the size of the lock
file, which holds nothing, is the room that was set aside. What a killed process leaves is thus
known by its lock, which nobody holds.
"""

import fcntl
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, Thread, main_thread
from weakref import ref

from tokenunify_scale.config import ConfigError, DataError, HostError
from tokenunify_scale.train.sealed import file_sha256
from tokenunify_scale.volumes import store

CONTENT = re.compile(r"([0-9a-f]{64})\.(tar|part|lock)")
GATE = "cache.lock"
WAIT = 0.1  # seconds between looks for room, while others fetch


class OpenFile:
    """A file open for reading, by several threads at once; closed when nobody holds it."""

    def __init__(self, path: str | Path) -> None:
        """Open; ``descriptor`` is what os.pread takes."""
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        """Close."""
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Cache:
    """Tars from elsewhere on this machine's disk, never more than ``limit`` bytes of them.

    The tars least recently opened make room. One that is being read may be removed: its readers
    keep what they have open, and its space is free when they are done.
    """

    def __init__(self, folder: str | Path, *, limit: int) -> None:
        """Take a folder, made if it is missing; other files in it are left alone.

        Args:
            folder: on a disk of this machine.
            limit: bytes that all tars in it may have, whoever fetched them.

        Raises:
            ConfigError: no room at all.
            HostError: the folder cannot be made.
        """
        if limit < 1:
            raise ConfigError(f"a cache of {limit} bytes holds nothing")
        self.folder, self.limit = Path(folder).absolute(), limit
        self._wanted: deque[tuple[str, dict]] = deque()
        self._fetcher: Thread | None = None
        self._asking = Lock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error(error) from error

    def check_size(self, url: str, *, bytes: int) -> None:
        """Refuse a tar that alone is larger than the limit."""
        if bytes > self.limit:
            raise ConfigError(
                f"{url} has {bytes} bytes, more than the {self.limit} that the cache "
                f"{self.folder} may hold"
            )

    def open(self, url: str, *, bytes: int, sha256: str) -> OpenFile:
        """A tar, open; fetched first if it is not there, by one of all who ask for it.

        Args:
            url: where it is.
            bytes: its size.
            sha256: of its content, 64 hexadecimal digits.

        Raises:
            ConfigError: the tar alone is larger than the cache's limit.
            DataError: there is no such object, or it is another one than ``bytes`` and ``sha256``
                say; nothing of it is kept.
            HostError: the cache cannot be written.
        """
        try:
            return self._held(sha256, size=bytes) or self._fetch(url, sha256, size=bytes)
        except OSError as error:
            raise self._error(error) from error

    def prefetch(self, url: str, *, bytes: int, sha256: str) -> None:
        """Fetch a tar in the background, after those asked for before; errors wait for `open`."""
        with self._asking:
            self._wanted.append((url, {"bytes": bytes, "sha256": sha256}))
            if self._fetcher is None or not self._fetcher.is_alive():
                self._fetcher = Thread(target=_prefetch, args=[ref(self)], name="prefetch")
                self._fetcher.start()

    def _fetch_next(self) -> bool:
        """Fetch the first of the wanted tars; False when there is no more to do."""
        with self._asking:
            # A program that ends waits for the tar that is on its way, not for the others. A
            # daemon would not wait at all, and would abort the process from inside a library.
            if not self._wanted or not main_thread().is_alive():
                self._fetcher = None
                return False
            url, facts = self._wanted.popleft()
        with suppress(ConfigError, DataError, HostError):
            self.open(url, **facts)
        return True

    def _held(self, sha256: str, *, size: int) -> OpenFile | None:
        """The tar if it is there, from now on the one most recently used."""
        path = f"{self.folder}/{sha256}.tar"
        try:
            file = OpenFile(path)
        except FileNotFoundError:
            return None
        if os.fstat(file.descriptor).st_size != size:  # not our doing: a disk that lost data
            Path(path).unlink(missing_ok=True)
            return None
        # In nanoseconds, as the clock that the system sets by itself stands still for 4 ms.
        now = time.time_ns()
        os.utime(file.descriptor, ns=(now, now))
        return file

    def _fetch(self, url: str, sha256: str, *, size: int) -> OpenFile:
        """Download, check, and keep a tar, unless another one does so meanwhile."""
        self.check_size(url, bytes=size)
        path, part = self.folder / f"{sha256}.tar", self.folder / f"{sha256}.part"
        with _locked(self.folder / f"{sha256}.lock") as lock:
            if (held := self._held(sha256, size=size)) is not None:
                return held
            self._make_room(size, lock=lock)
            try:
                store.download(url, part, bytes=size)
                # Open before it has its name: from then on another one may need the room.
                file = _checked(part, url, size=size, sha256=sha256)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        return file

    def _make_room(self, size: int, *, lock: int) -> None:
        """Remove tars until ``size`` more bytes fit; mark on our own lock file that they are ours.

        Where others are fetching, and only what they set aside is in the way, wait for them.
        """
        os.ftruncate(lock, 0)  # what a killed process set aside for the same tar
        while True:
            with _locked(self.folder / GATE, keep=True):
                self._remove_abandoned()
                # Locks first: a download that ends now is counted twice, and not overlooked.
                full = size + sum(facts.st_size for _, facts in self._files("lock"))
                tars = sorted(self._files("tar"), key=lambda file: file[1].st_mtime_ns)
                full += sum(facts.st_size for _, facts in tars)
                for path, facts in tars:
                    if full <= self.limit:
                        break
                    path.unlink(missing_ok=True)
                    full -= facts.st_size
                if full <= self.limit:
                    os.ftruncate(lock, size)
                    return
            time.sleep(WAIT)

    def _remove_abandoned(self) -> None:
        """Remove what killed processes left; called with the gate locked."""
        for path, _ in [*self._files("part"), *self._files("lock")]:
            with _locked(path.with_suffix(".lock"), wait=False) as lock:
                if lock is not None:
                    path.with_suffix(".part").unlink(missing_ok=True)

    def _error(self, error: OSError) -> HostError:
        """What the disk said, in one line."""
        what = error.strerror or str(error)
        return HostError(f"cache {self.folder}: cannot use {error.filename or 'it'}: {what}")

    def _files(self, suffix: str) -> Iterator[tuple[Path, os.stat_result]]:
        """The cache's own files of one kind, with their facts."""
        for path in self.folder.iterdir():
            if (name := CONTENT.fullmatch(path.name)) and name[2] == suffix:
                with suppress(FileNotFoundError):
                    yield path, path.stat()


def _prefetch(cache: "ref[Cache]") -> None:
    """Fetch what is wanted, as long as there is somebody to read it."""
    while (found := cache()) is not None and found._fetch_next():
        del found


def _checked(part: Path, url: str, *, size: int, sha256: str) -> OpenFile:
    """What came from ``url``, open, if it is what it should be; else DataError."""
    if (found := part.stat().st_size) != size:
        raise DataError(f"{url} has {found} bytes, expected {size}")
    if (found := file_sha256(part)) != sha256:
        raise DataError(f"{url}: its content has sha256 {found}, expected {sha256}")
    file = OpenFile(part)
    os.fsync(file.descriptor)  # a name that outlives a power cut must not have lost its content
    return file


@contextmanager
def _locked(path: Path, *, wait: bool = True, keep: bool = False) -> Iterator[int | None]:
    """Hold the lock of a file, made for it; None where it is taken and we do not ``wait``.

    The kernel frees it when the process ends, however it does. The file is removed at the end
    unless we ``keep`` it.
    """
    flags = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        with open(path, "ab") as file:
            free = True
            try:
                fcntl.flock(file, flags)
            except BlockingIOError:
                free = False
            # Who had it before removes the file that we opened: lock the one that is there now.
            if free and not _is(file.fileno(), path):
                continue
            try:
                yield file.fileno() if free else None
            finally:
                if free and not keep:
                    path.unlink(missing_ok=True)
                if free:  # closing leaves it to a child process that was forked meanwhile
                    fcntl.flock(file, fcntl.LOCK_UN)
            return


def _is(descriptor: int, path: Path) -> bool:
    """Whether ``path`` leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
