"""Weighted sums of overlapping predictions, held only for sections that tiles still touch."""

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenunify_scale.volumes.geometry import Box


@dataclass
class _Block:
    """Some sections of a column: weighted sums [C, d, H, W], and the weights [d, H, W]."""

    sums: Tensor
    weights: Tensor


class Slab:
    """The sums of a column, in blocks of sections that come with a tile and go when final.

    What is added to a voxel is added in the order of the calls, in float32.
    """

    def __init__(self, column: Box, *, depth: int, device: torch.device) -> None:
        """Hold nothing yet.

        Args:
            column: what is wanted, in voxels of the volume.
            depth: sections of a block; the first block begins where the column does.
            device: where sums are taken.
        """
        self.column, self.depth, self.device = column, depth, device
        self._blocks: dict[int, _Block] = {}

    def add(self, box: Box, values: Tensor, *, window: Tensor) -> None:
        """Add a prediction; what lies outside the column is left out.

        Args:
            box: where it lies in the volume.
            values: [C, *box.shape].
            window: the weight of each voxel, [*box.shape].
        """
        inside = box.intersect(self.column)
        if 0 in inside.shape:
            return
        first, last = (z - self.column.start[0] for z in (inside.start[0], inside.stop[0]))
        for number in range(first // self.depth, -(-last // self.depth)):
            there = self._box(number)
            part = inside.intersect(there)
            block = self._block(number, there, channels=values.shape[0])
            here = part.shift(tuple(-a for a in box.start)).slices
            place = part.shift(tuple(-a for a in there.start)).slices
            block.sums[(slice(None), *place)].addcmul_(values[(slice(None), *here)], window[here])
            block.weights[place].add_(window[here])

    def release(self, until: int) -> Iterator[tuple[Box, Tensor]]:
        """The blocks that end at or before section ``until``, as weighted means; they are dropped.

        Yields:
            The box in the volume, and [C, *box.shape], float32.
        """
        for number in sorted(self._blocks):
            box = self._box(number)
            if box.stop[0] > until:
                return
            block = self._blocks.pop(number)
            yield box, block.sums.div_(block.weights)

    def _box(self, number: int) -> Box:
        """Where a block lies in the volume."""
        z, *plane = self.column.start
        first = z + number * self.depth
        last = min(first + self.depth, self.column.stop[0])
        return Box((first, *plane), (last, *self.column.stop[1:]))

    def _block(self, number: int, box: Box, *, channels: int) -> _Block:
        if number not in self._blocks:
            sums = _zeros((channels, *box.shape), device=self.device)
            self._blocks[number] = _Block(sums, _zeros(box.shape, device=self.device))
        return self._blocks[number]


def _zeros(shape: tuple[int, ...], *, device: torch.device) -> Tensor:
    """Zeros that the system gets back when they are dropped.

    On a CPU not from the C library's heap: blocks outlive the activations around them, and leave
    holes there that add up over a volume.
    """
    if device.type != "cpu":
        return torch.zeros(shape, device=device)
    pages = mmap.mmap(-1, math.prod(shape) * torch.float32.itemsize)
    return torch.frombuffer(pages, dtype=torch.float32).view(shape)
