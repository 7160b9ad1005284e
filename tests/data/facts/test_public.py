"""Facts of the volumes for pretraining, held against the numbers they come from."""

import math

import pytest

from tokenunify_scale.data.datasets import DATASETS
from tokenunify_scale.data.facts.public import FAFB, FIB25, KASTHURI15, MITOEM, Dataset, sections
from tokenunify_scale.volumes.geometry import Box

FACTS = ("tissue", "modality", "voxel_size", "shape", "splits", "licence", "location", "uncertain")


def dataset(**facts):
    given = {name: "x" for name in ("name", "title", "tissue", "modality", "axes", "location")}
    given |= {name: "x" for name in ("page", "copy", "citation", "uncertain")}
    return Dataset(**given, voxel_size=(40.0, 4.0, 4.0), access="open", sources={}, **facts)


@pytest.mark.parametrize("facts", DATASETS.values(), ids=DATASETS)
def test_every_fact_has_a_source_and_what_has_none_is_not_told(facts):
    told = {name for name in FACTS if getattr(facts, name)}
    assert told - set(facts.sources) == set()
    assert set(facts.sources) <= told


@pytest.mark.parametrize("facts", DATASETS.values(), ids=DATASETS)
def test_splits_lie_in_the_volume(facts):
    for box in facts.splits.values():
        assert min(box.shape) > 0
        assert facts.shape is None or Box.of(facts.shape).contains(box)


def test_pretraining_reads_its_region_else_the_training_split_else_all():
    shape = (10, 8, 8)
    train, region = sections(0, 5, shape=shape), sections(2, 9, shape=shape)
    assert dataset().region() is None
    assert dataset(splits={"train": train}).region() == train
    assert dataset(splits={"train": train, "pretraining": region}).region() == region
    assert dataset(splits={"train": train, "pretraining": region}).region("train") == train
    assert dataset(shape=shape, splits={"train": Box.of(shape)}).region() is None


def test_a_test_split_alone_leaves_nothing_for_pretraining():
    facts = dataset(splits={"test": Box.of((10, 8, 8))})
    assert facts.test_only and not dataset().test_only
    with pytest.raises(KeyError):
        facts.region()
    assert facts.region("test") == Box.of((10, 8, 8))


def test_the_box_of_fafb_is_the_brains_in_whole_voxels():
    low, high = (2007, 75853, 192200), (271205, 398832, 853686)  # nm, template FAFB14
    sides = FAFB.voxel_size
    start = tuple(math.ceil(nm / side) for nm, side in zip(low, sides, strict=True))
    stop = tuple(math.floor(nm / side) for nm, side in zip(high, sides, strict=True))
    assert FAFB.region() == Box(start, stop)
    assert all(
        abs(a - b) <= 2 for a, b in zip(FAFB.region().shape, (6730, 80745, 165372), strict=True)
    )


def test_the_box_of_kasthuri15_is_the_middle_with_ac4_and_without_ac3():
    depth, *sides = KASTHURI15.shape
    start = (depth // 2 - 500, *(side // 2 - 2048 for side in sides))
    stop = (depth // 2 + 500, *(side // 2 + 2048 for side in sides))
    box = KASTHURI15.region()
    assert box == Box(start, stop)
    ac3 = Box.of(DATASETS["ac3"].shape).shift((1000, 8712, 5472))
    ac4 = Box.of(DATASETS["ac4"].shape).shift((1100, 5440, 4400))
    assert 0 in box.intersect(ac3).shape and box.contains(ac4)


def test_places_to_read_are_those_that_neuroglancer_publishes():
    public = "precomputed://gs://neuroglancer-public-data"
    assert FIB25.location == f"{public}/flyem_fib-25/image"
    assert KASTHURI15.location == f"{public}/kasthuri2011/image_color_corrected"
    assert FAFB.location == "precomputed://gs://neuroglancer-fafb-data/fafb_v14/fafb_v14_orig"
    assert {facts.axes for facts in (FAFB, FIB25, KASTHURI15)} == {"xyz"}


@pytest.mark.parametrize("facts", MITOEM, ids=lambda facts: facts.name)
def test_mitoem_is_read_whole_and_the_challenges_split_is_kept(facts):
    assert facts.region() is None and facts.voxel_size == (30, 8, 8)
    ends = [(box.start[0], box.stop[0]) for box in facts.splits.values()]
    assert ends == [(0, 1000), (0, 400), (400, 500), (500, 1000)]
