"""The region graph in few bytes: what the tables of parts say, and no more memory than it is."""

import tracemalloc

import numpy as np
import pytest

from tokenunify_scale.postprocess.agglomerate import agglomerate, needed
from tokenunify_scale.postprocess.contacts import Contacts
from tokenunify_scale.postprocess.edges import UNIT, Edges

FAR = 1 << 63


def table(pairs, *, seed=0, faces=40):
    """Edges with a histogram of some bins each, and sums that need not agree with it."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 6, len(pairs))
    starts = np.append(0, np.cumsum(lengths))
    bins = np.concatenate([np.sort(generator.choice(256, n, replace=False)) for n in lengths])
    times = generator.integers(1, faces, bins.size)
    count = np.add.reduceat(times, starts[:-1])
    total = (count * generator.random(count.size) * UNIT).astype(np.int64)
    return Edges(np.array(pairs, np.uint64), count, total, starts, bins.astype(np.uint8), times)


def pairs_of(nodes, *, many, seed=0):
    """Pairs of ids, sorted, each once."""
    generator = np.random.default_rng(seed)
    ends = np.sort(generator.integers(0, nodes.size, (many, 2)), axis=1)
    return nodes[np.unique(ends[ends[:, 0] < ends[:, 1]], axis=0)]


def rows(contacts, nodes):
    """All that is told of each pair of ids."""
    found = {}
    for row, (u, v) in enumerate(nodes[contacts.ends].tolist()):
        found[u, v] = [contacts.count[row], contacts.total[row]]
        if contacts.kept != "sums":
            cut = slice(contacts.begin[row], contacts.begin[row] + contacts.length[row])
            found[u, v] += [contacts.bins[cut].tolist(), contacts.times[cut].tolist()]
    return found


def files(folder, edges, *, parts):
    """The rows of a table in files, whose order is not theirs."""
    found = []
    for part in range(parts):
        chosen = np.flatnonzero(np.arange(len(edges)) % parts == part)
        cuts = [slice(*edges.starts[row : row + 2]) for row in chosen]
        own = Edges(
            edges.pairs[chosen], edges.count[chosen], edges.total[chosen],
            np.append(0, np.cumsum([cut.stop - cut.start for cut in cuts])),
            np.concatenate([edges.bins[cut] for cut in cuts]),
            np.concatenate([edges.times[cut] for cut in cuts]),
        )  # fmt: skip
        found.append(folder / f"{parts - part}.npz")
        np.savez(found[-1], **vars(own))
    return found[::-1]


@pytest.mark.parametrize("kept", ["all", "highest", "sums"])
def test_a_graph_tells_what_the_table_does(kept):
    nodes = np.uint64(FAR) + np.arange(30, dtype=np.uint64) * np.uint64(7)
    edges = table(pairs_of(nodes, many=90))
    contacts = Contacts.of(edges, nodes, needed=kept)
    cut = edges.cut(kept)
    expected = {}
    for row, pair in enumerate(edges.pairs.tolist()):
        own = slice(*cut.starts[row : row + 2])
        expected[tuple(pair)] = [edges.count[row], edges.total[row] / UNIT]
        if kept != "sums":
            expected[tuple(pair)] += [cut.bins[own].tolist(), cut.times[own].tolist()]
    assert rows(contacts, nodes) == expected and list(rows(contacts, nodes)) == list(expected)
    assert contacts.mean == pytest.approx(edges.total / UNIT / edges.count, abs=1e-12)


@pytest.mark.parametrize("kept", ["all", "highest", "sums"])
def test_files_of_parts_in_any_order_make_the_graph_of_the_whole(tmp_path, kept):
    nodes = np.arange(3, 103, dtype=np.uint64)
    edges = table(pairs_of(nodes, many=500))
    whole = Contacts.of(edges, nodes, needed=kept)
    found = Contacts.read(files(tmp_path, edges.cut(kept), parts=7), nodes, needed=kept)
    assert rows(found, nodes) == rows(whole, nodes) and found.used == whole.used
    assert np.array_equal(found.ends, whole.ends), "ties are broken by this order"


def test_no_parts_and_parts_without_pairs_make_an_empty_graph(tmp_path):
    np.savez(tmp_path / "none.npz", **vars(Edges.empty()))
    nodes = np.arange(1, 4, dtype=np.uint64)
    for kept in ("all", "highest", "sums"):
        for paths in ([], [tmp_path / "none.npz"]):
            assert len(Contacts.read(paths, nodes, needed=kept)) == 0
    assert len(Contacts.read([], nodes[:0], needed="sums").mean) == 0


def test_what_cannot_be_numbered_is_refused(tmp_path):
    nodes = np.arange(1, 40, dtype=np.uint64)
    edges = table(pairs_of(nodes, many=60))
    with pytest.raises(ValueError, match="not among the nodes"):
        Contacts.of(edges, nodes[1:], needed="sums")
    paths = files(tmp_path, edges, parts=2)
    with pytest.raises(ValueError, match="in the tables of two parts"):
        Contacts.read([*paths, paths[0]], nodes, needed="sums")


def test_counts_grow_to_64_bits_where_all_faces_together_need_it():
    nodes = np.arange(1, 20, dtype=np.uint64)
    edges = table(pairs_of(nodes, many=60), faces=1 << 28)
    assert edges.count.sum() > 1 << 31 and edges.count.max() < 1 << 31
    contacts = Contacts.of(edges, nodes, needed="all")
    assert contacts.count.dtype == contacts.times.dtype == contacts.begin.dtype == np.int64
    assert Contacts.of(table(edges.pairs), nodes, needed="all").count.dtype == np.int32
    segments = agglomerate(contacts, nodes, scoring="median", thresholds=[0.9])[0.9]
    assert np.unique(segments).size < nodes.size


def test_a_copy_has_arrays_of_its_own():
    nodes = np.arange(1, 20, dtype=np.uint64)
    contacts = Contacts.of(table(pairs_of(nodes, many=60)), nodes, needed="all")
    before, other = rows(contacts, nodes), contacts.copy()
    agglomerate(other, nodes, scoring="median", thresholds=[0.9])
    assert rows(contacts, nodes) == before


@pytest.mark.parametrize("scoring, a_pair", [("mean", 56), ("paper", 76), ("median", 76)])
def test_a_graph_is_read_and_agglomerated_in_few_bytes_a_pair(tmp_path, scoring, a_pair):
    """The graph of a noisy volume is what a segmentation by blocks needs memory for."""
    nodes = np.arange(1, 40_001, dtype=np.uint64)
    pairs = pairs_of(nodes, many=170_000)
    edges, paths = table(pairs).cut(needed(scoring)), []
    for part in range(16):
        first, last = (len(pairs) * end // 16 for end in (part, part + 1))
        cut = slice(edges.starts[first], edges.starts[last])
        own = Edges(
            edges.pairs[first:last], edges.count[first:last], edges.total[first:last],
            edges.starts[first : last + 1] - edges.starts[first], edges.bins[cut],
            edges.times[cut],
        )  # fmt: skip
        paths.append(tmp_path / f"{part}.npz")
        np.savez(paths[-1], **vars(own))

    def segmented():
        contacts = Contacts.read(paths, nodes, needed=needed(scoring))
        return agglomerate(contacts, nodes, scoring=scoring, thresholds=[0.5], doubt=3)

    segmented()  # compiled
    tracemalloc.start()
    segmented()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    entries = edges.bins.size if scoring == "median" else 0
    assert peak < a_pair * len(pairs) + 6 * entries + 32 * nodes.size
