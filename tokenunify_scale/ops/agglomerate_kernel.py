"""Agglomeration of a region graph, edge by edge from the cheapest, as waterz does it.

The state is flat arrays, so that a million edges fit; the histograms of all edges share one pool.
"""

from typing import NamedTuple

import numpy as np

from tokenunify_scale.ops.compiled import compiled
from tokenunify_scale.ops.merge_graph import Graph, connect, forget, place_of
from tokenunify_scale.ops.merge_queue import Queue, pop, push, queue_of, top

__all__ = ["MEAN", "Graph", "Scores", "connect", "merge_until", "queue_of", "roots", "start"]

MEAN = -1  # in place of a quantile


class Scores(NamedTuple):
    """What edges are judged by; a score is a distance, 1 - affinity."""

    value: np.ndarray
    """float32 [E], the score when last computed."""
    stale: np.ndarray
    """bool [E], that it has to be computed again."""
    dead: np.ndarray
    """bool [E], that the edge is gone."""
    count: np.ndarray
    """int32 or int64 [E], faces."""
    total: np.ndarray
    """float64 [E], sum of their affinities."""
    begin: np.ndarray
    """int32 or int64 [E], where an edge's histogram begins in the pool; empty for means."""
    length: np.ndarray
    """uint16 [E], its bins that are not empty; empty for means."""
    entries: np.ndarray
    """As ``count`` [E], the sum of its histogram; empty where that is the faces."""
    bins: np.ndarray
    """uint8 [P], the pool: numbers of bins, ascending within a histogram; empty for means."""
    times: np.ndarray
    """int32 or int64 [P], the pool: how often each bin was hit, once at least."""
    used: np.ndarray
    """int64 [1], the pool's part that is taken."""


@compiled
def _score(scores: Scores, edge: int, quantile: int, doubt: float, even: float) -> float:
    """The distance of an edge as of now; ``doubt`` faces of affinity ``even`` are added."""
    if quantile == MEAN:
        affinity = scores.total[edge] / scores.count[edge]
    else:
        entries = scores.entries[edge] if scores.entries.size else scores.count[edge]
        pivot = quantile * entries // 100 + 1
        begin = scores.begin[edge]
        last, seen, place = begin + scores.length[edge] - 1, scores.times[begin], begin
        while seen < pivot and place < last:
            place += 1
            seen += scores.times[place]
        affinity = (scores.bins[place] + 0.5) / 256
    faces = scores.count[edge]
    affinity = (affinity * faces + even * doubt) / (faces + doubt)
    return np.float32(1) - np.float32(affinity)


@compiled
def start(scores: Scores, queue: Queue, quantile: int, doubt: float, even: float) -> None:
    """Score every edge and put it into the queue, in their order."""
    for edge in range(scores.value.size):
        scores.value[edge] = _score(scores, edge, quantile, doubt, even)
        push(queue, edge, scores.value[edge])


@compiled
def _compact(scores: Scores) -> None:
    """Free what dead and moved histograms hold of the pool, in place.

    A walk through the pool has to tell whose histogram it comes to: first, the negative number of
    the edge stands in place of the first of ``times``, which waits in ``begin``.
    """
    for edge in range(scores.value.size):
        if not scores.dead[edge]:
            begin = scores.begin[edge]
            scores.begin[edge] = scores.times[begin]
            scores.times[begin] = -1 - edge
    place = used = 0
    while place < scores.used[0]:
        if scores.times[place] >= 0:
            place += 1
            continue
        edge = -1 - scores.times[place]
        scores.times[place] = scores.begin[edge]
        scores.begin[edge] = used
        for step in range(np.int64(scores.length[edge])):
            scores.bins[used + step] = scores.bins[place + step]
            scores.times[used + step] = scores.times[place + step]
        place += scores.length[edge]
        used += scores.length[edge]
    scores.used[0] = used


