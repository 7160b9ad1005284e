"""A segmentation and its ground truth, opened together and read box by box in source voxels."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.metrics.overlaps import check_ids
from tokenunify_scale.scoring.parts import CHUNK, parts_of
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box, Triple
from tokenunify_scale.volumes.part import Part, part_of, place
from tokenunify_scale.volumes.volume import Volume, open_volume

BYTES = 64 << 20
"""Of segmentation and labels together, read at a time; scores take about three times as much."""
FILES = ("segmentation.h5:segmentation", "segmentation.zarr")


@dataclass(frozen=True)
class Inputs:
    """What is scored; boxes are in voxels of the source volume."""

    segmentation: Volume
    labels: Volume | None
    raw: Volume | None
    part: Part
    """The box that is scored, and where the segmentation begins."""
    border: int
    """Voxels by which the background between objects is widened on either side; 0 leaves it."""
    chunk: Triple = CHUNK
    """Voxels (z, y, x) of the segmentation that are stored together."""

    @property
    def box(self) -> Box:
        """What is scored."""
        return self.part.box

    @property
    def voxel_size(self) -> tuple[float, float, float] | None:
        """nm (z, y, x), told by any of the volumes."""
        volumes = (self.segmentation, self.raw, self.labels)
        return next((v.voxel_size for v in volumes if v is not None and v.voxel_size), None)

    @property
    def voxels(self) -> int:
        """Voxels to read at a time."""
        volumes = [v for v in (self.segmentation, self.labels) if v is not None]
        return BYTES // sum(max(volume.dtype.itemsize, 4) for volume in volumes)

    def parts(self, box: Box | None = None) -> list[Box]:
        """Boxes that cover ``box``, or all that is scored, and fit into memory."""
        place = {"origin": self.part.origin, "chunk": self.chunk}
        return parts_of(box or self.box, voxels=self.voxels, **place)

    def read_segmentation(self, box: Box) -> np.ndarray:
        """Ids of segments [D, H, W]."""
        return _read(self.segmentation, box)

    def read_raw(self, box: Box) -> np.ndarray:
        """The raw image [D, H, W]."""
        return _read(self.raw, box)

    def read_labels(self, box: Box) -> np.ndarray:
        """Ids of objects [D, H, W], with borders as they are scored."""
        if not self.border:
            return _read(self.labels, box)
        around = _around(box, self.border, whole=_whole(self.labels))
        inner = box.shift(tuple(-start for start in around.start))
        return widened(_read(self.labels, around), voxels=self.border)[inner.slices]


@contextmanager
def open_inputs(
    segmentation: str,
    *,
    labels: str | None,
    raw: str | None,
    sections: tuple[int, int] | None,
    border: int,
) -> Iterator[Inputs]:
    """Open the volumes and look whether they fit each other.

    Args:
        segmentation: a segment folder, or a volume of ids.
        labels: the ground truth, a volume.
        raw: a volume.
        sections: as ``part_of`` takes them.
        border: see ``Inputs``.

    Raises:
        ConfigError: the sections are not in the segmentation, or there is no such folder.
        DataError: an input is missing, does not fit, or its ids are not integers.
    """
    with ExitStack() as stack:
        ids = stack.enter_context(open_segmentation(segmentation))
        check_ids(segmentation, ids.dtype)
        part = part_of(ids, sections=sections)
        others = []
        for spec in (labels, raw):
            other = None if spec is None else stack.enter_context(open_volume(spec))
            if other is not None:
                place(other, ids, part)
            others.append(other)
        if others[0] is not None:
            check_ids(labels, others[0].dtype)
        yield Inputs(ids, others[0], others[1], part, border, _chunk(ids))


def open_segmentation(spec: str) -> Volume:
    """The volume of ids that a segment folder or a spec stands for.

    Raises:
        ConfigError: no such folder, and no reader for it.
        DataError: nothing in it.
    """
    folder = Path(spec)
    names = [name for name in FILES if (folder / name.partition(":")[0]).exists()]
    if names:
        return open_volume(folder / names[0])
    if folder.is_dir() and (folder / "config.yaml").is_file():
        raise DataError(f"{spec}: no segmentation.h5 or segmentation.zarr in this run folder")
    try:
        return open_volume(spec)
    except ConfigError as error:
        raise ConfigError(f"{error}; and there is no such folder") from None


def widened(labels: np.ndarray, *, voxels: int) -> np.ndarray:
    """Labels [..., H, W] with background between touching objects, as a training sees them.

    The function of the training does it, on ids of any integer type.
    """
    import torch  # takes a second to load, which scores without widening need not wait for

    from tokenunify_scale.data.affinities import widen_borders

    dtype = labels.dtype
    signed = labels.view(f"i{dtype.itemsize}")  # torch compares unsigned ids of few sizes
    return widen_borders(torch.from_numpy(signed), voxels=voxels).numpy().view(dtype)


def _chunk(volume: Volume) -> Triple:
    """What is stored together in the arrays that segment writes, or is likely to be elsewhere."""
    ours = Path(volume.path, ".zarray").is_file()
    return Boxed.open(volume.path).chunk if ours else CHUNK


def _whole(volume: Volume) -> Box:
    """Where a volume lies in its source."""
    z, y, x = (int(o) for o in volume.attributes.get("offset", (0, 0, 0)))
    return Box.of(volume.shape).shift((z, y, x))


def _read(volume: Volume, box: Box) -> np.ndarray:
    return volume.read(box.shift(tuple(-start for start in _whole(volume).start)))


def _around(box: Box, voxels: int, *, whole: Box) -> Box:
    """A box grown in its plane, within the volume."""
    (z, *start), (end, *stop) = box.start, box.stop
    grown = Box((z, *(max(a - voxels, 0) for a in start)), (end, *(b + voxels for b in stop)))
    return grown.intersect(whole)
