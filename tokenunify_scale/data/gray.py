"""Intensities as uint8, whatever a volume stores; what holds no intensities is refused."""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.volume import Volume

PERCENTILES = (0.5, 99.5)
PROBES = 4
PROBE = (16, 64, 64)
SLAB = 64 << 20
"""Bytes of a volume, as stored, that are mapped at a time."""
LABEL_SHARE = 0.8
"""Share of equal neighbours from which integers are labels. Measured along x, less the two
commonest values: EM 0.02 to 0.05, JPEG of quality 10 0.16, blurred by 4 voxels 0.24, enlarged four
times by repetition 0.76; proofread neurons 0.95, supervoxels 0.92, neurons 6 voxels thin 0.81."""
BLANK_SHARE = 1e-3
"""Share of voxels of other than the two commonest values below which nothing can be said."""


@dataclass(frozen=True)
class GrayMapping:
    """The intensities of a volume that become 0 and 255; linear between, cut off beyond."""

    low: float
    high: float


def check_raw(volume: Volume) -> None:
    """Refuse a volume whose type is not one of intensities.

    Raises:
        DataError: integers wider than 16 bits, which are labels, or no real numbers at all.
    """
    kind, bits = volume.dtype.kind, 8 * volume.dtype.itemsize
    if kind in "iu" and bits > 16:
        raise DataError(f"{volume.path}: {volume.dtype} looks like labels, not like a raw volume")
    if kind not in "iuf":
        raise DataError(f"{volume.path}: {volume.dtype} is not a type of intensities")


def check_no_labels(volume: Volume, *, box: Box | None = None) -> None:
    """Refuse a volume of 8 or 16 bits that a sample shows to hold objects, not intensities.

    Args:
        volume: the sample is the one that ``find_mapping`` takes.
        box: where to look; None: everywhere.

    Raises:
        DataError: neighbours along x are equal as in no image; only two values; says the share.
    """
    if volume.dtype.kind not in "iu":
        return
    parts = [volume.read(probe) for probe in _probes(box or Box.of(volume.shape))]
    values, counts = np.unique(np.concatenate([p.ravel() for p in parts]), return_counts=True)
    if len(values) == 2:
        found = f"only the values {values[0]} and {values[1]}"
        raise DataError(f"{volume.path}: {found}: a mask or labels, not a raw volume")
    # Padding and resin repeat themselves in raw volumes as well: a black and a white one.
    common = values[np.argsort(counts)[-2:]]
    told = [(p[..., 1:] == p[..., :-1])[~np.isin(p[..., :-1], common)] for p in parts]
    total, equal = (sum(int(count(t)) for t in told) for count in (np.size, np.sum))
    if total > BLANK_SHARE * counts.sum() and equal > LABEL_SHARE * total:
        raise DataError(
            f"{volume.path}: looks like labels, not like a raw volume: {100 * equal / total:.0f} % "
            f"of neighbours along x are equal (images: below {100 * LABEL_SHARE:.0f} %)"
        )


def check_finite(volume: Volume, *, box: Box) -> None:
    """Refuse a box of a float volume that holds NaN or infinity; reads it a slab at a time.

    Raises:
        DataError: says where.
    """
    if volume.dtype.kind == "f":
        for slab in _slabs(box, volume.dtype.itemsize):
            _finite(volume, slab)


def find_mapping(
    volume: Volume,
    *,
    box: Box | None = None,
    percentiles: tuple[float, float] = PERCENTILES,
) -> GrayMapping | None:
    """How a volume becomes uint8: None if it is, else from two percentiles of a sample.

    The sample is the same each time: 64 blocks spread over the box, all of it if it is small.

    Args:
        volume: integers of up to 16 bits, or floats.
        box: the part that is used; None: all of it.
        percentiles: of the sample, what becomes 0 and 255.

    Raises:
        DataError: not a raw volume; NaN or infinity in a block; all values the same.
    """
    check_raw(volume)
    if volume.dtype == np.uint8:
        return None
    boxes = _probes(box or Box.of(volume.shape))
    values = np.concatenate([_finite(volume, probe).ravel() for probe in boxes])
    low, high = (float(v) for v in np.percentile(values, percentiles))
    if not high > low:
        raise DataError(f"{volume.path}: no contrast, a sample has {low:g} nearly everywhere")
    return GrayMapping(low, high)


def read_gray(volume: Volume, box: Box, *, mapping: GrayMapping | None) -> np.ndarray:
    """A part [D, H, W] of a volume: mapped to uint8, or as stored where ``mapping`` is None.

    Raises:
        DataError: NaN or infinity in it.
    """
    if mapping is None:
        return volume.read(box)
    result = np.empty(box.shape, np.uint8)
    for slab in _slabs(box, volume.dtype.itemsize):
        gray = _finite(volume, slab).astype(np.float32)
        gray -= mapping.low
        gray *= 255 / (mapping.high - mapping.low)
        np.rint(gray.clip(0, 255, out=gray), out=gray)
        result[slab.start[0] - box.start[0] : slab.stop[0] - box.start[0]] = gray
    return result


def _probes(within: Box) -> list[Box]:
    """Disjoint blocks spread evenly over a box, or all of it where it is no larger than they."""
    if math.prod(within.shape) <= PROBES**3 * math.prod(PROBE):
        return [within]
    probe = Box.of(PROBE).intersect(Box.of(within.shape))
    starts = []
    for first, side, size in zip(within.start, within.shape, probe.shape, strict=True):
        count = min(PROBES, side // size)
        starts.append([first + side * (2 * i + 1) // (2 * count) - size // 2 for i in range(count)])
    return [probe.shift(start) for start in product(*starts)]


def _slabs(box: Box, itemsize: int) -> list[Box]:
    """A box cut along z into parts of SLAB bytes, whole chunks of 64 sections where they fit."""
    start, stop = box.start, box.stop
    depth = max(1, SLAB // max(1, math.prod(box.shape[1:]) * itemsize))
    depth = max(depth - depth % 64, min(depth, 64))
    cuts = [*range(start[0], stop[0], depth), stop[0]]
    return [
        Box((a, *start[1:]), (b, *stop[1:])) for a, b in zip(cuts, cuts[1:], strict=False) if b > a
    ]


def _finite(volume: Volume, box: Box) -> np.ndarray:
    """A part of a volume, free of NaN and infinity."""
    values = volume.read(box)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{volume.path}: NaN or infinity in the box {box.start} to {box.stop}")
    return values
