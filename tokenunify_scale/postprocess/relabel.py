"""Ids of segments: looked up in a table, counted, renumbered from 1, and those of specks dissolved.

Ids are unsigned integers of 64 bits throughout: as floats, those above 2**53 would run together.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree


@dataclass(frozen=True)
class Table:
    """Which segment each fragment belongs to."""

    nodes: np.ndarray
    """[N] uint64, ids of fragments, sorted, each once, without 0."""
    segments: np.ndarray
    """[N] uint64, from 1; 0 where the segment is dissolved."""
    count: int
    """Segments that stay."""
    removed: int
    """Segments that are dissolved."""

    @classmethod
    def of(
        cls, nodes: np.ndarray, joined: np.ndarray, sizes: np.ndarray, *, min_size: int
    ) -> "Table":
        """Renumber segments from 1 in the order of their ids, those that are large enough.

        Args:
            nodes: [N] uint64, sorted.
            joined: [N] uint64, any id above 0 for each segment.
            sizes: [N] voxels of each fragment.
            min_size: least voxels of a segment that stays.
        """
        _, at = np.unique(joined, return_inverse=True)
        voxels = np.zeros(at.max(initial=-1) + 1, dtype=np.int64)
        np.add.at(voxels, at, sizes)
        number, count = _numbers(voxels, min_size)
        return cls(nodes, number[at], count, int(voxels.size) - count)

    def apply(self, fragments: np.ndarray) -> np.ndarray:
        """The segment of each voxel.

        Args:
            fragments: [D, H, W] uint64 of ``nodes`` and 0.

        Returns:
            [D, H, W] uint64; 0 for background, and for what is dissolved.
        """
        if not self.nodes.size:
            return np.zeros_like(fragments)
        at = np.searchsorted(self.nodes, fragments)
        return np.where(fragments == 0, np.uint64(0), self.segments[at])


def compact(segmentation: np.ndarray, *, min_size: int = 0) -> tuple[np.ndarray, int]:
    """Renumber segments from 1 in the order of their ids; small ones become background 0.

    Args:
        segmentation: [D, H, W] ids of any size, 0 is background.
        min_size: least voxels of a segment that stays.

    Returns:
        [D, H, W] uint64, and how many segments were dropped.
    """
    ids = segmentation.astype(np.uint64, copy=False)
    if int(ids.max(initial=0)) > ids.size:  # a table as long as the largest id would be too long
        ids = np.unique(np.append(ids.reshape(-1), np.uint64(0)), return_inverse=True)[1]
        ids = ids.reshape(-1)[:-1].reshape(segmentation.shape)
    places = ids.astype(np.int64, copy=False)
    voxels = np.bincount(places.reshape(-1), minlength=1)
    present = int(np.count_nonzero(voxels[1:]))
    number, count = _numbers(voxels[1:], max(min_size, 1))
    return np.append(np.uint64(0), number)[places], present - count


def _numbers(voxels: np.ndarray, least: int) -> tuple[np.ndarray, int]:
    """A number from 1 for each count of voxels that is no less, else 0; how many there are."""
    kept = voxels >= least
    number = np.where(kept, np.cumsum(kept), 0).astype(np.uint64)
    return number, int(np.count_nonzero(kept))


def fill(
    segmentation: np.ndarray, holes: np.ndarray, *, voxel_size: tuple[float, float, float]
) -> np.ndarray:
    """Give each hole the id of the nearest segment.

    Args:
        segmentation: [D, H, W] ids, 0 is background.
        holes: bool [D, H, W], the voxels to fill; other background stays.
        voxel_size: (z, y, x) in nm, or any unit: what distance means.

    Returns:
        A copy of the segmentation; unchanged where there is no segment at all. Of segments that
        are equally near, any of them.
    """
    if not segmentation.any() or not holes.any():
        return segmentation
    # What is nearest to a voxel outside has a face to the outside itself. A tree of these few is
    # built and asked several times faster than a distance transform of all voxels.
    edge = np.argwhere(_surface(segmentation != 0))
    tree = KDTree(edge * np.asarray(voxel_size), balanced_tree=False, compact_nodes=False)
    _, nearest = tree.query(np.argwhere(holes) * np.asarray(voxel_size))
    filled = segmentation.copy()
    filled[holes] = segmentation[tuple(edge[nearest].T)]
    return filled


def _surface(inside: np.ndarray) -> np.ndarray:
    """Voxels inside with a face to one outside."""
    outside = np.zeros_like(inside)
    for axis in range(inside.ndim):
        marked, here = np.moveaxis(outside, axis, 0), np.moveaxis(inside, axis, 0)
        marked[1:] |= ~here[:-1]
        marked[:-1] |= ~here[1:]
    return outside & inside
