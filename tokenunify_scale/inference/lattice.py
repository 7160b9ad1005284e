"""The tiles of a whole volume, of which a request takes those that it touches.

They lie where the volume's origin puts them, wherever the request begins: a tile always sees the
same voxels, so that a part is predicted as it is within the whole.
"""

import bisect
import functools
from collections.abc import Iterator
from dataclasses import dataclass

from tokenunify_scale.models.tiling import Windows
from tokenunify_scale.volumes.geometry import Box, Triple, tiles


@dataclass(frozen=True)
class Tile:
    """One window of the lattice."""

    box: Box
    """What the network predicts there, in voxels of the volume."""

    kept: Box
    """The part of it that counts: without the context at faces inside the volume."""


@dataclass(frozen=True)
class Lattice:
    """All tiles of a volume; computed for a request, never listed as a whole."""

    shape: Triple
    """Of the volume, zyx voxels."""

    look: Windows
    """As from ``windows`` for this shape."""

    @property
    def side(self) -> Triple:
        """Sides (z, y, x) of all tiles."""
        return tuple(map(min, self.look.tile, self.shape))

    def starts(self, axis: int, *, start: int, stop: int) -> list[int]:
        """Where the tiles begin along an axis that keep a voxel of ``[start, stop)``, rising."""
        firsts, begins, ends = self._axes[axis]
        return firsts[bisect.bisect_right(ends, start) : bisect.bisect_left(begins, stop)]

    def rows(self, box: Box) -> Iterator[list[Tile]]:
        """The tiles that keep a voxel of a box, in raster order, those of one z together."""
        z, y, x = (
            self.starts(axis, start=a, stop=b)
            for axis, (a, b) in enumerate(zip(box.start, box.stop, strict=True))
        )
        for first in z:
            yield [self._tile((first, row, column)) for row in y for column in x]

    def count(self, box: Box) -> int:
        """How many tiles keep a voxel of a box."""
        z, y, x = (
            len(self.starts(axis, start=a, stop=b))
            for axis, (a, b) in enumerate(zip(box.start, box.stop, strict=True))
        )
        return z * y * x

    def kept(self, axis: int, first: int) -> tuple[int, int]:
        """What counts along an axis of a tile that begins at ``first``: from, and up to."""
        last, dropped = first + self.side[axis], self.look.context[axis]
        return (
            first + dropped if first > 0 else first,
            last - dropped if last < self.shape[axis] else last,
        )

    def _tile(self, start: Triple) -> Tile:
        kept = [self.kept(axis, first) for axis, first in enumerate(start)]
        return Tile(
            Box.of(self.side).shift(start),
            Box(tuple(a for a, _ in kept), tuple(b for _, b in kept)),
        )

    @functools.cached_property
    def _axes(self) -> list[tuple[list[int], list[int], list[int]]]:
        """By axis: where each tile begins, and from and up to where it counts; all rising."""
        found = []
        for axis in range(3):
            # One axis at a time, the others being a tile wide.
            shape, tile, overlap = ([rest] * 3 for rest in (1, 1, 0))
            shape[axis], tile[axis] = self.shape[axis], self.look.tile[axis]
            overlap[axis] = self.look.overlap[axis]
            boxes = tiles(tuple(shape), tile=tuple(tile), overlap=tuple(overlap))
            firsts = [box.start[axis] for box in boxes]
            kept = [self.kept(axis, first) for first in firsts]
            found.append((firsts, [a for a, _ in kept], [b for _, b in kept]))
        return found
