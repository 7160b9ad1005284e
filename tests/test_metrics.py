"""Scores against scikit-image, against cases solved by hand, and at the edges of the id range."""

import numpy as np
import pytest
from skimage.metrics import adapted_rand_error, variation_of_information

from tokenunify_scale.config import DataError
from tokenunify_scale.metrics import ERRORS, Matches, Overlaps, score


@pytest.mark.parametrize("ignore", [0, 3, None])
@pytest.mark.parametrize("objects, segments", [(12, 40), (900, 5000)])
def test_scores_equal_scikit_image_on_random_labels(ignore, objects, segments):
    generator = np.random.default_rng(objects)
    labels = generator.integers(0, objects, (7, 31, 29))
    segmentation = (labels * 3 + generator.integers(0, 4, labels.shape)) % segments
    ours = score(segmentation, labels, ignore_label=ignore)
    ignored = () if ignore is None else (ignore,)
    split, merge = variation_of_information(labels, segmentation, ignore_labels=ignored)
    error, recall, precision = adapted_rand_error(labels, segmentation, ignore_labels=ignored)
    got = (ours.voi_split, ours.voi_merge, ours.voi, ours.arand, ours.precision, ours.recall)
    assert got == pytest.approx((split, merge, split + merge, error, precision, recall), abs=1e-9)


def test_equal_labellings_score_zero_whatever_the_ids():
    labels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4) // 5 + 1
    ours = score(labels.astype(np.uint64) * 977, labels)
    assert (ours.voi, ours.arand, ours.precision, ours.recall) == pytest.approx((0, 0, 1, 1))


def test_an_object_cut_in_halves_is_one_bit_of_split_and_no_merge():
    labels = np.ones((2, 4, 4), np.uint8)
    halves = np.repeat([[[1]], [[2]]], 16, axis=1).reshape(2, 4, 4)
    ours = score(halves, labels)
    assert (ours.voi_split, ours.voi_merge) == pytest.approx((1, 0))
    assert ours.precision == 1 and ours.recall == pytest.approx(15 / 31)
    swapped = score(labels, halves)
    assert (swapped.voi_split, swapped.voi_merge) == pytest.approx((0, 1))


def test_voxels_of_the_ignored_label_do_not_count():
    labels = np.array([0, 0, 1, 1, 2, 2])
    segmentation = np.array([7, 8, 1, 1, 2, 2])
    assert score(segmentation, labels).voi == pytest.approx(0)
    assert score(segmentation, labels, ignore_label=None).voi_split > 0


def test_background_of_the_segmentation_counts_unless_it_is_ignored():
    labels = np.array([1, 1, 1, 1, 2, 2, 2, 2])
    segmentation = np.array([1, 1, 1, 0, 2, 2, 2, 0])
    assert score(segmentation, labels).voi_split > 0.5
    assert score(segmentation, labels, ignore_segment=0).voi == pytest.approx(0)


def test_ids_above_two_to_the_53_that_differ_by_one_stay_apart():
    base = np.uint64(2**63)
    labels = np.array([1, 1, 2, 2], dtype=np.uint64) + base
    segmentation = np.array([5, 5, 6, 6], dtype=np.uint64) + base
    assert score(segmentation, labels).voi == pytest.approx(0)
    assert score(np.full(4, base), labels).voi_merge == pytest.approx(1)


def test_a_segmentation_into_single_voxels_has_no_false_pairs():
    ours = score(np.arange(1, 9), np.full(8, 4))
    assert (ours.voi_split, ours.voi_merge) == pytest.approx((3, 0))
    assert (ours.arand, ours.precision, ours.recall) == (1.0, 1.0, 0.0)


def test_overlaps_of_parts_add_up_to_those_of_the_whole():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 50, (6, 20, 20)).astype(np.uint32)
    segmentation = generator.integers(0, 3000, labels.shape).astype(np.uint64)
    parts = [Overlaps.of(segmentation[z : z + 2], labels[z : z + 2]) for z in (0, 2, 4)]
    whole, summed = Overlaps.of(segmentation, labels), Overlaps.sum(parts)
    for name in ("segments", "objects", "counts"):
        assert np.array_equal(getattr(whole, name), getattr(summed, name))
    assert whole.counts.sum() == np.count_nonzero(labels)


def test_a_large_table_is_counted_like_a_small_one(monkeypatch):
    generator = np.random.default_rng(4)
    labels, segmentation = generator.integers(1, 9, (2, 4000))
    dense = Overlaps.of(segmentation, labels)
    monkeypatch.setattr("tokenunify_scale.metrics.DENSE_CELLS", 0)
    monkeypatch.setattr("tokenunify_scale.metrics.PART_VOXELS", 1000)
    assert np.array_equal(dense.counts, Overlaps.of(segmentation, labels).counts)


def test_shapes_that_differ_are_both_named():
    with pytest.raises(DataError, match=r"\(2, 3, 4\).*\(2, 3, 5\)"):
        score(np.ones((2, 3, 4), int), np.ones((2, 3, 5), int))


def test_labels_of_background_only_cannot_be_scored():
    with pytest.raises(DataError, match="all background"):
        score(np.ones((2, 3, 4), int), np.zeros((2, 3, 4), int))


def test_ids_that_are_not_integers_are_refused():
    with pytest.raises(DataError, match="float32"):
        score(np.ones(3, np.float32), np.ones(3, int))


def test_voxels_are_called_split_merged_missed_or_right_by_the_best_partners():
    labels = np.array([1, 1, 1, 1, 1, 2, 2, 3, 3, 3, 0])
    segmentation = np.array([5, 5, 5, 6, 6, 7, 0, 8, 8, 5, 9])
    kinds = Matches.of(Overlaps.of(segmentation, labels)).errors(segmentation, labels)
    names = [ERRORS[kind] for kind in kinds]
    assert names[:7] == ["right"] * 3 + ["split"] * 2 + ["right", "missed"]
    assert names[7:] == ["right", "right", "merge", "ignored"]
