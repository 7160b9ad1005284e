"""The kernel against merging written plainly: every step looks at all edges."""

import numpy as np
import pytest

from tokenunify_scale.ops.agglomerate_kernel import (
    MEAN,
    Graph,
    Scores,
    connect,
    merge_until,
    queue_of,
    roots,
    start,
)


def random_graph(seed, nodes=40, edges=120):
    generator = np.random.default_rng(seed)
    pairs = np.sort(generator.integers(0, nodes, (edges, 2)), axis=1)
    pairs = np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0).astype(np.int32)
    # Histograms of one bin, of affinities that differ: no two scores are equal for long.
    faces = generator.integers(1, 20, len(pairs))
    return pairs, faces.astype(np.int64), generator.random(len(pairs))


def state(pairs, faces, affinity, nodes, *, spare):
    count = len(pairs)
    graph = Graph(
        pairs.copy(), np.full(2 * count, -1, np.int32), np.full(nodes, -1, np.int32),
        np.zeros(nodes, np.int32), np.arange(nodes, dtype=np.int32),
        np.arange(nodes, dtype=np.int32), np.full(512, -1, np.int32),
    )  # fmt: skip
    bins = np.minimum(affinity * 256, 255).astype(np.uint8)
    scores = Scores(
        np.zeros(count, np.float32), np.zeros(count, bool), np.zeros(count, bool),
        faces.astype(np.int32), affinity * faces, np.arange(count, dtype=np.int32),
        np.ones(count, np.uint16), faces.astype(np.int32),
        np.concatenate([bins, np.zeros(spare, np.uint8)]),
        np.concatenate([faces, np.zeros(spare, np.int64)]).astype(np.int32), np.array([count]),
    )  # fmt: skip
    connect(graph)
    return graph, scores, queue_of(count, bins=0)


def plainly(pairs, faces, affinity, nodes, *, threshold, doubt):
    """Mean agglomeration by looking at all pairs of regions each time."""
    region = np.arange(nodes)
    while True:
        sums = {}
        for (u, v), n, a in zip(pairs, faces, affinity, strict=True):
            key = tuple(sorted((region[u], region[v])))
            if key[0] != key[1]:
                total = sums.setdefault(key, [0, 0.0])
                total[0] += n
                total[1] += n * a
        costs = {k: 1 - (t + (1 - threshold) * doubt) / (n + doubt) for k, (n, t) in sums.items()}
        best = min(costs, key=costs.get, default=None)
        if best is None or costs[best] >= threshold:
            return region
        region[region == best[1]] = best[0]


@pytest.mark.parametrize("seed", range(6))
def test_mean_agglomeration_is_that_of_looking_at_all_edges_each_time(seed):
    pairs, faces, affinity = random_graph(seed)
    graph, scores, queue = state(pairs, faces, affinity, 40, spare=1024)
    how = (MEAN, 0.0, 0.5)
    start(scores, queue, *how)
    merge_until(graph, scores, queue, np.float32(0.5), *how)
    expected = plainly(pairs, faces, affinity, 40, threshold=0.5, doubt=0)
    assert np.array_equal(roots(graph), expected) and np.unique(expected).size < 30


def histograms(scores):
    """Of each living edge, how often each bin was hit."""
    cuts = zip(scores.begin.tolist(), scores.length.tolist(), strict=True)
    found = [dict(zip(scores.bins[b : b + n], scores.times[b : b + n], strict=True))
             for b, n in cuts]  # fmt: skip
    return [one for one, dead in zip(found, scores.dead, strict=True) if not dead]


@pytest.mark.parametrize("spare", [300, 512, 5000])
def test_a_pool_that_is_full_is_tidied_and_nothing_is_lost(spare):
    pairs, faces, affinity = random_graph(9, nodes=150, edges=250)
    results = []
    for room in (spare, 1 << 20):
        graph, scores, queue = state(pairs, faces, affinity, 150, spare=room)
        how = (50, 0.0, 0.5)
        start(scores, queue, *how)
        for threshold in (0.3, 0.6, 0.9):
            merge_until(graph, scores, queue, np.float32(threshold), *how)
        results.append((roots(graph).copy(), histograms(scores)))
        alive = ~scores.dead
        assert scores.count[alive].sum() <= faces.sum()
        assert np.array_equal(scores.count[alive], scores.entries[alive])
        counts = [sum(one.values()) for one in results[-1][1]]
        assert counts == scores.count[alive].tolist()
    (one, tidied), (other, plain) = results
    assert np.array_equal(one, other) and np.unique(one).size < 100
    assert tidied == plain and all(list(each) == sorted(each) for each in plain)


def test_the_faces_stand_for_the_entries_where_no_entries_are_kept():
    pairs, faces, affinity = random_graph(3, nodes=60, edges=300)
    results = []
    for kept in (True, False):
        graph, scores, queue = state(pairs, faces, affinity, 60, spare=4096)
        scores = scores if kept else scores._replace(entries=scores.entries[:0])
        start(scores, queue, 40, 0.0, 0.5)
        merge_until(graph, scores, queue, np.float32(0.6), 40, 0.0, 0.5)
        results.append(roots(graph))
    assert np.array_equal(*results) and 1 < np.unique(results[0]).size < 60
