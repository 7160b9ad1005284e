"""Memory for batches that is used again: what is fresh from the system costs as much as reading."""

import math
from collections import deque
from typing import Literal

import numpy as np
import torch
from torch import Tensor


class Buffers:
    """Gives tensors whose memory comes back when nothing refers to it any more.

    Fresh memory is handed over by the kernel page by page, as it is written to, and unmapped on
    all cores when it is freed. Pinned memory is used again by PyTorch itself.
    """

    def __init__(self, kind: Literal["plain", "pinned"] = "plain", *, keep: int) -> None:
        """Allocate nothing yet.

        Args:
            kind: pinned memory is page-locked: a GPU copies it faster, and beside other work.
            keep: pieces of plain memory that are kept while they are not in use.
        """
        self.kind = kind
        self._free: deque[np.ndarray] = deque(maxlen=keep)

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A uint8 tensor of ``shape`` with anything in it; threads may ask at once."""
        if self.kind == "pinned":
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        size = math.prod(shape)
        memory = None
        while memory is None or len(memory) != size:
            try:
                memory = self._free.pop()
            except IndexError:
                memory = np.empty(size, np.uint8)
        piece = memory.reshape(shape).view(_Piece)
        piece.free = self._free
        return torch.from_numpy(piece)


class _Piece(np.ndarray):
    """A view of memory that a tensor, and so every view of that, holds while it lives."""

    free: deque[np.ndarray] | None = None  # of views that numpy makes of this one

    def __del__(self) -> None:
        if self.free is not None:
            self.free.append(self.base)
