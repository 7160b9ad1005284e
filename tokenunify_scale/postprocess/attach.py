"""Give the voxels of a boundary to the fragments their strong edges lead to."""

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph


# Paper: it floods only, which on perfect affinities of gapless labels ends in one segment.
def attach(
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

    Args:
        flooded: int64 [H, W] or [D, H, W], fragments from 1 to ``count`` that cover everything.
        count: of fragments.
        edges: one channel an axis of that shape; channel c at p is the edge (p, p - e_c).
        border: bool, the voxels that are given away.
        linked: bool, those of them that have a strong edge out of the section.
        least: affinity above which an edge is strong.

    Returns:
        The ids of all voxels, and how many fragments there are now.
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
