"""Turn predicted affinities into neurons."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from scipy import ndimage

from tokenunify_scale.config import ConfigError, DataError, Named, to_dict
from tokenunify_scale.postprocess.waterz import WaterzConfig
from tokenunify_scale.registry import POSTPROCESS
from tokenunify_scale.train.runlog import RunFolder
from tokenunify_scale.volumes.hdf5 import read_hdf5, split_spec, write_hdf5
from tokenunify_scale.volumes.tiff import write_tiff

# What the methods here understand; predict writes exactly this.
EXPECTED = {"offsets": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "axes": "czyx"}
KEPT = ("voxel_size", "offset", "volume", "model")  # attributes handed on to the segmentation


@dataclass(frozen=True, kw_only=True)
class Config:
    """One segmentation."""

    affinities: str
    """A finished predict folder, or file.h5:dataset of shape [3, D, H, W]."""

    out: Path = Path("runs/segment")
    """The run folder; segmentation.h5 is written there."""

    postprocess: Annotated[Named, POSTPROCESS] = Named("waterz", WaterzConfig())
    """The method and its options, as {name: waterz, threshold: 0.5}."""

    # Paper: it drops nothing. A membrane predicted with noise breaks into thousands of specks.
    min_size: int = 50
    """Segments of fewer voxels are dissolved; 0 keeps all."""

    dissolve: Literal["nearest", "background"] = "nearest"
    """A dissolved segment's voxels go to the nearest segment that stays, or to background 0."""

    format: Literal["hdf5", "tiff", "both"] = "hdf5"
    """What to write: segmentation.h5, segmentation.tif for ImageJ and napari, or both; evaluate
    reads the HDF5 file of a folder."""

    def __post_init__(self) -> None:
        """Refuse a negative size."""
        if self.min_size < 0:
            raise ConfigError(f"min_size must be >= 0 voxels, got {self.min_size}")


def plan(config: Config) -> dict[str, Any]:
    """What would be segmented: the affinities' place, shape and method.

    Raises:
        DataError: the affinities are missing or of another convention.
    """
    affinities, attributes = read_affinities(config.affinities)
    return {
        "affinities": config.affinities,
        "voxels": list(affinities.shape[1:]),
        "offset": attributes.get("offset", [0, 0, 0]),
        "method": config.postprocess.name,
    }


def run(config: Config) -> dict[str, Any]:
    """Segment, dissolve small segments, renumber from 1 and write.

    Returns:
        What result.json holds.

    Raises:
        DataError: the affinities are missing, of another convention, or hold NaN.
        HostError: a package the method needs is absent.
    """
    affinities, attributes = read_affinities(config.affinities)
    folder = RunFolder.create(config.out, verb="segment", config=to_dict(config))
    method = POSTPROCESS.get(config.postprocess.name)
    found, fragments = method.factory(config.postprocess.options, affinities)
    segmentation, removed = compact(found, min_size=config.min_size)
    if removed and config.dissolve == "nearest":
        orphans = (segmentation == 0) & (found != 0)
        voxel_size = tuple(attributes.get("voxel_size", (1.0, 1.0, 1.0)))
        segmentation = fill(segmentation, orphans, voxel_size=voxel_size)
    facts = {"axes": "zyx", **{key: attributes[key] for key in KEPT if key in attributes}}
    if config.format != "tiff":
        write_hdf5(
            folder.path / "segmentation.h5",
            {"segmentation": segmentation, "fragments": fragments},
            attributes={"segmentation": facts, "fragments": facts},
        )
    if config.format != "hdf5":
        write_tiff(
            folder.path / "segmentation.tif", segmentation, voxel_size=facts.get("voxel_size")
        )
    return folder.finish(
        volume=attributes.get("volume"),
        voxels=list(segmentation.shape),
        metrics={
            "segments": int(segmentation.max()),
            "fragments": int(np.unique(fragments[fragments > 0]).size),
            "removed_segments": removed,
            "background_fraction": float(np.mean(segmentation == 0)),
        },
    )


def read_affinities(source: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Read affinities and refuse those whose meaning is another or is not told.

    Args:
        source: a predict folder, or ``file.h5:dataset``.

    Returns:
        [3, D, H, W] and the attributes.

    Raises:
        DataError: missing file or dataset, or attributes that differ from ``EXPECTED``; affinities
            read with another convention give a segmentation that looks fine and is wrong.
    """
    path, dataset = Path(source), "affinities"
    if path.is_dir():
        path = path / "affinities.h5"
    else:
        path, dataset = split_spec(source)
    affinities, attributes = read_hdf5(path, dataset)
    for key, wanted in EXPECTED.items():
        if key not in attributes:
            raise DataError(f"{source}: attribute {key!r} is missing; expected {key} = {wanted}")
        if attributes[key] != wanted:
            raise DataError(
                f"{source}: attribute {key} = {attributes[key]}; only {wanted} is understood: "
                "channel c at voxel p is the edge (p, p - offsets[c]), channels z, y, x"
            )
    if affinities.ndim != 4 or affinities.shape[0] != 3:
        raise DataError(f"{source}: shape {affinities.shape}; expected [3, D, H, W]")
    return affinities, attributes


def compact(segmentation: np.ndarray, *, min_size: int = 0) -> tuple[np.ndarray, int]:
    """Renumber segments from 1 in the order of their ids; small ones become background 0.

    Args:
        segmentation: [D, H, W] ids, 0 is background; memory grows with the largest id.
        min_size: least voxels of a segment that stays.

    Returns:
        [D, H, W] uint64, and how many segments were dropped.
    """
    ids = segmentation.astype(np.int64)
    sizes = np.bincount(ids.reshape(-1))
    sizes[0] = 0
    kept = sizes >= max(min_size, 1)
    number = np.where(kept, np.cumsum(kept), 0).astype(np.uint64)
    return number[ids], int(np.count_nonzero(sizes) - np.count_nonzero(kept))


def fill(
    segmentation: np.ndarray, holes: np.ndarray, *, voxel_size: tuple[float, float, float]
) -> np.ndarray:
    """Give each hole the id of the nearest segment.

    Args:
        segmentation: [D, H, W] ids, 0 is background.
        holes: bool [D, H, W], the voxels to fill; other background stays.
        voxel_size: (z, y, x) in nm, or any unit: what distance means.

    Returns:
        A copy of the segmentation; unchanged where there is no segment at all.
    """
    if not segmentation.any():
        return segmentation
    nearest = ndimage.distance_transform_edt(
        segmentation == 0, sampling=voxel_size, return_distances=False, return_indices=True
    )
    return np.where(holes, segmentation[tuple(nearest)], segmentation)
