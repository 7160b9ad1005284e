"""From skeletons to voxels: instance labels, distance to the membranes, mitochondria.

Every neurite claims the voxels its surface is nearest to (an additively weighted Voronoi diagram
of spheres, in warped space), so neurites fill the volume and their membranes are shared.
"""

from dataclasses import dataclass

import cc3d
import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from tokenunify_scale.volumes.geometry import Box, Triple, tiles
from tokenunify_scale.volumes.synthetic_lattice import RIPPLES, Lattice, Spheres

# Voxels scored at a time.
BLOCK = (8, 64, 64)
# Distances to membranes end here; a block asks neurites that come this near; both nm.
FAR, REACH = np.float32(64.0), 240.0
# Pieces smaller than this are given to a neighbour, nm^3.
SMALLEST = 4e6


@dataclass(frozen=True)
class Anatomy:
    """What there is to see in every voxel."""

    labels: np.ndarray
    """[D, H, W] uint32, 1..N, each one 6-connected; no background."""
    gap: np.ndarray
    """[D, H, W] float32, nm to the nearest membrane, at most 64."""
    depth: np.ndarray
    """[D, H, W] float32, signed nm to the nearest mitochondrion, inside negative, at most 64."""
    mitochondrion: np.ndarray
    """[D, H, W] uint16, the number of that mitochondrion."""


def build_anatomy(
    neurites: Spheres, mitochondria: Spheres, hosts: np.ndarray, *, shape: Triple, lattice: Lattice
) -> Anatomy:
    """Turn spheres into instance labels and the distances a picture is drawn from.

    Args:
        neurites: owners are neurites, counted from 0.
        mitochondria: owners are mitochondria, counted from 0.
        hosts: [M] the neurite of each mitochondrion; it stays inside.
        shape: voxels (z, y, x).
        lattice: laid under a volume of that shape.
    """
    # Thin neurites get low ripples: high ones would cut them.
    calibre = np.bincount(neurites.owner, neurites.radius) / np.bincount(neurites.owner)
    ripple = (22 * np.clip(calibre / 90, 0.35, 1.1)).astype(np.float32)
    winner = np.empty(shape, np.int32)
    gap = np.empty(shape, np.float32)
    depth = np.empty(shape, np.float32)
    mitochondrion = np.zeros(shape, np.uint16)
    for box in tiles(shape, tile=BLOCK, overlap=(0, 0, 0)):
        at = box.slices
        winner[at], gap[at] = _claim(neurites, ripple, lattice=lattice, box=box)
        depth[at], mitochondrion[at] = _contain(
            mitochondria, hosts, lattice=lattice, box=box, winner=winner[at], gap=gap[at]
        )
    labels, moved = connect(winner, smallest=SMALLEST / float(np.prod(lattice.voxel_size)))
    heal(gap, labels=labels, moved=moved, voxel_size=lattice.voxel_size)
    return Anatomy(labels, gap, depth, mitochondrion)


def _claim(neurites: Spheres, ripple: np.ndarray, *, lattice: Lattice, box: Box):
    """Owner of each voxel of a box, and its distance in nm to the boundary with the runner-up."""
    window = lattice.window(box)
    where = lattice.nodes[window]
    near, reach = neurites.near(where, reach=REACH), REACH
    while not len(near.owner):
        reach *= 2
        near = neurites.near(where, reach=reach)
    owners, scores = near.distance(where)
    for score, owner in zip(scores, owners, strict=True):
        score += ripple[owner] * lattice.ripples[(owner % RIPPLES, *window)]
    keep = (scores - scores.min(0)).min((1, 2, 3)) < 2 * FAR
    best = np.full(box.shape, np.inf, np.float32)
    second = best.copy()
    winner = np.zeros(box.shape, np.int32)
    for owner, score in zip(owners[keep], lattice.refine(scores[keep], box), strict=True):
        np.minimum(second, np.maximum(best, score), out=second)
        np.copyto(winner, np.int32(owner), where=score < best)
        np.minimum(best, score, out=best)
    return winner, np.minimum((second - best) / 2, FAR)


