"""The hash table: it grows with its pairs and loses none, and ids become uint64 and stay apart."""

from collections import Counter

import numpy as np

from tokenunify_scale.metrics import tables


def test_a_table_grows_with_its_pairs_and_counts_each(monkeypatch):
    monkeypatch.setattr(tables, "FIRST", 4)
    monkeypatch.setattr(tables, "PIECE", 100)
    first, second = np.random.default_rng(3).integers(0, 200, (2, 5000))
    table = tables.Table()
    table.add(first[:3000], second[:3000])
    table.add(first[3000:], second[3000:])
    left, right, counts = (column.tolist() for column in table.rows())
    wanted = Counter(zip(first.tolist(), second.tolist(), strict=True))
    assert dict(zip(zip(left, right, strict=True), counts, strict=True)) == wanted
    assert table.left.size < 4 * len(wanted)


def test_ids_become_uint64_without_a_copy_where_they_can():
    ids = np.array([-1, 2**62])
    assert np.shares_memory(tables.as_uint64(ids), ids)
    assert tables.as_uint64(ids).tolist() == [2**64 - 1, 2**62]
    assert tables.as_uint64(np.array([-1], np.int16)).tolist() == [2**64 - 1]
    assert tables.as_uint64(np.array([True, False])).tolist() == [1, 0]
    assert tables.as_uint64(np.array([258], ">u8")).tolist() == [258]
