"""Files that stay when power fails: flushed, summed, and replaced whole."""

import errno
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zlib import crc32

BLOCK = 1 << 22  # bytes read at once
THREADS = 8  # files read at once; zlib lets go of the interpreter while it sums

Sum = tuple[int, int]
"""Size of a file in bytes, and its CRC-32."""

Files = dict[str, Sum]
"""Sums by name; a name is relative to the folder of all of them, with slashes."""


def checksums(folder: Path, names: Iterable[str]) -> Files:
    """Sums of files, each of which is on the disk when this returns.

    Raises:
        OSError: a file cannot be read, or the disk did not take it.
    """
    names = list(names)
    with ThreadPoolExecutor(THREADS) as threads:
        sums = threads.map(lambda name: _flush_and_sum(folder / name), names)
        return dict(zip(names, sums, strict=True))


def sum_of(path: Path) -> Sum:
    """Size and CRC-32 of a file as it is.

    Raises:
        OSError: it cannot be read.
    """
    total, value, block = 0, 0, memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            total, value = total + count, crc32(block[:count], value)
    return total, value


def size_of(path: Path) -> int | None:
    """Bytes of a file, None where it is not there.

    It is opened: a network file system then asks its server, where stat may be out of date.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None


def write_durably(path: Path, text: str) -> None:
    """Replace a text file so that, whenever power fails, the old one is there or the new one.

    There may be one writer at a time; what a killed one leaves is written over by the next.

    Raises:
        OSError: the disk did not take it; the old one stays.
    """
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk: files made, renamed and gone.

    Raises:
        OSError: the disk did not take them.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network ones refuse folders
            raise
    finally:
        os.close(handle)


def _flush_and_sum(path: Path) -> Sum:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return sum_of(path)
