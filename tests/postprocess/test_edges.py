"""The region graph: every face once, and parts add up to the whole."""

import numpy as np
import pytest

from tokenunify_scale.postprocess import edges as module
from tokenunify_scale.postprocess.edges import UNIT, Edges
from tokenunify_scale.volumes.geometry import Box


def volume(shape=(5, 9, 11), *, ids=7, seed=0, far=0):
    generator = np.random.default_rng(seed)
    fragments = generator.integers(0, ids, shape).astype(np.uint64)
    fragments[fragments > 0] += np.uint64(far)
    return generator.random((3, *shape), dtype=np.float32), fragments


def by_hand(affinities, fragments):
    """Lists of affinities between pairs of fragments, face by face."""
    found = {}
    for channel, offset in enumerate(np.eye(3, dtype=int)):
        for p in np.ndindex(fragments.shape):
            q = tuple(np.subtract(p, offset))
            ids = [int(fragments[p]), int(fragments[q])] if min(q) >= 0 else [0, 0]
            if ids[0] != ids[1] and 0 not in ids:
                found.setdefault(tuple(sorted(ids)), []).append(affinities[channel][p])
    return found


def _arrays(edges):
    return vars(edges).values()


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(*map(_arrays, (one, other)), strict=True))


@pytest.mark.parametrize("far", [0, 2**63])
def test_every_face_counts_once_with_its_affinity(far):
    affinities, fragments = volume(far=far)
    edges, expected = Edges.of(affinities, fragments), by_hand(affinities, fragments)
    assert [tuple(map(int, pair)) for pair in edges.pairs] == sorted(expected)
    assert edges.pairs.dtype == np.uint64 and (edges.pairs[:, 0] < edges.pairs[:, 1]).all()
    for row, pair in enumerate(sorted(expected)):
        values = np.array(expected[pair])
        assert edges.count[row] == values.size
        mean = edges.total[row] / (edges.count[row] * UNIT)
        assert mean == pytest.approx(values.mean(), abs=1e-6)
        cut = slice(edges.starts[row], edges.starts[row + 1])
        histogram = np.bincount((values * 256).astype(int), minlength=256)
        assert np.array_equal(edges.bins[cut], np.flatnonzero(histogram))
        assert np.array_equal(edges.times[cut], histogram[histogram > 0])
        assert edges.highest[row] == int(values.max() * 256)


def test_affinities_of_one_and_zero_are_exact():
    fragments = np.arange(1, 9, dtype=np.uint64).reshape(2, 2, 2)
    ones = Edges.of(np.ones((3, 2, 2, 2), np.float32), fragments)
    assert (ones.total == UNIT * ones.count).all() and (ones.highest == 255).all()
    nothing = Edges.of(np.zeros((3, 2, 2, 2), np.float32), fragments)
    assert len(nothing) == 12 and not nothing.total.any() and not nothing.bins.any()


@pytest.mark.parametrize("block", [(2, 4, 5), (5, 3, 11), (1, 1, 1)])
def test_tables_of_blocks_add_up_to_exactly_the_table_of_the_whole(block):
    affinities, fragments = volume(ids=30)
    parts = []
    for start in np.ndindex(*(-(-np.array(fragments.shape) // block))):
        first = np.multiply(start, block)
        own = Box(tuple(first), tuple(np.minimum(first + block, fragments.shape)))
        seen = Box(tuple(np.maximum(first - 1, 0)), own.stop)  # one plane before, and no more
        local = own.shift(tuple(-a for a in seen.start))
        parts.append(
            Edges.of(affinities[(slice(None), *seen.slices)], fragments[seen.slices], box=local)
        )
    whole = Edges.of(affinities, fragments)
    assert same(Edges.sum(parts), whole)
    assert same(Edges.sum([Edges.sum(parts[::2]), Edges.sum(parts[1::2])]), whole)
    assert not same(Edges.sum(parts[:-1]), whole)


def test_small_portions_change_nothing(monkeypatch):
    affinities, fragments = volume(ids=200)
    whole = Edges.of(affinities, fragments)
    monkeypatch.setattr(module, "FACES", 400)
    assert same(Edges.of(affinities, fragments), whole)
    monkeypatch.setattr(module, "MOST_NODES", 64)
    assert same(Edges.of(affinities, fragments), whole)


def test_no_pairs_make_an_empty_table_and_it_adds_nothing():
    affinities, fragments = volume()
    for ids in (np.zeros_like(fragments), np.ones_like(fragments)):
        assert same(Edges.of(affinities, ids), Edges.empty())
    whole = Edges.of(affinities, fragments)
    assert same(Edges.sum([Edges.empty(), whole, Edges.empty()]), whole)
    assert same(Edges.sum([]), Edges.empty()) and Edges.empty().highest.size == 0


def test_long_range_channels_are_not_read():
    affinities, fragments = volume()
    longer = np.concatenate([affinities, np.full_like(affinities, np.nan)])
    assert same(Edges.of(longer, fragments), Edges.of(affinities, fragments))


def test_a_table_goes_through_a_file(tmp_path):
    edges = Edges.of(*volume())
    np.savez(tmp_path / "edges.npz", **vars(edges))
    with np.load(tmp_path / "edges.npz") as file:
        assert same(Edges(**file), edges)


@pytest.mark.parametrize(
    "shape, box, message",
    [
        ((2, 5, 9, 11), None, "do not fit"),
        ((3, 5, 9, 12), None, "do not fit"),
        ((3, 5, 9, 11), Box((0, 0, 0), (6, 9, 11)), "is not within"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape, box, message):
    with pytest.raises(ValueError, match=message):
        Edges.of(np.ones(shape, np.float32), volume()[1], box=box)
