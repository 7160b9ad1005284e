"""Agglomeration of a region graph, edge by edge from the cheapest, as waterz does it.

The state is flat arrays, so that a million edges fit; the histograms of all edges share one pool.
"""

from typing import NamedTuple

import numpy as np

from tokenunify_scale.ops.compiled import compiled
from tokenunify_scale.ops.merge_graph import Graph, connect, forget, key_of, place_of, remember
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
    """int64 [E], faces."""
    total: np.ndarray
    """float64 [E], sum of their affinities."""
    begin: np.ndarray
    """int64 [E], where an edge's histogram begins in the pool."""
    length: np.ndarray
    """int64 [E], its bins that are not empty."""
    entries: np.ndarray
    """int64 [E], the sum of its histogram."""
    bins: np.ndarray
    """int16 [P], the pool: numbers of bins, ascending within a histogram."""
    times: np.ndarray
    """int64 [P], the pool: how often each bin was hit."""
    used: np.ndarray
    """int64 [1], the pool's part that is taken."""


@compiled
def _score(scores: Scores, edge: int, quantile: int, doubt: float, even: float) -> float:
    """The distance of an edge as of now; ``doubt`` faces of affinity ``even`` are added."""
    if quantile == MEAN:
        affinity = scores.total[edge] / scores.count[edge]
    else:
        pivot = quantile * scores.entries[edge] // 100 + 1
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
    """Free what dead and moved histograms hold of the pool."""
    bins, times = scores.bins[: scores.used[0]].copy(), scores.times[: scores.used[0]].copy()
    used = 0
    for edge in range(scores.value.size):
        if scores.dead[edge]:
            continue
        begin, length = scores.begin[edge], scores.length[edge]
        scores.bins[used : used + length] = bins[begin : begin + length]
        scores.times[used : used + length] = times[begin : begin + length]
        scores.begin[edge] = used
        used += length
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
            place = place_of(graph, key_of(graph, keep, other))
            stays = moved
            if graph.keys[place] == -1:
                graph.degree[keep] += 1
            else:
                # The cheaper edge stays; of equal ones that of the region of the larger name.
                own = graph.values[place]
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
                remember(graph, keep, other, moved)
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
