"""Volumes made small enough for a page, and packed as text that a browser unpacks by itself."""

import base64
import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass

import fastremap
import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.geometry import Triple

STRETCH = (0.5, 99.5)  # percentiles of the raw image that become black and white
SHORT = 1 << 16  # ids that two bytes tell apart
SAMPLED = 1 << 20  # voxels of the raw image that the percentiles are taken from


@dataclass(frozen=True)
class Layer:
    """Ids of a volume, numbered from 0 in ascending order; number 0 is id 0, there or not."""

    ids: np.ndarray
    """[N], the id of each number."""

    index: np.ndarray
    """[D, H, W] uint16, or uint32 where there are more than 65536 ids."""

    @classmethod
    def of(cls, volume: np.ndarray, *, name: str) -> "Layer":
        """Number the ids of a volume.

        Args:
            volume: [D, H, W] integers up to 2**64 - 1.
            name: of the volume, for errors.

        Raises:
            DataError: an id is negative.
        """
        ids, index = fastremap.unique(_native(volume), return_inverse=True)
        if ids[0] < 0:
            raise DataError(f"{name} holds id {ids[0]}; ids start at 0, the background")
        first = int(ids[0] != 0)
        ids = np.concatenate([np.zeros(first, ids.dtype), ids])
        kind = np.uint16 if ids.size <= SHORT else np.uint32
        return cls(ids, (index + first).astype(kind).reshape(volume.shape))

    def places(self, wanted: np.ndarray) -> np.ndarray:
        """[M] int32: the number of each wanted id, -2 where the layer does not hold it."""
        place = np.searchsorted(self.ids, wanted).clip(max=self.ids.size - 1)
        return np.where(self.ids[place] == wanted, place, -2).astype(np.int32)


def bytes_each(volume: np.ndarray) -> int:
    """Bytes a voxel of ids takes: 2, or 4 where two bytes do not tell all ids apart."""
    if volume.size < SHORT:
        return 2
    # One more for id 0, which is numbered whether it is there or not.
    return 2 if fastremap.unique(_native(volume)).size + 1 <= SHORT else 4


def _native(volume: np.ndarray) -> np.ndarray:
    """Ids as the counting takes them: in one piece, in this machine's order of bytes."""
    kind = np.uint8 if volume.dtype.kind == "b" else volume.dtype.newbyteorder("=")
    return np.ascontiguousarray(volume, kind)


def reduction(
    shape: Triple, *, voxel_size: tuple[float, float, float], each: float, limit: float
) -> Triple:
    """How many voxels (z, y, x) become one, so that a volume fits.

    Sections are thinned in plane first, and left out only once voxels are taller than thick.

    Args:
        shape: sides (z, y, x) in voxels.
        voxel_size: (z, y, x) in nm.
        each: bytes of a voxel.
        limit: bytes of the whole.
    """
    across, plane = 1, 1
    while True:
        factors = (across, plane, plane)
        if each * math.prod(-(-s // f) for s, f in zip(shape, factors, strict=True)) <= limit:
            return factors
        if voxel_size[0] * across < min(voxel_size[1:]) * plane and across < shape[0]:
            across += 1
        else:
            plane += 1


def thin_ids(volume: np.ndarray, *, factors: Triple) -> np.ndarray:
    """Of each block of ``factors`` voxels the middle one; a last, smaller block counts."""
    if factors == (1, 1, 1):
        return volume
    steps = [
        np.minimum(np.arange(-(-s // f)) * f + f // 2, s - 1)
        for s, f in zip(volume.shape, factors, strict=True)
    ]
    return volume[np.ix_(*steps)]


def thin_raw(raw: np.ndarray, *, factors: Triple) -> tuple[np.ndarray, tuple[int, int]]:
    """The mean of each block of ``factors`` voxels, as uint8.

    Args:
        raw: [D, H, W]; what is not uint8 is stretched between percentiles.
        factors: voxels (z, y, x) of a block; a last, smaller block counts.

    Returns:
        uint8, and the two values in it that are best shown black and white.
    """
    sample = raw.reshape(-1)[:: max(1, raw.size // SAMPLED)] if raw.flags.c_contiguous else raw
    low, high = (float(value) for value in np.percentile(sample, STRETCH))
    if raw.dtype == np.uint8:
        scale, shift, window = 1.0, 0.0, (int(low), max(int(np.ceil(high)), int(low) + 1))
    else:
        scale, shift, window = 255 / max(high - low, 1e-12), low, (0, 255)
    if raw.dtype == np.uint8 and factors == (1, 1, 1):
        return raw, window
    depth, height, width = (-(-s // f) for s, f in zip(raw.shape, factors, strict=True))
    small = np.empty((depth, height, width), np.uint8)
    rows = np.arange(height) * factors[1]
    columns = np.arange(width) * factors[2]
    for z in range(depth):
        slab = raw[z * factors[0] : (z + 1) * factors[0]].astype(np.float64).mean(axis=0)
        sums = np.add.reduceat(np.add.reduceat(slab, rows, axis=0), columns, axis=1)
        tall = np.diff(np.append(rows, raw.shape[1]))
        wide = np.diff(np.append(columns, raw.shape[2]))
        mean = sums / (tall[:, None] * wide)
        small[z] = ((mean - shift) * scale).round().clip(0, 255)
    return small, window


def pack(values: np.ndarray | bytes) -> str:
    """Bytes as gzip in base64; arrays as they lie in memory, little-endian."""
    if isinstance(values, np.ndarray):
        values = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    # A fixed time: the same volume makes the same page.
    return base64.b64encode(gzip.compress(values, 6, mtime=0)).decode("ascii")


def differences(raw: np.ndarray) -> np.ndarray:
    """Each voxel minus the one before it, modulo 256: a sixth less to pack."""
    flat = np.ascontiguousarray(raw).reshape(-1)
    steps = flat.copy()
    steps[1:] -= flat[:-1]
    return steps


def words(ids: np.ndarray) -> bytes:
    """Ids as decimal lines: a browser's numbers are exact up to 2**53 only."""
    return "\n".join(map(str, ids.tolist())).encode("ascii")


def points_inside(points: Sequence[dict], *, shape: Triple, origin: Triple) -> list[dict]:
    """Points that lie in the volume, as plain data in the order they came.

    Args:
        points: each with z, y, x (voxels, counted from the source volume) and text.
        shape: of the volume, in its own voxels.
        origin: its first voxel (z, y, x).
    """
    kept = []
    for point in points:
        place = [int(point[axis]) for axis in "zyx"]
        ends = (o + s for o, s in zip(origin, shape, strict=True))
        if all(o <= p < e for p, o, e in zip(place, origin, ends, strict=True)):
            kept.append({"place": place, "text": str(point.get("text", ""))})
    return kept
