"""The graph that agglomeration contracts, in flat arrays.

Half-edges stand in linked lists, half-edge 2 e + s being end s of edge e, and a hash table leads
from pairs of regions to edges. It holds nothing but numbers of edges: who looks up sees at the ends
of an edge whether it is the pair. A region lives in the slot of its best connected part, so that a
merge moves few edges; its name is its smallest node.
"""

from typing import NamedTuple

import numpy as np

from tokenunify_scale.ops.compiled import compiled


class Graph(NamedTuple):
    """Regions and what joins them."""

    ends: np.ndarray
    """int32 [E, 2], the slots an edge joins."""
    following: np.ndarray
    """int32 [2 E], the next half-edge of the same slot, -1 after the last."""
    first: np.ndarray
    """int32 [N], the first half-edge of each slot."""
    degree: np.ndarray
    """int32 [N], living edges of each slot."""
    name: np.ndarray
    """int32 [N], the smallest node of the region in each slot."""
    parent: np.ndarray
    """int32 [N], the slot that took a slot in; itself while it stands."""
    table: np.ndarray
    """int32 [T], a hash table: edges by the pair of slots that they join, -1 where it is free."""


@compiled
def _home_of(graph: Graph, u: int, v: int) -> int:
    """Where a pair of slots, whichever comes first, stands unless another one is there."""
    key = np.int64(min(u, v)) * graph.first.size + max(u, v)
    return ((key * 0x9E3779B97F4A7C1) >> 20) & (graph.table.size - 1)


@compiled
def place_of(graph: Graph, u: int, v: int) -> int:
    """Where a pair is in the hash table, or the free place where it would be."""
    mask = graph.table.size - 1
    low, high, place = min(u, v), max(u, v), _home_of(graph, u, v)
    while True:
        edge = graph.table[place]
        if edge == -1:
            return place
        one, other = graph.ends[edge, 0], graph.ends[edge, 1]
        if min(one, other) == low and max(one, other) == high:
            return place
        place = (place + 1) & mask


@compiled
def forget(graph: Graph, u: int, v: int) -> None:
    """Take a pair out of the hash table, and close the gap."""
    mask = graph.table.size - 1
    free = place_of(graph, u, v)
    place = free
    while True:
        place = (place + 1) & mask
        edge = graph.table[place]
        if edge == -1:
            break
        home = _home_of(graph, graph.ends[edge, 0], graph.ends[edge, 1])
        if ((place - home) & mask) >= ((place - free) & mask):
            graph.table[free] = edge
            free = place
    graph.table[free] = -1


@compiled
def connect(graph: Graph) -> None:
    """Fill everything of a graph that follows from ``ends``."""
    for edge in range(len(graph.ends)):
        u, v = graph.ends[edge, 0], graph.ends[edge, 1]
        for side in range(2):
            slot = graph.ends[edge, side]
            graph.following[2 * edge + side] = graph.first[slot]
            graph.first[slot] = 2 * edge + side
            graph.degree[slot] += 1
        graph.table[place_of(graph, u, v)] = edge
