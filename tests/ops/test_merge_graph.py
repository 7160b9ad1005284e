"""The hash table and the lists against a dictionary and sets."""

import numpy as np

from tokenunify_scale.ops.merge_graph import Graph, connect, forget, place_of


def graph_of(ends, *, nodes, places):
    ends = np.array(ends, np.int32).reshape(-1, 2)
    return Graph(
        ends, np.full(2 * len(ends), -1, np.int32), np.full(nodes, -1, np.int32),
        np.zeros(nodes, np.int32), np.arange(nodes, dtype=np.int32),
        np.arange(nodes, dtype=np.int32), np.full(places, -1, np.int32),
    )  # fmt: skip


def found(graph, u, v):
    edge = int(graph.table[place_of(graph, u, v)])
    return None if edge == -1 else edge


def test_every_edge_is_in_the_lists_of_both_its_ends_and_in_the_table():
    ends = [(0, 1), (1, 2), (0, 3), (2, 3)]
    graph = graph_of(ends, nodes=5, places=16)
    connect(graph)
    for slot in range(5):
        half, listed = graph.first[slot], set()
        while half >= 0:
            assert graph.ends[half >> 1, half & 1] == slot
            listed.add(int(half >> 1))
            half = graph.following[half]
        assert listed == {e for e, pair in enumerate(ends) if slot in pair}
        assert graph.degree[slot] == len(listed)
    assert [found(graph, v, u) for u, v in ends] == [0, 1, 2, 3]
    assert found(graph, 0, 2) is None


def test_the_table_is_a_dictionary_whatever_is_put_in_and_taken_out():
    generator = np.random.default_rng(0)
    pairs = [sorted(generator.choice(30, 2, replace=False).tolist()) for _ in range(3000)]
    graph, known = graph_of(pairs, nodes=30, places=64), {}
    for edge, (u, v) in enumerate(pairs):
        if len(known) > 40 or (u, v) in known and edge % 2:
            u, v = next(iter(known)) if (u, v) not in known else (u, v)
            forget(graph, v, u)
            del known[u, v]
        else:
            graph.table[place_of(graph, u, v)] = edge
            known[u, v] = edge
        assert np.count_nonzero(graph.table != -1) == len(known)
    assert all(found(graph, *pair) == edge for pair, edge in known.items())
