"""Fragments: a seeded watershed on the boundary map of three nearest-neighbour affinities."""

from typing import Literal

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from tokenunify_scale.config import DataError
from tokenunify_scale.train.runlog import track

Mode = Literal["sections", "volume"]
Attach = Literal["edges", "flood"]


def check_affinities(affinities: np.ndarray) -> np.ndarray:
    """Affinities as the libraries below need them: float32, contiguous, sane.

    Args:
        affinities: [3, D, H, W]; channel c at voxel p is the edge (p, p - e_c), channels z, y, x.

    Returns:
        The same values as a C-contiguous float32 array; not copied where it already is one.

    Raises:
        DataError: not three channels, a side without voxels, NaN, or values outside [0, 1].
    """
    if affinities.ndim != 4 or affinities.shape[0] != 3 or 0 in affinities.shape:
        raise DataError(
            f"affinities have shape {affinities.shape}; expected [3, D, H, W], channels z, y, x"
        )
    low, high = affinities.min(), affinities.max()
    if np.isnan(low):
        bad = np.argwhere(np.isnan(affinities))[0].tolist()
        raise DataError(f"affinities hold NaN, first at channel, z, y, x = {bad}")
    if low < 0 or high > 1:
        raise DataError(f"affinities range over [{low:.3g}, {high:.3g}]; expected within [0, 1]")
    return np.ascontiguousarray(affinities, dtype=np.float32)


def boundary_map(affinities: np.ndarray, *, mode: Mode = "sections") -> np.ndarray:
    """How surely each voxel lies on a boundary.

    Edges that leave the volume have no partner and so no meaning: the first plane of each channel
    takes the values of its neighbour plane.

    Args:
        affinities: [3, D, H, W] in [0, 1].
        mode: "sections" looks at the edges within a section, 1 - (a_y + a_x) / 2, as the paper;
            "volume" lets a weak edge to the section before count too,
            1 - min(a_z, (a_y + a_x) / 2): for data of equal resolution in all directions.

    Returns:
        [D, H, W] float32 in [0, 1].
    """
    y, x = (_without_border(affinities[c], axis=c) for c in (1, 2))
    inside = 0.5 * (y + x)
    if mode == "volume":
        np.minimum(inside, _without_border(affinities[0], axis=0), out=inside)
    return 1.0 - inside


def _without_border(channel: np.ndarray, *, axis: int) -> np.ndarray:
    """A copy of [D, H, W] edges whose first plane along ``axis`` repeats the second (or is 1)."""
    channel = np.moveaxis(channel.copy(), axis, 0)
    channel[0] = channel[1] if len(channel) > 1 else 1.0
    return np.moveaxis(channel, 0, axis)


def fragments(
    affinities: np.ndarray,
    *,
    threshold: float = 0.5,
    mode: Mode = "sections",
    attach: Attach = "edges",
) -> np.ndarray:
    """Cut a volume into fragments, each meant to lie inside one neuron.

    Seeds are the regional maxima of the distance to the nearest voxel whose boundary value reaches
    ``threshold``; they flood the boundary map, so fragments cover everything. Background 0 is left
    only where there is nothing to seed: in a section (or volume) without a voxel below it.

    An affinity belongs to the edge before a voxel, so the boundary of two neurons that touch is
    one voxel wide and lies in the second. Flooding gives such voxels to either, and a fragment
    with a rim of its neighbour is joined to it, however perfect the affinities. With
    ``attach="edges"`` boundary voxels go where their strong edges lead, and those that lead to no
    seed (neurites a voxel or two thin) become fragments of their own, also where only an edge to
    the next section is strong.

    Args:
        affinities: [3, D, H, W] in [0, 1]; channel c at p is the edge (p, p - e_c).
        threshold: boundary value at which a voxel stops being interior.
        mode: "sections" cuts each section on its own, "volume" all three dimensions at once.
        attach: "edges" as above; "flood" leaves boundary voxels as the watershed floods them.

    Returns:
        [D, H, W] uint64; ids are unique over the volume and consecutive from 1.

    Raises:
        DataError: affinities of a wrong shape, with NaN or outside [0, 1].

    Source: the paper's inference, seeds from the distance transform of 1 - (a_y + a_x) / 2 < 0.5.
    """
    affinities = check_affinities(affinities)
    boundary = boundary_map(affinities, mode=mode)
    if mode == "volume":
        return _cut(boundary, affinities, None, threshold, attach)[0].astype(np.uint64)
    across = np.zeros(boundary.shape, dtype=bool)
    across[1:] = affinities[0, 1:] > 1.0 - threshold
    across[:-1] |= across[1:]  # a strong edge links the voxels at both of its ends
    result = np.zeros(boundary.shape, dtype=np.uint64)
    used = 0
    for z in track(range(len(boundary)), description="fragments", unit="section"):
        found, count = _cut(boundary[z], affinities[1:, z], across[z], threshold, attach)
        result[z] = np.where(found, found + used, 0)
        used += count
    return result


