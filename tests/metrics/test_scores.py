"""Scores against scikit-image, against cases solved by hand, and at the edges of the id range."""

import math

import numpy as np
import pytest
from skimage.metrics import adapted_rand_error, variation_of_information

from tokenunify_scale.config import DataError
from tokenunify_scale.metrics import Overlaps, Score, score


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


def by_pairs(segmentation, labels):
    """Adjusted Rand index by looking at every pair of voxels."""
    together = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for i in range(len(labels)):
        for j in range(i):
            together[labels[i] == labels[j], segmentation[i] == segmentation[j]] += 1
    both, neither = together[True, True], together[False, False]
    cut, joined = together[True, False], together[False, True]
    top = 2 * (both * neither - cut * joined)
    return top / ((both + cut) * (cut + neither) + (both + joined) * (joined + neither))


@pytest.mark.parametrize("objects, segments", [(2, 2), (3, 9), (20, 4)])
def test_the_adjusted_rand_index_equals_a_count_of_all_pairs(objects, segments):
    generator = np.random.default_rng(objects)
    labels = generator.integers(1, objects + 1, 120)
    segmentation = (labels + generator.integers(0, 2, 120)) % segments
    assert score(segmentation, labels).rand == pytest.approx(
        by_pairs(segmentation, labels), abs=1e-9
    )


def test_the_adjusted_rand_index_is_one_for_equal_and_about_zero_for_random_labellings():
    labels, other = np.random.default_rng(1).integers(1, 30, (2, 20000))
    assert score(labels * 5, labels).rand == pytest.approx(1)
    assert score(other, labels).rand == pytest.approx(0, abs=0.01)
    assert score(np.ones(5, int), np.ones(5, int)).rand == 1
    assert score(np.arange(5), np.arange(1, 6)).rand == 1


def test_the_cremi_score_is_the_geometric_mean_in_bits_whatever_the_units():
    labels, other = np.random.default_rng(2).integers(1, 9, (2, 500))
    ours, nats = score(other, labels), score(other, labels, units="nats")
    assert ours.cremi == pytest.approx(math.sqrt(ours.voi * ours.arand)) == nats.cremi
    assert nats.voi_split == pytest.approx(ours.voi_split * math.log(2))
    assert nats.voi_merge == pytest.approx(ours.voi_merge * math.log(2))
    assert nats.voi == pytest.approx(nats.voi_split + nats.voi_merge)


def test_ids_far_apart_score_like_dense_ones():
    labels, other = np.random.default_rng(3).integers(1, 40, (2, 3000))
    far = score(other.astype(np.uint64) << np.uint64(57), labels - 20, ignore_label=None)
    dense = score(other, labels, ignore_label=None)
    assert far.to_dict() == pytest.approx(dense.to_dict(), abs=1e-9)


def test_a_table_without_voxels_cannot_be_scored():
    nothing = np.empty(0, int)
    with pytest.raises(DataError, match="no voxel"):
        Score.of(nothing, nothing, nothing)
    with pytest.raises(DataError, match="nothing to score"):
        Overlaps(nothing, nothing, nothing).score()


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


def test_shapes_that_differ_are_both_named():
    with pytest.raises(DataError, match=r"\(2, 3, 4\).*\(2, 3, 5\)"):
        score(np.ones((2, 3, 4), int), np.ones((2, 3, 5), int))


def test_labels_of_background_only_cannot_be_scored():
    with pytest.raises(DataError, match="all background"):
        score(np.ones((2, 3, 4), int), np.zeros((2, 3, 4), int))


def test_ids_that_are_not_integers_are_refused():
    with pytest.raises(DataError, match="float32"):
        score(np.ones(3, np.float32), np.ones(3, int))
