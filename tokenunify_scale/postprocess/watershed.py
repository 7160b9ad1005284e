"""Fragments: a seeded watershed on the boundary map of three nearest-neighbour affinities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.postprocess.attach import attach
from tokenunify_scale.postprocess.consistency import consistent
from tokenunify_scale.train.runlog import track

Offset = tuple[int, int, int]
Mode = Literal["sections", "volume"]
Weigh = Literal["mean", "weakest"]


@dataclass(frozen=True, kw_only=True)
class Watershed:
    """How fragments are made."""

    fragments: Mode = "sections"
    """Watershed of each section on its own, or of the volume in three dimensions."""

    boundary: float = 0.5
    """Boundary value (1 - affinity) from which on a voxel cannot be a seed of a fragment."""

    boundary_of: Weigh = "mean"
    """The boundary value of a voxel is that of the mean of its two edges in the plane (paper), or
    of the weakest of them (the fragments of its multicut); in "volume" the edge across counts
    with them as the weakest."""

    smooth: float = 0.0
    """Standard deviation in voxels by which the distance to the boundary is smoothed before its
    maxima become seeds; in the plane for sections. 0 does not."""

    # Paper: none. Each wrong affinity makes seeds of its own, and so thousands of specks.
    repair: int = 3
    """Rounds in which affinities are overruled that contradict those around them (an edge cut
    between voxels that are joined all around it); those of a true partition never are."""

    attach: Literal["edges", "flood"] = "edges"
    """Boundary voxels join the fragment their strong edges lead to, or as the watershed floods
    them (the paper's way, which needs ground truth with gaps between neurons)."""

    def __post_init__(self) -> None:
        """Refuse a boundary outside [0, 1], and what is negative."""
        if not 0 <= self.boundary <= 1:
            raise ConfigError(f"boundary is {self.boundary}; expected within [0, 1]")
        for name in ("smooth", "repair"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected >= 0")


def check_affinities(affinities: np.ndarray) -> np.ndarray:
    """Affinities as the libraries below need them: float32, contiguous, sane.

    Args:
        affinities: [C, D, H, W]; channel c < 3 at voxel p is the edge (p, p - e_c), channels z, y,
            x; long-range channels may follow.

    Returns:
        The same values as a C-contiguous float32 array; not copied where it already is one.

    Raises:
        DataError: fewer than three channels, a side without voxels, NaN, or values outside [0, 1].
    """
    if affinities.ndim != 4 or affinities.shape[0] < 3 or 0 in affinities.shape:
        raise DataError(
            f"affinities have shape {affinities.shape}; expected [C, D, H, W] with channels z, y, x"
        )
    low, high = affinities.min(), affinities.max()
    if np.isnan(low):
        bad = np.argwhere(np.isnan(affinities))[0].tolist()
        raise DataError(f"affinities hold NaN, first at channel, z, y, x = {bad}")
    if low < 0 or high > 1:
        raise DataError(f"affinities range over [{low:.3g}, {high:.3g}]; expected within [0, 1]")
    return np.ascontiguousarray(affinities, dtype=np.float32)


def boundary_map(
    affinities: np.ndarray, *, mode: Mode = "sections", weigh: Weigh = "mean"
) -> np.ndarray:
    """How surely each voxel lies on a boundary.

    Edges that leave the volume have no partner and so no meaning: the first plane of each channel
    takes the values of its neighbour plane.

    Args:
        affinities: [3, D, H, W] in [0, 1].
        mode: "sections" looks at the edges within a section; "volume" lets a weak edge to the
            section before count too: for data of equal resolution in all directions.
        weigh: in the plane, 1 - (a_y + a_x) / 2 with "mean", as the paper's waterz, and
            1 - min(a_y, a_x) with "weakest", as its multicut.

    Returns:
        [D, H, W] float32 in [0, 1].
    """
    y, x = (_without_border(affinities[c], axis=c) for c in (1, 2))
    inside = 0.5 * (y + x) if weigh == "mean" else np.minimum(y, x)
    if mode == "volume":
        np.minimum(inside, _without_border(affinities[0], axis=0), out=inside)
    return 1.0 - inside


def _without_border(channel: np.ndarray, *, axis: int) -> np.ndarray:
    """A copy of [D, H, W] edges whose first plane along ``axis`` repeats the second (or is 1)."""
    channel = np.moveaxis(channel.copy(), axis, 0)
    channel[0] = channel[1] if len(channel) > 1 else 1.0
    return np.moveaxis(channel, 0, axis)


def fragments(
    options: Watershed, affinities: np.ndarray, *, offsets: Sequence[Offset]
) -> np.ndarray:
    """Cut a volume into fragments, each meant to lie inside one neuron.

    Seeds are the regional maxima of the distance to the nearest voxel whose boundary value reaches
    ``options.boundary``; they flood the boundary map, so fragments cover everything. Background 0
    is left only where there is nothing to seed: in a section (or volume) without a voxel below it.

    An affinity belongs to the edge before a voxel, so the boundary of two neurons that touch is
    one voxel wide and lies in the second. Flooding gives such voxels to either, and a fragment
    with a rim of its neighbour is joined to it, however perfect the affinities. With attachment by
    edges boundary voxels go where their strong edges lead, and those that lead to no seed (neurites
    a voxel or two thin) become fragments of their own, also where only an edge to the next section
    is strong.

    Args:
        options: of the watershed.
        affinities: [C, D, H, W] in [0, 1]; channel c at p is the edge (p, p - e_c). Only the first
            three are read.
        offsets: of all channels; as only the nearest ones are read, they change nothing.

    Returns:
        [D, H, W] uint64; ids are unique over the volume and consecutive from 1.

    Raises:
        DataError: affinities of a wrong shape, with NaN or outside [0, 1].

    Source: the paper's inference, seeds from the distance transform of 1 - (a_y + a_x) / 2 < 0.5.
    """
    affinities = consistent(check_affinities(affinities)[:3], rounds=options.repair)
    boundary = boundary_map(affinities, mode=options.fragments, weigh=options.boundary_of)
    if options.fragments == "volume":
        return _cut(options, boundary, affinities, None)[0].astype(np.uint64)
    across = np.zeros(boundary.shape, dtype=bool)
    across[1:] = affinities[0, 1:] > 1.0 - options.boundary
    across[:-1] |= across[1:]  # a strong edge links the voxels at both of its ends
    result = np.zeros(boundary.shape, dtype=np.uint64)
    used = 0
    for z in track(range(len(boundary)), description="fragments", unit="section"):
        found, count = _cut(options, boundary[z], affinities[1:, z], across[z])
        result[z] = np.where(found, found + used, 0)
        used += count
    return result


def _cut(
    options: Watershed, boundary: np.ndarray, edges: np.ndarray, across: np.ndarray | None
) -> tuple[np.ndarray, int]:
    """Fragments of one section or volume with one channel of edges an axis: ids, their number.

    ``across`` marks voxels of a section with a strong edge out of it.
    """
    interior = boundary < options.boundary
    if interior.all():
        return np.ones(boundary.shape, dtype=np.int64), 1
    distance = ndimage.distance_transform_edt(interior)
    if options.smooth:
        distance = ndimage.gaussian_filter(distance, options.smooth)
    peaks = local_maxima(distance, connectivity=1) & interior
    seeds, count = ndimage.label(peaks)
    flooded = watershed(boundary, seeds).astype(np.int64)
    if options.attach == "flood" or not count:
        return flooded, count
    border = ~interior
    linked = border & across if across is not None else np.zeros_like(border)
    least = 1.0 - options.boundary
    return attach(flooded, count, edges, border=border, linked=linked, least=least)
