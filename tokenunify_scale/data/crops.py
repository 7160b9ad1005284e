"""Crops straight from volumes: as uint8 whatever the volume stores, and with labels."""

import math
import threading
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.augment import AugmentConfig, augment, generator, random_box
from tokenunify_scale.data.gray import GrayMapping, find_mapping, read_gray
from tokenunify_scale.data.reflect import grow, read_reflected
from tokenunify_scale.data.stream import Batch, batches
from tokenunify_scale.volumes.geometry import Box, Triple
from tokenunify_scale.volumes.volume import Volume

IN_MEMORY = 2 << 30
"""Bytes up to which a part of a volume is read once and kept."""
ATTEMPTS = 10


class LabelledBatch(Batch):
    """A batch with labels int64 [B, D, H, W], numbered anew in each crop; 0 is background."""

    labels: Tensor


class CropReader:
    """Crops of a box of a volume, read once on the first call if the box is small enough."""

    def __init__(
        self,
        volume: Volume,
        *,
        mapping: GrayMapping | None,
        box: Box | None = None,
        in_memory: int = IN_MEMORY,
    ) -> None:
        """Read nothing yet.

        Args:
            volume: where crops come from.
            mapping: as from ``find_mapping``; None: crops as stored.
            box: what crops may touch; None: the whole volume.
            in_memory: bytes of the box, as stored, that may be kept.
        """
        self.volume, self.mapping, self.box = volume, mapping, box or Box.of(volume.shape)
        self._small = math.prod(self.box.shape) * volume.dtype.itemsize <= in_memory
        self.kept: np.ndarray | None = None
        self._lock = threading.Lock()

    def read(self, box: Box) -> np.ndarray:
        """The part at ``box`` in the volume's own coordinates, as ``read_gray`` gives it."""
        with self._lock:
            if not self._small:
                return self._load(box)
            if self.kept is None:
                self.kept = self._load(self.box)
        return self.kept[box.shift(tuple(-a for a in self.box.start)).slices]

    def _load(self, box: Box) -> np.ndarray:
        return read_gray(self.volume, box, mapping=self.mapping)


class LabelledCrops:
    """Random crops of a raw volume with their labels; a pure function of seed and position."""

    def __init__(
        self,
        raw: Volume,
        labels: Volume,
        *,
        box: Box | None = None,
        crop: Triple,
        seed: int,
        margin: Triple = (0, 0, 0),
        augment: AugmentConfig | None = None,
    ) -> None:
        """Check the pair; data is read on the first batch.

        Args:
            raw: intensities of a type up to 16 bits, or float.
            labels: integers >= 0 of the same shape; 0 is background.
            box: where crops may lie; None: the whole volume.
            crop: size (z, y, x) in voxels.
            seed: of places and augmentation.
            margin: voxels on either side of a crop that a network sees and does not predict. The
                rest lies in the box; the margin is mirrored where it reaches beyond.
            augment: random changes, or None.

        Raises:
            DataError: shapes differ, labels are no integers, the crop does not fit into the box.
        """
        check_pair(raw, labels)
        box = box or Box.of(raw.shape)
        if not Box.of(raw.shape).contains(box):
            raise ConfigError(f"{raw.path}: {box} reaches beyond its shape {tuple(raw.shape)}")
        inner = grow(Box.of(crop), tuple(-m for m in margin))
        if not Box.of(box.shape).contains(Box.of(inner.shape)):
            part = f", of which {inner.shape} are predicted," if any(margin) else ""
            raise DataError(
                f"{raw.path}: a crop of {tuple(crop)}{part} does not fit into "
                f"{tuple(box.shape)} voxels"
            )
        self.box, self.inner, self.margin = box, inner.shape, margin
        self.seed, self.augment = seed, augment
        self.voxel_size, self.name, self.labels = raw.voxel_size, raw.path, labels.path
        self._raw = CropReader(raw, mapping=find_mapping(raw), box=box)
        self._labels = CropReader(labels, mapping=None, box=box)

    def batch(self, position: int, size: int) -> LabelledBatch:
        """The ``size`` crops at ``position`` and after, with their labels."""
        positions = range(position, position + size)
        crops, labels = zip(*(self._pair(p) for p in positions), strict=True)
        return {
            "crops": torch.from_numpy(np.stack(crops)).unsqueeze(1),
            "labels": torch.from_numpy(np.stack(labels)),
            "positions": torch.tensor(positions),
        }

    def batches(self, start: int, *, global_batch: int, **split: int | None) -> Iterator[Batch]:
        """One rank's micro-batches from position ``start``; ``split`` as in ``stream.batches``."""
        return batches(self, start, global_batch=global_batch, **split)

    def _pair(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """One crop and its labels: the first of some places that has a labelled pair of voxels."""
        for attempt in range(ATTEMPTS):
            rng = generator(self.seed, position, attempt)
            box = random_box(rng, self.box.shape, crop=self.inner).shift(self.box.start)
            labels = self._labels.read(box)
            if has_labelled_pair(labels):
                break
        else:
            if self._labels.kept is not None and not self._labels.kept.any():
                raise DataError(f"{self._labels.volume.path}: no labels, all 0, in {self.box}")
        if any(self.margin):
            box = grow(box, self.margin)
            labels = read_reflected(self._labels.read, box, within=self.box)
        raw = read_reflected(self._raw.read, box, within=self.box)
        labels = relabel(labels, name=self._labels.volume.path)
        if self.augment is not None:
            size = self.voxel_size
            raw, labels = augment(raw, labels, config=self.augment, rng=rng, voxel_size=size)
        return raw, labels


def check_pair(raw: Volume, labels: Volume) -> None:
    """Refuse what cannot be an image and its labels.

    Raises:
        DataError: shapes differ, or labels are no integers.
    """
    if tuple(raw.shape) != tuple(labels.shape):
        raise DataError(
            f"{raw.path} has shape {tuple(raw.shape)}, "
            f"its labels {labels.path} {tuple(labels.shape)}"
        )
    if labels.dtype.kind not in "iub":
        raise DataError(f"{labels.path}: labels are integers, not {labels.dtype}")


def has_labelled_pair(labels: np.ndarray) -> bool:
    """Whether two voxels that share a face both have a label, in a [D, H, W] array."""
    known = labels != 0
    sides = (known.swapaxes(0, axis) for axis in range(3))
    return any(bool((side[1:] & side[:-1]).any()) for side in sides)


def relabel(labels: np.ndarray, *, name: str = "labels") -> np.ndarray:
    """The same objects numbered 1, 2, ... in the order of their ids, as int64; 0 stays 0.

    Raises:
        DataError: a negative label; ``name`` says where.
    """
    flat = labels.ravel()
    # Objects are runs along x: sort one voxel of each run, not all voxels.
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    ids, numbers = np.unique(flat[starts], return_inverse=True)
    if ids[0] < 0:
        raise DataError(f"{name}: label {ids[0]} is negative")
    numbers = numbers.astype(np.int64) + (ids[0] != 0)
    return np.repeat(numbers, np.diff(starts, append=flat.size)).reshape(labels.shape)
