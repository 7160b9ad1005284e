"""The table of overlaps: exact for every type of ids, and the same however a volume is cut."""

import numpy as np
import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.metrics import Counter, Overlaps
from tokenunify_scale.metrics import overlaps as module


def same(one, other):
    names = ("segments", "objects", "counts")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def counted(segmentation, labels):
    """The table by numpy, from pairs of Python integers."""
    table = {}
    for pair in zip(segmentation.reshape(-1).tolist(), labels.reshape(-1).tolist(), strict=True):
        table[pair] = table.get(pair, 0) + 1
    return [(*pair, table[pair]) for pair in sorted(table)]


def rows(table):
    return list(
        zip(table.segments.tolist(), table.objects.tolist(), table.counts.tolist(), strict=True)
    )


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4"])
def test_ids_of_every_type_are_counted_exactly(kind):
    generator = np.random.default_rng(1)
    dtype = np.dtype(kind)
    low, high = (0, 1) if kind == "?" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    extremes = np.array([low, low + 1, high - 1, high], dtype=dtype)
    segmentation = generator.choice(extremes, (3, 9, 11))
    labels = generator.choice(extremes, (3, 9, 11))
    table = Overlaps.of(segmentation, labels, ignore_label=None)
    assert table.segments.dtype == dtype.newbyteorder("=")
    assert rows(table) == counted(segmentation, labels)


def test_ids_of_two_types_and_memory_of_any_order_are_counted():
    generator = np.random.default_rng(2)
    segmentation = generator.integers(0, 9, (8, 7, 6)).astype(np.uint64)[::-1, :, ::2]
    labels = generator.integers(0, 4, (3, 7, 8)).astype(np.int16).T
    table = Overlaps.of(segmentation, labels, ignore_label=None)
    assert rows(table) == counted(segmentation, labels)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_a_table(monkeypatch, threads):
    generator = np.random.default_rng(4)
    segmentation, labels = np.repeat(generator.integers(0, 60, (2, 4000)), 3, axis=1)
    alone = Overlaps.of(segmentation, labels)
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    monkeypatch.setattr(module, "WORTH_A_THREAD", 1000)
    assert same(alone, Overlaps.of(segmentation, labels))


def test_overlaps_of_parts_add_up_to_those_of_the_whole():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 50, (6, 20, 20)).astype(np.uint32)
    segmentation = generator.integers(0, 3000, labels.shape).astype(np.uint64)
    parts = [Overlaps.of(segmentation[z : z + 2], labels[z : z + 2]) for z in (0, 2, 4)]
    counter = Counter()
    for z in (4, 0, 2):
        counter.add(segmentation[z : z + 2], labels[z : z + 2])
    whole = Overlaps.of(segmentation, labels)
    assert same(whole, Overlaps.sum(parts))
    assert same(whole, counter.overlaps().without(ignore_label=0))
    assert whole.counts.sum() == np.count_nonzero(labels)


def test_negative_and_huge_ids_are_sorted_as_numbers():
    ids = np.array([-5, 3, -(2**62), 2**62])
    assert Overlaps.of(ids, ids).segments.tolist() == sorted(ids.tolist())
    high = np.array([2**64 - 1, 2**63, 7], dtype=np.uint64)
    assert Overlaps.of(high, high).objects.tolist() == sorted(high.tolist())


def test_what_is_ignored_may_be_no_id_of_the_type():
    labels = np.array([1, 2], np.uint8)
    assert Overlaps.of(labels, labels, ignore_label=-1, ignore_segment=300).counts.sum() == 2


def test_parts_of_another_type_are_another_volume():
    counter = Counter()
    counter.add(np.ones(3, np.uint8), np.ones(3, np.uint8))
    with pytest.raises(ValueError, match="not of one volume"):
        counter.add(np.ones(3, np.uint8), np.ones(3, np.uint16))


def test_shapes_that_differ_are_both_named():
    with pytest.raises(DataError, match=r"\(2, 3, 4\).*\(2, 3, 5\)"):
        Overlaps.of(np.ones((2, 3, 4), int), np.ones((2, 3, 5), int))


def test_ids_that_are_not_integers_are_refused():
    with pytest.raises(DataError, match="labels has dtype float32"):
        Overlaps.of(np.ones(3, int), np.ones(3, np.float32))


def test_an_empty_part_adds_nothing():
    empty = np.empty((0, 4), np.uint16)
    assert Overlaps.of(empty, empty).counts.size == 0
