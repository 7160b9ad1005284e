"""The labelled volumes: splits as in the paper's release, and none that overlap."""

from itertools import combinations

import pytest

from tokenunify_scale.data.facts.labelled import AC, CREMI, MEC
from tokenunify_scale.volumes.geometry import Box

BY_NAME = {facts.name: facts for facts in (*AC, *CREMI, *MEC)}


@pytest.mark.parametrize("facts", BY_NAME.values(), ids=BY_NAME)
def test_no_voxel_is_in_two_splits(facts):
    for one, other in combinations(facts.splits.values(), 2):
        assert 0 in one.intersect(other).shape


@pytest.mark.parametrize(
    "name, splits",
    [
        ("ac4", {"train": (0, 80), "validation": (80, 100)}),
        ("ac3", {"test": (0, 100)}),
        ("cremi-a", {"train": (0, 100), "test": (100, 125)}),
        ("cremi-c", {"train": (0, 100), "test": (100, 125)}),
    ],
)
def test_sections_of_the_splits(name, splits):
    facts = BY_NAME[name]
    ends = {key: (box.start[0], box.stop[0]) for key, box in facts.splits.items()}
    assert ends == splits
    assert all(box.shape[1:] == facts.shape[1:] for box in facts.splits.values())


def test_four_wafers_train_and_two_test_whole():
    whole = Box.of((125, 1250, 1250))
    train = [facts.name for facts in MEC if facts.splits == {"train": whole}]
    test = [facts.name for facts in MEC if facts.splits == {"test": whole}]
    assert train == ["wafer25", "wafer26", "wafer26-2", "wafer36"]
    assert test == ["wafer4", "wafer36-2"]


def test_voxels_of_the_wafers_are_those_of_the_datas_own_note():
    assert {facts.voxel_size for facts in MEC} == {(35.0, 8.0, 8.0)}


def test_the_papers_own_data_is_for_research_and_behind_a_form():
    assert {facts.access for facts in MEC} == {"form"}
    assert all("research only" in facts.licence for facts in MEC)


def test_a_copy_is_called_as_the_releases_code_calls_it():
    assert BY_NAME["wafer26-2"].copy == "wafer26_2_inputs.h5:main"
    assert BY_NAME["cremi-b"].copy == "sample_B_20160501.hdf:volumes/raw"
