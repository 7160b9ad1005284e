"""Predict a rank's tasks one after another into a store, block by block, writing behind."""

import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from tokenunify_scale.config import DataError
from tokenunify_scale.inference.ledger import Ledger, Mark
from tokenunify_scale.inference.predictor import Part, Predictor
from tokenunify_scale.train.runlog import track
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box, Triple

SCALES = {"float32": 1.0, "float16": 1.0, "uint8": 255.0}
"""By type on disk: what stored values are divided by to be affinities."""


def stream(
    predictor: Predictor,
    store: Boxed,
    *,
    tasks: Mapping[int, Box],
    origin: Triple,
    ledger: Ledger,
    speak: bool,
) -> None:
    """Predict some tasks, each from where the ledger says that it stands.

    Args:
        predictor: of the volume.
        store: [C, D, H, W] of the request; its chunks divide the tasks.
        tasks: by number, in voxels of the volume.
        origin: of the request in the volume.
        ledger: is told what has been written.
        speak: whether to show progress.

    Raises:
        DataError: the volume cannot be read, or the network predicts NaN.
        HostError: the disk does not take it.
    """
    marks = {number: ledger.read(number, task) for number, task in tasks.items()}
    left = {
        number: Box((marks[number].until, *task.start[1:]), task.stop)
        for number, task in tasks.items()
        if marks[number].until < task.stop[0]
    }

    def write(number: int, box: Box, values: Tensor) -> None:
        total = float(values.sum(dtype=torch.float64))
        if not math.isfinite(total):
            raise DataError(f"the network predicts NaN or infinity in voxels {box}")
        store.write(box.shift(tuple(-a for a in origin)), encoded(values, store.dtype))
        marks[number] = Mark(box.stop[0], marks[number].total + total)
        ledger.mark(number, marks[number])

    def parts() -> Iterator[tuple[int, list[Part]]]:
        for number, box in left.items():
            yield from ((number, found) for found in predictor.column(box))

    batches = sum(predictor.batches(box) for box in left.values())
    pace = _Pace(sum(math.prod(box.shape) for box in left.values()), batches)
    pending: Future | None = None
    with ThreadPoolExecutor(1) as behind:
        for number, found in track(
            parts(),
            description="predict",
            total=batches,
            unit="batch",
            enabled=speak,
            note=pace.note,
        ):
            pace.done += 1
            for box, values in found:
                if pending:
                    pending.result()
                pending = behind.submit(write, number, box, values)
        if pending:
            pending.result()


def encoded(values: Tensor, dtype: np.dtype) -> np.ndarray:
    """Affinities as they are stored; ``values`` may be changed.

    Args:
        values: in [0, 1].
        dtype: float32, float16, or uint8, which holds 255 times the affinity, rounded.
    """
    if dtype == np.uint8:
        values = values.mul_(SCALES["uint8"]).round_().clamp_(0, 255).to(torch.uint8)
    elif dtype == np.float16:
        values = values.half()
    return values.cpu().numpy()


class _Pace:
    """Voxels a second."""

    def __init__(self, voxels: int, batches: int) -> None:
        self.done = 0
        self._each, self._start = voxels / max(batches, 1), time.monotonic()

    def note(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        return f"{self._each * self.done / seconds:.3g} voxels/s"
