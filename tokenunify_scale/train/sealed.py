"""Whether files are those that were written: SHA256SUMS, as the command sha256sum reads it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from tokenunify_scale.config import DataError

SUMS = "SHA256SUMS"
BLOCK = 1 << 20  # bytes read at once


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            total.update(block)
    return total.hexdigest()


def sums_text(sums: Mapping[str, str]) -> str:
    """The content of SHA256SUMS: a line a file."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def verify(folder: Path | str) -> None:
    """Read every file that SHA256SUMS names; without one, nothing is known and nothing refused.

    Raises:
        DataError: a file is missing, or another than the one that was written.
    """
    sums = Path(folder) / SUMS
    if not sums.is_file():
        return
    for line in sums.read_text().splitlines():
        digest, _, name = line.partition("  ")
        path = Path(folder) / name
        if not path.is_file():
            raise DataError(f"{folder}: {name} is missing, which {SUMS} names: copy it again")
        if file_sha256(path) != digest:
            raise DataError(
                f"{path} is not the file that was exported (sha256 differs from {SUMS}): copy it "
                f"again, or delete {SUMS} if you changed the weights yourself"
            )
