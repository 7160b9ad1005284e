"""Names of data sets become places to read, or one line that says what is missing."""

import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.datasets import DATASETS, GROUPS, Place, locate
from tokenunify_scale.volumes.geometry import Box

OPEN = [name for name, facts in DATASETS.items() if facts.access == "open"]
WAFERS = ("wafer25", "wafer26", "wafer26-2", "wafer36")


def message(*words, **options):
    with pytest.raises(ConfigError) as error:
        locate(*words, **options)
    text = str(error.value)
    assert "\n" not in text and len(text) < 1000
    return text


def test_every_name_of_the_paper_is_there_and_groups_name_data_sets():
    assert set(DATASETS) == {
        "fafb", "mitoem-h", "mitoem-r", "fib25", "kasthuri15", "ac3", "ac4", "cremi-a", "cremi-b",
        "cremi-c", "wafer4", "wafer25", "wafer26", "wafer26-2", "wafer36", "wafer36-2",
    }  # fmt: skip
    assert not set(DATASETS) & set(GROUPS)
    for members in GROUPS.values():
        assert set(members) <= set(DATASETS)


@pytest.mark.parametrize("name", OPEN)
def test_an_open_volume_is_read_where_it_is_published(name):
    facts = DATASETS[name]
    (place,) = locate(name)
    assert place == Place(facts.location, facts.voxel_size, facts.region(), name, place.shape)
    assert place.spec.startswith("precomputed://gs://")


def test_copies_are_taken_in_the_data_sets_order():
    places = locate("cremi", source=("one.h5:raw", "two.h5:raw", "three.h5:raw"))
    assert [place.name for place in places] == list(GROUPS["cremi"])
    assert [place.spec for place in places] == ["one.h5:raw", "two.h5:raw", "three.h5:raw"]
    assert {place.voxel_size for place in places} == {(40.0, 4.0, 4.0)}
    assert {place.box for place in places} == {Box((0, 0, 0), (100, 1250, 1250))}
    assert {place.shape for place in places} == {(125, 1250, 1250)}


def test_copies_may_be_named_and_the_others_are_read_where_they_are_published():
    places = locate("paper", source=("mitoem-r=r/im", "mitoem-h=h/im"))
    assert [place.name for place in places] == list(GROUPS["paper"])
    assert [place.spec for place in places] == [
        DATASETS["fafb"].location, "h/im", "r/im", DATASETS["fib25"].location,
        DATASETS["kasthuri15"].location,
    ]  # fmt: skip


def test_an_equals_sign_in_a_path_is_no_name():
    (place,) = locate("fib25", source=("runs/k=3/cube.h5:raw",))
    assert place.spec == "runs/k=3/cube.h5:raw"


def test_a_copy_of_a_volume_of_unknown_shape_is_read_whole():
    assert locate("fafb")[0].box is not None
    assert locate("fafb", source=("part.h5:raw",))[0].box is None


def test_a_box_of_all_is_no_box():
    (place,) = locate("wafer25", source=("wafer25.h5:main",))
    assert place.box is None and place.shape is None


@pytest.mark.parametrize("name", [*DATASETS, *GROUPS])
def test_pretraining_sees_nothing_that_is_tested_on(name):
    members = [DATASETS[member] for member in GROUPS.get(name, (name,))]
    allowed = [facts for facts in members if not facts.test_only]
    if not allowed:
        assert "tests on it" in message(name, source=("copy.h5:raw",))
        return
    source = tuple(f"{facts.name}=copy.h5:raw" for facts in allowed)
    for place, facts in zip(locate(name, source=source), allowed, strict=True):
        assert place.name == facts.name
        if "test" in facts.splits:
            assert 0 in place.box.intersect(facts.splits["test"]).shape


def test_test_volumes_are_left_out_of_their_group_and_read_by_their_split():
    assert [place.name for place in locate("mec", source=WAFERS)] == list(WAFERS)
    tested = locate("mec", source=("a.h5:main", "b.h5:main"), split="test")
    assert [place.name for place in tested] == ["wafer4", "wafer36-2"]
    (place,) = locate("ac3", source=("AC3_inputs.h5:main",), split="test")
    assert place.box == Box((0, 0, 0), (100, 1024, 1024))


def test_an_unknown_name_is_answered_with_the_nearest():
    text = message("fib52")
    assert "'fib25'" in text and "kasthuri15" in text and "mec" in text


def test_an_unknown_split_is_answered_with_those_there_are():
    text = message("cremi-a", source=("a.h5:raw",), split="tset")
    assert "'tset'" in text and "test, train" in text
    assert "none" in message("fib25", split="test")


def test_behind_a_form_the_error_names_the_page_and_source():
    text = message("wafer25")
    assert "form" in text and "https://huggingface.co/datasets/cyd0806/wafer_EM" in text
    assert "--source wafer25_inputs.h5:main" in text


def test_what_has_to_be_downloaded_is_named_with_what_to_do_next():
    text = message("mitoem-r")
    assert "download and unpack https://" in text and "--source EM30-R-im/im" in text
    assert "https://mitoem.grand-challenge.org/" in text
    text = message("cremi")
    for letter in "ABC":
        assert f"download https://cremi.org/static/data/sample_{letter}_20160501.hdf" in text


@pytest.mark.parametrize("source", [("a.h5",), ("a.h5", "b.h5"), ("a", "b", "c", "d")])
def test_a_wrong_number_of_copies_is_answered_with_the_volumes_expected(source):
    text = message("cremi", source=source)
    assert f"--source: {len(source)} given" in text
    assert text.index("cremi-a (") < text.index("cremi-b (") < text.index("cremi-c (")


@pytest.mark.parametrize("source", [("cremi-a=a.h5", "b.h5"), ("cremi-a=a.h5", "cremi-a=b.h5")])
def test_named_and_unnamed_copies_do_not_mix(source):
    assert "NAME=SPEC once" in message("cremi", source=source)


def test_a_volume_that_is_neither_named_nor_open_is_asked_for():
    assert "download https://cremi.org" in message("cremi", source=("cremi-a=a.h5:raw",))
