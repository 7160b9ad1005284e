"""Queues of merges: by score, and what is equal in a known order."""

import numpy as np
import pytest

from tokenunify_scale.ops.merge_queue import pop, push, queue_of, top


def drain(queue):
    while (edge := top(queue)) >= 0:
        pop(queue)
        yield int(edge)


def filled(scores, *, bins):
    queue = queue_of(len(scores), bins=bins)
    for edge, score in enumerate(scores):
        push(queue, edge, score)
    return queue


def test_bins_are_first_in_first_out_and_hold_what_lies_outside():
    scores = [0.9, 0.51, 0.0, 0.5, 1.0, -1.0, 2.0, 0.52]
    assert list(drain(filled(scores, bins=4))) == [2, 5, 1, 3, 7, 0, 4, 6]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 257])
def test_the_heap_sorts(count):
    scores = np.random.default_rng(count).random(count).astype(np.float32)
    assert list(drain(filled(scores, bins=0))) == np.argsort(scores).tolist()


@pytest.mark.parametrize("bins", [0, 256])
def test_a_cheaper_edge_that_comes_late_is_next(bins):
    queue = filled([0.4, 0.6, 0.8], bins=bins)
    assert top(queue) == 0
    pop(queue)
    push(queue, 0, 0.7)
    assert top(queue) == 1
    pop(queue)
    push(queue, 1, 0.1)
    assert list(drain(queue)) == [1, 0, 2]
    assert top(queue) == -1
    push(queue, 2, 0.3)
    assert list(drain(queue)) == [2]