@compiled
def _fold(scores: Scores, lost: int, kept: int) -> None:
    """Add the faces of edge ``lost``, which dies, to those of ``kept``."""
    scores.count[kept] += scores.count[lost]
    scores.total[kept] += scores.total[lost]
    scores.stale[kept] = True
    if not scores.bins.size:
        scores.dead[lost] = True
        return
    if scores.used[0] + scores.length[lost] + scores.length[kept] > scores.bins.size:
        _compact(scores)
    scores.dead[lost] = True
    if scores.entries.size:
        scores.entries[kept] += scores.entries[lost]
    bins, times, out = scores.bins, scores.times, scores.used[0]
    i, j = scores.begin[lost], scores.begin[kept]
    i_end, j_end = i + scores.length[lost], j + scores.length[kept]
    while i < i_end or j < j_end:
        take = min(bins[i] if i < i_end else 256, bins[j] if j < j_end else 256)
        number = 0
        if i < i_end and bins[i] == take:
            number += times[i]
            i += 1
        if j < j_end and bins[j] == take:
            number += times[j]
            j += 1
        bins[out], times[out] = take, number
        out += 1
    scores.begin[kept], scores.length[kept] = scores.used[0], out - scores.used[0]
    scores.used[0] = out


@compiled
def _contract(graph: Graph, scores: Scores, edge: int) -> None:
    """Join the regions of an edge: the less connected slot gives its edges to the other."""
    keep, gone = graph.ends[edge, 0], graph.ends[edge, 1]
    if graph.degree[keep] < graph.degree[gone]:
        keep, gone = gone, keep
    scores.dead[edge] = True
    forget(graph, keep, gone)
    kept_is_smaller = graph.name[keep] < graph.name[gone]
    half = graph.first[gone]
    while half >= 0:
        after, moved = graph.following[half], half >> 1
        if not scores.dead[moved]:
            other = graph.ends[moved, 1 - (half & 1)]
            forget(graph, gone, other)
            place = place_of(graph, keep, other)
            stays, own = moved, graph.table[place]
            if own == -1:
                graph.degree[keep] += 1
            else:
                # The cheaper edge stays; of equal ones that of the region of the larger name.
                if kept_is_smaller:
                    stays = own if scores.value[moved] > scores.value[own] else moved
                else:
                    stays = moved if scores.value[own] > scores.value[moved] else own
                _fold(scores, own + moved - stays, stays)
                graph.degree[other] -= 1
            if stays == moved:
                graph.ends[moved, half & 1] = keep
                graph.following[half] = graph.first[keep]
                graph.first[keep] = half
                graph.table[place] = moved
        half = after
    graph.degree[keep] -= 1
    graph.first[gone] = -1
    graph.name[keep] = min(graph.name[keep], graph.name[gone])
    graph.parent[gone] = keep


@compiled
def merge_until(
    graph: Graph,
    scores: Scores,
    queue: Queue,
    threshold: float,
    quantile: int,
    doubt: float,
    even: float,
) -> None:
    """Contract edges, cheapest first, until the next one costs ``threshold`` or more.

    An edge whose faces changed is stale: it is scored again when its turn comes, and queues anew.
    """
    edge = top(queue)
    while edge >= 0 and scores.value[edge] < threshold:
        pop(queue)
        if not scores.dead[edge]:
            if scores.stale[edge]:
                scores.stale[edge] = False
                scores.value[edge] = _score(scores, edge, quantile, doubt, even)
                push(queue, edge, scores.value[edge])
            else:
                _contract(graph, scores, edge)
        edge = top(queue)


@compiled
def roots(graph: Graph) -> np.ndarray:
    """int32 [N], for each node the smallest node of its region."""
    answer = np.empty_like(graph.name)
    for node in range(answer.size):
        slot = node
        while graph.parent[slot] != slot:
            graph.parent[slot] = graph.parent[graph.parent[slot]]
            slot = graph.parent[slot]
        answer[node] = graph.name[slot]
    return answer
