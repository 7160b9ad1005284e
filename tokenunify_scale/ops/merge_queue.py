"""Priority queues of edges with the order waterz gives them: in bins, or a heap.

Bins: scores fall into ``bins`` equal classes of [0, 1], first in first out within one, so that a
million edges need no sorting. The heap orders exactly and breaks ties as the C++ library's does.
"""

from typing import NamedTuple

import numpy as np

from tokenunify_scale.ops.compiled import compiled


class Queue(NamedTuple):
    """Edges by score; an edge stands in it at most once."""

    following: np.ndarray
    """int32 [E], the next edge of the same bin, -1 after the last."""
    head: np.ndarray
    """int32 [bins], the first edge of each bin; no bins: a heap."""
    tail: np.ndarray
    """int32 [bins], the last edge of each bin."""
    heap: np.ndarray
    """int32 [E], edges as a binary heap; empty with bins."""
    score: np.ndarray
    """float32 [E], their scores; empty with bins."""
    state: np.ndarray
    """int64 [1], the lowest bin with an edge (the number of bins: none), or the heap's size."""


def queue_of(edges: int, *, bins: int) -> Queue:
    """An empty queue for ``edges`` edges; 0 bins make a heap."""
    many, none = edges if bins == 0 else 0, np.zeros(0, np.int32)
    return Queue(
        following=np.full(edges, -1, np.int32) if bins else none,
        head=np.full(bins, -1, np.int32),
        tail=np.full(bins, -1, np.int32),
        heap=np.zeros(many, np.int32),
        score=np.zeros(many, np.float32),
        state=np.array([bins], np.int64),
    )


@compiled
def push(queue: Queue, edge: int, score: float) -> None:
    """Put an edge in at its score."""
    bins = queue.head.size
    if bins == 0:
        queue.state[0] += 1
        _rise(queue, queue.state[0] - 1, edge, score)
        return
    place = 0 if not score > 0 else min(int(np.float32(score) * np.float32(bins)), bins - 1)
    queue.following[edge] = -1
    if queue.head[place] < 0:
        queue.head[place] = edge
    else:
        queue.following[queue.tail[place]] = edge
    queue.tail[place] = edge
    queue.state[0] = min(queue.state[0], place)


@compiled
def top(queue: Queue) -> int:
    """The edge that is next, -1 if there is none."""
    if queue.head.size == 0:
        return queue.heap[0] if queue.state[0] else -1
    return queue.head[queue.state[0]] if queue.state[0] < queue.head.size else -1


@compiled
def pop(queue: Queue) -> None:
    """Take out the edge that is next."""
    if queue.head.size == 0:
        queue.state[0] -= 1
        last = queue.state[0]
        if last:
            _sink(queue, last, queue.heap[last], queue.score[last])
        return
    place = queue.state[0]
    queue.head[place] = queue.following[queue.head[place]]
    while place < queue.head.size and queue.head[place] < 0:
        place += 1
    queue.state[0] = place


@compiled
def _rise(queue: Queue, hole: int, edge: int, score: float) -> None:
    """Move a hole of the heap up until the edge fits in."""
    while hole > 0 and queue.score[(hole - 1) // 2] > score:
        above = (hole - 1) // 2
        queue.heap[hole], queue.score[hole] = queue.heap[above], queue.score[above]
        hole = above
    queue.heap[hole], queue.score[hole] = edge, score


@compiled
def _sink(queue: Queue, size: int, edge: int, score: float) -> None:
    """Fill the hole at the top of the heap from below, all the way, then put the edge in."""
    hole = child = 0
    while child < (size - 1) // 2:
        child = 2 * (child + 1)
        if queue.score[child] > queue.score[child - 1]:
            child -= 1
        queue.heap[hole], queue.score[hole] = queue.heap[child], queue.score[child]
        hole = child
    if size % 2 == 0 and child == (size - 2) // 2:
        child = 2 * (child + 1)
        queue.heap[hole], queue.score[hole] = queue.heap[child - 1], queue.score[child - 1]
        hole = child - 1
    _rise(queue, hole, edge, score)