def _contain(mitochondria: Spheres, hosts, *, lattice: Lattice, box: Box, winner, gap):
    """Signed distance to the nearest mitochondrion of the voxel's own neurite, and its number."""
    where = lattice.nodes[lattice.window(box)]
    depth = np.full(box.shape, FAR, np.float32)
    number = np.zeros(box.shape, np.uint16)
    near = mitochondria.near(where, reach=float(FAR))
    if len(near.owner):
        owners, scores = near.distance(where)
        for owner, score in zip(owners, lattice.refine(scores, box), strict=True):
            score = np.maximum(np.where(winner == hosts[owner], score, FAR), 24 - gap)
            np.copyto(number, np.uint16(owner), where=score < depth)
            np.minimum(depth, score, out=depth)
    return depth, number


def connect(winner: np.ndarray, *, smallest: float) -> tuple[np.ndarray, np.ndarray]:
    """Make each label one 6-connected piece.

    A neurite that was cut becomes several labels; a piece below ``smallest`` goes to the
    neighbour it shares most faces with.

    Args:
        winner: [D, H, W] int32, owner of each voxel, from 0.
        smallest: voxels a piece needs to keep a label of its own; the largest piece always does.

    Returns:
        Labels [D, H, W] uint32, 1..N, and which voxels [D, H, W] were given to a neighbour.
    """
    pieces, count = cc3d.connected_components(winner + 1, connectivity=6, return_N=True)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    kept = sizes >= min(smallest, sizes[1:].max())
    kept[0] = False
    home = np.where(kept, np.cumsum(kept), 0)
    small, other, faces = _contacts(pieces, ~kept)
    while (home[1:] == 0).any():
        use = (home[small] == 0) & (home[other] > 0)
        order = np.argsort(faces[use], kind="stable")
        joined = home.copy()
        joined[small[use][order]] = home[other[use][order]]
        home = joined
    return home.astype(np.uint32)[pieces], ~kept[pieces]


def _contacts(pieces: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Touching pieces [N] and [N], the first ``wanted``, and how many faces they share [N]."""
    count, codes = len(wanted), []
    for axis in range(3):
        along = np.moveaxis(pieces, axis, 0)
        touch = along[:-1] != along[1:]
        low, high = (part[touch].astype(np.int64) for part in (along[:-1], along[1:]))
        for a, b in ((low, high), (high, low)):
            codes.append((a * count + b)[wanted[a]])
    code, faces = np.unique(np.concatenate(codes), return_counts=True)
    return code // count, code % count, faces


def heal(gap: np.ndarray, *, labels: np.ndarray, moved: np.ndarray, voxel_size: np.ndarray) -> None:
    """Measure the distance to the membranes anew, in place, where voxels were given away.

    Args:
        gap: [D, H, W] float32, nm, capped at 64.
        labels: [D, H, W] after the change.
        moved: [D, H, W] bool, what was given away.
        voxel_size: nm (z, y, x).
    """
    pad = np.ceil(1.3 * FAR / voxel_size).astype(int)
    for found in find_objects(cc3d.connected_components(moved, connectivity=26).astype(np.int32)):
        box = tuple(slice(max(s.start - p, 0), s.stop + p) for s, p in zip(found, pad, strict=True))
        ids, edge = labels[box], np.zeros(labels[box].shape, bool)
        for axis in (1, 2):
            along, mark = np.moveaxis(ids, axis, 0), np.moveaxis(edge, axis, 0)
            change = along[:-1] != along[1:]
            mark[:-1] |= change
            mark[1:] |= change
        near = distance_transform_edt(~moved[box], sampling=voxel_size) < FAR / 2
        if edge.any():
            fresh = distance_transform_edt(~edge, sampling=voxel_size) + 0.3 * voxel_size[1]
            gap[box][near] = np.minimum(fresh, FAR)[near]
        else:
            gap[box][near] = FAR
