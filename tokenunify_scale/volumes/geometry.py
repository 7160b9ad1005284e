"""Boxes of voxels, and the inference windows that cover a volume."""

from dataclasses import dataclass

Triple = tuple[int, int, int]

NANOMETRES = {
    "angstrom": 0.1,
    "\u00c5": 0.1,
    "\u212b": 0.1,
    "picometer": 1e-3,
    "pm": 1e-3,
    "nanometer": 1.0,
    "nanometre": 1.0,
    "nm": 1.0,
    "micrometer": 1e3,
    "micrometre": 1e3,
    "micron": 1e3,
    "microns": 1e3,
    "um": 1e3,
    "\u00b5m": 1e3,
    "\u03bcm": 1e3,
    "\\u00B5m": 1e3,
    "millimeter": 1e6,
    "mm": 1e6,
    "cm": 1e7,
    "meter": 1e9,
    "m": 1e9,
}
"""Of the units that files tell lengths in, spelt as their writers spell them."""


@dataclass(frozen=True)
class Box:
    """A box of voxels: ``start`` is inside, ``stop`` is not."""

    start: Triple
    """First voxel (z, y, x)."""
    stop: Triple
    """One past the last voxel (z, y, x)."""

    def __post_init__(self) -> None:
        """Refuse a box that is not 3-D or ends before it starts."""
        if len(self.start) != 3 or len(self.stop) != 3:
            raise ValueError(f"a box has three axes (zyx), got {self.start} to {self.stop}")
        if any(b < a for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"box ends before it starts: {self.start} to {self.stop} (zyx voxels)")

    @classmethod
    def of(cls, shape: Triple) -> "Box":
        """The box of a whole volume of ``shape``."""
        return cls((0, 0, 0), _triple(shape))

    @property
    def shape(self) -> Triple:
        """Sides (z, y, x) in voxels."""
        return _triple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in an array whose last axes are zyx."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def intersect(self, other: "Box") -> "Box":
        """The voxels in both boxes; where there are none, a box with an empty side."""
        start = _triple(map(max, self.start, other.start))
        stop = map(min, self.stop, other.stop)
        return Box(start, _triple(map(max, start, stop)))

    def shift(self, by: Triple) -> "Box":
        """The box moved by ``by`` (z, y, x) voxels."""
        start = (a + d for a, d in zip(self.start, by, strict=True))
        stop = (b + d for b, d in zip(self.stop, by, strict=True))
        return Box(_triple(start), _triple(stop))

    def contains(self, other: "Box") -> bool:
        """Whether every voxel of ``other`` is in this box."""
        return self.intersect(other) == other


def tiles(shape: Triple, *, tile: Triple, overlap: Triple) -> list[Box]:
    """Windows that cover a volume, in raster order, z slowest.

    Neighbours share at least ``overlap`` voxels; the last window of an axis is moved inward so
    that all windows have one shape. A tile larger than the volume is clipped to it.

    Args:
        shape: of the volume (z, y, x), at least 1 a side.
        tile: sides of a window (z, y, x).
        overlap: voxels shared by neighbours along each axis, smaller than the tile.

    Returns:
        Boxes within ``Box.of(shape)``, all of shape ``min(tile, shape)``.

    Raises:
        ValueError: a side below 1, a negative overlap, or one not smaller than the tile.
    """
    axes = []
    for axis, size, side, shared in zip("zyx", shape, tile, overlap, strict=True):
        if size < 1 or side < 1:
            raise ValueError(f"axis {axis}: volume of {size} and tile of {side} must be >= 1 voxel")
        if not 0 <= shared < side:
            raise ValueError(f"axis {axis}: overlap {shared} must be within [0, {side}), the tile")
        last = max(size - side, 0)
        axes.append([*range(0, last, side - shared), last])
    side = _triple(map(min, tile, shape))
    return [Box.of(side).shift((z, y, x)) for z in axes[0] for y in axes[1] for x in axes[2]]


def edges(offset: Triple, *, sides: Triple) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where in [D, H, W] the edges (p, p - offset) that exist begin, and where they end.

    Args:
        offset: zyx voxels; may be negative, or longer than a side, which leaves no edge.
        sides: (D, H, W).

    Returns:
        Slices of the voxels p, and of their partners p - offset, for the last three axes.
    """
    here, there = [], []
    for step, side in zip(offset, sides, strict=True):
        length = max(side - abs(step), 0)
        here.append(slice(max(step, 0), max(step, 0) + length))
        there.append(slice(max(-step, 0), max(-step, 0) + length))
    return tuple(here), tuple(there)


def _triple(values) -> Triple:
    z, y, x = (int(value) for value in values)
    return z, y, x