def _cut(
    boundary: np.ndarray,
    edges: np.ndarray,
    across: np.ndarray | None,
    threshold: float,
    attach: Attach,
) -> tuple[np.ndarray, int]:
    """Fragments of one section or volume with one channel of edges an axis: ids, their number.

    ``across`` marks voxels of a section with a strong edge out of it.
    """
    interior = boundary < threshold
    if interior.all():
        return np.ones(boundary.shape, dtype=np.int64), 1
    distance = ndimage.distance_transform_edt(interior)
    peaks = local_maxima(distance, connectivity=1) & interior
    seeds, count = ndimage.label(peaks)
    flooded = watershed(boundary, seeds).astype(np.int64)
    if attach == "flood" or not count:
        return flooded, count
    border = ~interior
    linked = border & across if across is not None else np.zeros_like(border)
    return _attach(flooded, count, edges, border=border, linked=linked, least=1.0 - threshold)


# Paper: it floods only, which on perfect affinities of gapless labels ends in one segment.
def _attach(
    flooded: np.ndarray,
    count: int,
    edges: np.ndarray,
    *,
    border: np.ndarray,
    linked: np.ndarray,
    least: float,
) -> tuple[np.ndarray, int]:
    """Give boundary voxels to the fragment at the end of their strongest path of strong edges.

    A minimum spanning forest over fragments (their interior, one node each) and boundary voxels,
    rooted in the fragments. Trees without a fragment become one, if they hold two voxels or a
    ``linked`` one. Other voxels keep what flooding gave them.
    """
    node = flooded.copy()
    node[border] = np.arange(count + 1, count + 1 + np.count_nonzero(border))
    first, second, weight = _strong_edges(node, border, edges, least)
    fragment = np.arange(1, count + 1)
    size = count + 1 + np.count_nonzero(border)
    rooted = (
        np.concatenate([np.full(count, 0.5), weight]),  # below every weight: fragments are roots
        (
            np.concatenate([np.zeros(count, np.int64), first]),
            np.concatenate([fragment, second]),
        ),
    )
    tree = csgraph.minimum_spanning_tree(sparse.coo_array(rooted, shape=(size, size)).tocsr())
    tree = tree.tocoo()
    kept = (tree.row != 0) & (tree.col != 0)
    forest = (tree.data[kept], (tree.row[kept], tree.col[kept]))
    trees, member = csgraph.connected_components(
        sparse.coo_array(forest, shape=(size, size)), directed=False
    )
    label = np.zeros(trees, dtype=np.int64)
    label[member[1 : count + 1]] = fragment
    orphans = np.bincount(member, minlength=trees) > 1
    orphans[member[node[linked]]] = True
    orphans &= label == 0
    found = np.count_nonzero(orphans)
    label[orphans] = np.arange(count + 1, count + 1 + found)
    attached = label[member[node]]
    return np.where(attached, attached, flooded), count + found


def _strong_edges(
    node: np.ndarray, border: np.ndarray, edges: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges above ``least`` with a boundary voxel at an end: node ids and weights in [1, 2).

    Each pair of nodes stands once, with its strongest edge as the lightest weight.
    """
    pairs, weights = [], []
    for axis, channel in enumerate(edges):
        ids, rim, edge = (np.moveaxis(a, axis, 0) for a in (node, border, channel))
        used = (edge[1:] > least) & (rim[1:] | rim[:-1])
        pairs.append(np.sort(np.stack([ids[:-1][used], ids[1:][used]]), axis=0))
        weights.append(2.0 - edge[1:][used])
    (first, second), weight = np.concatenate(pairs, axis=1), np.concatenate(weights)
    order = np.lexsort((weight, second, first))
    first, second, weight = first[order], second[order], weight[order]
    new = np.ones(first.size, dtype=bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return first[new], second[new], weight[new]
