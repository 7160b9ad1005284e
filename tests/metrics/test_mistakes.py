"""The worst objects: their contributions sum to VOI, and a pair of ids says where the error is."""

import numpy as np
import pytest

from tokenunify_scale.metrics import Overlaps, worst

LABELS = np.repeat([1, 2, 3, 4], [8, 8, 8, 8])
IDS = np.repeat([11, 12, 20, 20, 0, 30], [6, 2, 8, 8, 2, 6])


def test_an_object_in_pieces_a_segment_over_two_and_what_is_missed_are_found():
    split, other, merge, missed = worst(Overlaps.of(IDS, LABELS), count=5)
    assert (split.kind, split.id, split.voxels, split.parts) == ("split", 1, 8, 2)
    assert split.partners == ((11, 6), (12, 2)) and split.pair == (12, 1)
    assert other.id == 4 and other.pair == (0, 4)
    assert (merge.kind, merge.id, merge.pair) == ("merge", 20, (20, 3))
    assert merge.voi == pytest.approx(16 / 32)
    assert (missed.kind, missed.id, missed.pair, missed.voi) == ("missed", 0, (0, 4), 0)


@pytest.mark.parametrize("units", ["bits", "nats"])
def test_contributions_sum_to_voi(units):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 30, 5000)
    segmentation = generator.integers(0, 70, 5000)
    overlaps = Overlaps.of(segmentation, labels)
    found, score = worst(overlaps, count=1000, units=units), overlaps.score(units=units)
    splits = [one.voi for one in found if one.kind == "split"]
    merges = [one.voi for one in found if one.kind != "split"]
    assert sum(splits) == pytest.approx(score.voi_split, abs=1e-9)
    assert sum(merges) == pytest.approx(score.voi_merge, abs=1e-9)
    assert splits == sorted(splits, reverse=True)


def test_a_split_is_shown_at_its_second_piece_not_at_what_it_lacks():
    split, _ = worst(Overlaps.of(np.repeat([0, 5, 6], [9, 4, 2]), np.ones(15, int)), count=1)
    assert split.partners == ((0, 9), (5, 4), (6, 2)) and split.pair == (6, 1)


def test_ids_of_64_bits_stay_whole():
    labels = np.array([2**63 + 1] * 4 + [2**63 + 2] * 4, dtype=np.uint64)
    (merge,) = worst(Overlaps.of(np.full(8, 2**64 - 1, np.uint64), labels), count=1)
    assert merge.id == 2**64 - 1
    assert {one for one, _ in merge.partners} == {2**63 + 1, 2**63 + 2}


def test_a_perfect_segmentation_has_no_mistake_and_none_asked_for_is_none():
    assert worst(Overlaps.of(LABELS * 3, LABELS), count=9) == []
    assert worst(Overlaps.of(IDS, LABELS), count=0) == []
