"""The graph that agglomeration contracts, in flat arrays.

Half-edges stand in linked lists, half-edge 2 e + s being end s of edge e, and a hash table leads
from pairs of regions to edges. A region lives in the slot of its best connected part, so that a
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
    keys: np.ndarray
    """int64 [T], pairs of slots in the hash table, -1 where it is free."""
    values: np.ndarray
    """int32 [T], the edge of each pair."""


@compiled
def place_of(graph: Graph, key: int) -> int:
    """Where a key is in the hash table, or the free place where it would be."""
    mask = graph.keys.size - 1
    place = ((key * 0x9E3779B97F4A7C1) >> 20) & mask
    while graph.keys[place] != -1 and graph.keys[place] != key:
        place = (place + 1) & mask
    return place


@compiled
def key_of(graph: Graph, u: int, v: int) -> int:
    """The key of a pair of slots, whichever comes first."""
    return np.int64(min(u, v)) * graph.first.size + max(u, v)


@compiled
def forget(graph: Graph, u: int, v: int) -> None:
    """Take a pair out of the hash table, and close the gap."""
    mask = graph.keys.size - 1
    free = place_of(graph, key_of(graph, u, v))
    place = free
    while True:
        place = (place + 1) & mask
        key = graph.keys[place]
        if key == -1:
            break
        home = ((key * 0x9E3779B97F4A7C1) >> 20) & mask
        if ((place - home) & mask) >= ((place - free) & mask):
            graph.keys[free], graph.values[free] = key, graph.values[place]
            free = place
    graph.keys[free] = -1


@compiled
def remember(graph: Graph, u: int, v: int, edge: int) -> None:
    """Put a pair into the hash table, or replace its edge."""
    place = place_of(graph, key_of(graph, u, v))
    graph.keys[place], graph.values[place] = key_of(graph, u, v), edge


@compiled
def connect(graph: Graph) -> None:
    """Fill everything of a graph that follows from ``ends``."""
    for edge in range(len(graph.ends)):
        for side in range(2):
            slot = graph.ends[edge, side]
            graph.following[2 * edge + side] = graph.first[slot]
            graph.first[slot] = 2 * edge + side
            graph.degree[slot] += 1
        remember(graph, graph.ends[edge, 0], graph.ends[edge, 1], edge)
