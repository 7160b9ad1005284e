"""What a segmentation leaves: counts for result.json, and files in the format asked for."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tokenunify_scale.postprocess.budget import CHUNK
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.tiff import write_tiff

Format = Literal["hdf5", "tiff", "both", "zarr"]
SEGMENTATION, FRAGMENTS = "segmentation", "fragments"


@dataclass(frozen=True)
class Segments:
    """One segmentation, of one threshold."""

    threshold: float | None
    count: int
    """Ids run from 1 to it."""
    removed: int
    """Segments that were dissolved."""
    background: float
    """Share of the voxels that belong to no segment."""

    def to_dict(self) -> dict[str, Any]:
        """As result.json has it."""
        return {
            "segments": self.count,
            "removed_segments": self.removed,
            "background_fraction": self.background,
        }


@dataclass(frozen=True)
class Outcome:
    """Segmentations by name, the fragments they are made of, and how long it took."""

    arrays: dict[str, np.ndarray | Boxed]
    """uint64 [D, H, W] each: ``segmentation``, those of more thresholds, ``fragments``."""
    segments: dict[str, Segments]
    fragments: int
    blocks: int
    stages: dict[str, float]
    """Seconds."""

    def to_dict(self) -> dict[str, Any]:
        """What result.json holds of it."""
        first, *others = self.segments
        return {
            "metrics": {**self.segments[first].to_dict(), "fragments": self.fragments},
            "thresholds": {name: each.threshold for name, each in self.segments.items()},
            "others": {name: self.segments[name].to_dict() for name in others},
            "blocks": self.blocks,
            "stages": {name: round(seconds, 2) for name, seconds in self.stages.items()},
        }


def names(found: Sequence[float | None], *, asked: Any) -> dict[float | None, str]:
    """What the segmentations of some thresholds are called, the first one asked for first.

    Args:
        found: thresholds of the segmentations, or None for a method that knows none.
        asked: the threshold of the method's options, one or a tuple of them.

    Returns:
        ``segmentation`` for the first one asked for, ``segmentation_0.3`` and so on for the rest.
    """
    order = list(asked) if isinstance(asked, tuple | list) else list(found)
    order = [each for each in order if each in found] or list(found)
    return {
        each: SEGMENTATION if place == 0 else f"{SEGMENTATION}_{each:g}"
        for place, each in enumerate(dict.fromkeys(order))
    }


def write(
    outcome: Outcome, folder: Path, *, format: Format, facts: Mapping[str, Any], work: Path
) -> None:
    """Write segmentations and fragments; what an earlier run left under these names goes.

    Args:
        outcome: arrays in memory, or stores, which are moved.
        folder: of the run.
        format: "hdf5": segmentation.h5; "tiff": a file for each segmentation; "both"; "zarr": a
            folder for each array.
        facts: attributes of every array.
        work: where stores are made before they appear in ``folder``; on the same disk.

    Raises:
        HostError: the disk is full.
    """
    _clear(folder)
    if format in ("hdf5", "both"):
        told = dict.fromkeys(outcome.arrays, facts)
        write_hdf5(folder / "segmentation.h5", outcome.arrays, attributes=told)
    if format in ("tiff", "both"):
        for name, segments in outcome.segments.items():
            array = outcome.arrays[name]
            write_tiff(
                folder / f"{name}.tif",
                array if isinstance(array, np.ndarray) else array.sections(),
                shape=array.shape,
                largest=segments.count,
                voxel_size=facts.get("voxel_size"),
            )
    if format == "zarr":
        for name, array in outcome.arrays.items():
            if isinstance(array, np.ndarray):
                array = _store(array, work / f"{name}.zarr", facts)
            array.path.replace(folder / f"{name}.zarr")


def _store(array: np.ndarray, path: Path, attributes: Mapping[str, Any]) -> Boxed:
    """An array in memory as a store, written a chunk's depth at a time."""
    store = Boxed.create(
        path, shape=array.shape, dtype=array.dtype, chunk=CHUNK, attributes=attributes
    )
    depth, *plane = array.shape
    for z in range(0, depth, store.chunk[0]):
        box = Box((z, 0, 0), (min(z + store.chunk[0], depth), *plane))
        store.write(box, array[box.slices])
    return store


def _clear(folder: Path) -> None:
    """A reader takes what it finds first: no file of another format, or threshold, may stay."""
    for pattern in (f"{SEGMENTATION}.h5", f"{SEGMENTATION}*.tif"):
        for file in folder.glob(pattern):
            file.unlink()
    for pattern in (f"{SEGMENTATION}*.zarr", f"{FRAGMENTS}.zarr"):
        for store in folder.glob(pattern):
            shutil.rmtree(store)
