"""The bytes of one sample in a tar: the members KEY.json and KEY.raw.npy, each with its header."""

import io
import math
import tarfile
import tokenize
from collections.abc import Iterator

import numpy as np

from tokenunify_scale.data.shards.index import BLOCK, padded

SIZE = slice(124, 135)  # of a member, in its header, as octal digits


class Layout:
    """How ``shards.pack`` lays out a sample: header, json, header, npy that ends in the voxels.

    Thus the place of the voxels follows from where the sample ends, and they can be read to where
    they belong before the bytes in front of them are looked at.
    """

    def __init__(self, crop: tuple[int, int, int]) -> None:
        """Of arrays of uint8 in the shape of ``Index.stored``."""
        start, facts = io.BytesIO(), {"descr": "|u1", "fortran_order": False, "shape": crop}
        np.lib.format.write_array_header_1_0(start, facts)
        self._start = start.getvalue()
        self._npy = len(self._start) + math.prod(crop)
        self._size = b"%011o" % self._npy
        self.filler = padded(self._npy) - self._npy
        """Bytes after the voxels that fill up the last block."""
        self.behind = math.prod(crop) + self.filler
        """Bytes from the first voxel to the end of the sample."""

    def json(self, head: bytes) -> bytes | None:
        """The json member; None if what lies before the voxels is not laid out so.

        Args:
            head: the sample's bytes up to the first voxel.
        """
        npy = len(head) - len(self._start)
        raw = npy - BLOCK
        # Checksums are left alone: adding up 512 bytes takes longer than all the rest, and what
        # is compared here says enough.
        key = head[raw : head.find(b".raw.npy\0", raw, npy)] if raw >= 2 * BLOCK else b""
        right = (
            key
            and head.startswith(key + b".json\0")
            and head[raw + SIZE.start : raw + SIZE.stop] == self._size
            and head[npy:] == self._start
        )
        if not right:
            return None
        try:
            size = int(head[SIZE], 8)
        except ValueError:
            return None
        return head[BLOCK : BLOCK + size] if 2 * BLOCK + padded(size) == npy else None


def unpack(data: bytes, *, crop: tuple[int, int, int]) -> tuple[bytes, np.ndarray]:
    """The json member and the array, uint8 of shape ``crop``, of a sample whose members lie anyhow.

    Raises:
        ValueError: a member is missing or damaged, or the crop is of another shape or type.
    """
    try:
        members = dict(_members(data))
        file = io.BytesIO(members["raw.npy"])
        if (version := np.lib.format.read_magic(file)) != (1, 0):
            raise ValueError(f"npy of version {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        text = bytes(members["json"])
    except KeyError as error:
        raise ValueError(f"no member {error.args[0]}") from None
    except (tarfile.HeaderError, SyntaxError, tokenize.TokenError) as error:  # two are numpy's
        raise ValueError(str(error)) from None
    if shape != crop or dtype != np.uint8:
        raise ValueError(f"a crop of {dtype} {shape}, not uint8 {crop}")
    if len(voxels := file.read()) != math.prod(crop):
        raise ValueError(f"{len(voxels)} voxels, not {math.prod(crop)}")
    return text, np.frombuffer(voxels, np.uint8).reshape(crop, order="F" if fortran else "C")


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Extension and content of the plain files among the tar members that ``data`` consists of."""
    at = 0
    while at < len(data):
        header = tarfile.TarInfo.frombuf(data[at : at + BLOCK], "utf-8", "strict")
        if header.size < 0:
            raise ValueError(f"a member of {header.size} bytes")
        at += BLOCK
        if header.isreg():
            yield header.name.rpartition("/")[2].partition(".")[2], data[at : at + header.size]
        at += padded(header.size)
