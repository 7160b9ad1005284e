"""Predict a column of a volume tile by tile, holding no more of it than tiles still touch."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from tokenunify_scale.data.affinities import NEAREST
from tokenunify_scale.data.reflect import grow, read_reflected
from tokenunify_scale.inference.heap import give_back
from tokenunify_scale.inference.lattice import Lattice, Tile
from tokenunify_scale.inference.slab import Slab
from tokenunify_scale.inference.tasks import CHUNK
from tokenunify_scale.inference.views import Tta, averaged
from tokenunify_scale.models.tiling import Windows, blending_window
from tokenunify_scale.volumes.geometry import Box, Triple

Part = tuple[Box, Tensor]
"""A box of the volume, and its prediction [C, *box.shape]."""


class Predictor:
    """A network that is moved over a volume."""

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        read: Callable[[Box], np.ndarray],
        *,
        shape: Triple,
        look: Windows,
        batch: int,
        device: torch.device,
        tta: Tta = "none",
        offsets: Sequence[Triple] = NEAREST,
    ) -> None:
        """Read nothing yet.

        Args:
            model: on ``device``, in evaluation mode.
            read: gives uint8 [D, H, W] of a box inside the volume; called by another thread.
            shape: of the volume, zyx voxels.
            look: as from ``windows`` for this shape.
            batch: tiles computed at once.
            device: where to compute, and to blend.
            tta: views that are averaged.
            offsets: of the affinities, one a channel; asked where there are views.
        """
        self.lattice = Lattice(shape, look)
        self.batch, self.device = batch, device
        self._look = averaged(model, tta=tta, offsets=offsets)
        self._read, self._whole = read, Box.of(shape)
        self._window = torch.from_numpy(blending_window(self.lattice.side)).to(device)

    def batches(self, column: Box) -> int:
        """How many times the network is called for a column."""
        return sum(-(-len(row) // self.batch) for row in self.lattice.rows(column))

    def column(self, column: Box) -> Iterator[list[Part]]:
        """Predict a column from its first section to its last.

        What the network sees beyond the volume is mirrored at its faces.

        Args:
            column: a box of the volume.

        Yields:
            After each batch the parts that are now final: blocks of ``CHUNK[0]`` sections, as wide
            as the column. Mostly none.
        """
        slab = Slab(column, depth=CHUNK[0], device=self.device)
        rows = list(self.lattice.rows(column))
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self._seen, rows[0])
            for number, row in enumerate(rows):
                final = rows[number + 1][0].kept.start[0] if row is not rows[-1] else column.stop[0]
                place, raw = coming.result()
                if row is not rows[-1]:
                    coming = ahead.submit(self._seen, rows[number + 1])
                for first in range(0, len(row), self.batch):
                    self._add(slab, row[first : first + self.batch], raw=raw, place=place)
                    last = first + self.batch >= len(row)
                    yield list(slab.release(final)) if last else []
                give_back()

    def _seen(self, row: Sequence[Tile]) -> tuple[Box, np.ndarray]:
        """What there is of all that the tiles of a row see, and where it lies."""
        boxes = [self._around(tile).intersect(self._whole) for tile in (row[0], row[-1])]
        place = Box(boxes[0].start, boxes[1].stop)
        return place, self._read(place)

    def _around(self, tile: Tile) -> Box:
        look = self.lattice.look
        return grow(tile.box, look.margin, end=look.extra)

    def _add(self, slab: Slab, tiles: Sequence[Tile], *, raw: np.ndarray, place: Box) -> None:
        """Compute some tiles and add what counts of them."""
        origin = tuple(-start for start in place.start)

        def read(box: Box) -> np.ndarray:
            return raw[box.shift(origin).slices]

        seen = [read_reflected(read, self._around(tile), within=self._whole) for tile in tiles]
        inputs = torch.from_numpy(np.stack(seen)).to(self.device).unsqueeze(1).float().div_(255)
        with torch.inference_mode():
            outputs = self._look(inputs)
        for tile, output in zip(tiles, outputs, strict=True):
            inner = tile.kept.shift(tuple(-start for start in tile.box.start)).slices
            values = output[(slice(None), *inner)].float()
            slab.add(tile.kept, values, window=self._window[inner])


def predict_array(
    model: Callable[[Tensor], Tensor],
    raw: np.ndarray,
    *,
    look: Windows,
    batch: int,
    device: torch.device,
    inside: Box | None = None,
    tta: Tta = "none",
    offsets: Sequence[Triple] = NEAREST,
) -> np.ndarray:
    """Predict an array that is in memory, or a box of it, as ``predict`` does a volume.

    Args:
        model: on ``device``, in evaluation mode.
        raw: uint8 [D, H, W].
        look: as from ``windows``, for the shape of ``raw``.
        batch: tiles computed at once.
        device: where to compute.
        inside: the box that is wanted; None: all of it.
        tta: views that are averaged.
        offsets: of the affinities, one a channel.

    Returns:
        float32 [C, *inside.shape].
    """
    inside = inside or Box.of(raw.shape)
    predictor = Predictor(
        model,
        lambda box: raw[box.slices],
        shape=raw.shape,
        look=look,
        batch=batch,
        device=device,
        tta=tta,
        offsets=offsets,
    )
    origin, result = tuple(-start for start in inside.start), None
    for parts in predictor.column(inside):
        for box, values in parts:
            if result is None:
                result = np.empty((values.shape[0], *inside.shape), np.float32)
            result[(slice(None), *box.shift(origin).slices)] = values.cpu().numpy()
    return result
