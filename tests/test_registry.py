import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.registry import Entry, Registry


def two_entries() -> Registry:
    registry = Registry("colour")
    registry.add("blue", str, {"a": 1}, source="Table 1")
    registry.add("amber", int, source="not in the paper")
    return registry


def test_an_entry_keeps_factory_options_and_source():
    entry = two_entries().get("blue")
    assert (entry.name, entry.factory, entry.config) == ("blue", str, {"a": 1})
    assert entry.source == "Table 1"
    assert two_entries().get("amber").config is None


def test_names_stand_in_the_order_they_were_added():
    assert two_entries().names() == ["blue", "amber"]


def test_a_name_cannot_be_taken_twice_and_the_first_stays():
    registry = two_entries()
    with pytest.raises(ValueError, match="colour 'blue' is registered twice"):
        registry.add("blue", int, source="elsewhere")
    assert registry.get("blue").factory is str


def test_an_unknown_name_is_answered_with_the_nearest_and_the_list():
    with pytest.raises(ConfigError) as caught:
        two_entries().get("bleu")
    expected = "unknown colour 'bleu': did you mean 'blue'? valid: blue, amber"
    assert str(caught.value) == expected and caught.value.exit_code == 2


def test_registries_share_nothing():
    assert Registry("colour").names() == [] != two_entries().names()


def test_a_family_makes_entries_of_names_that_match_and_are_not_listed():
    registry = two_entries()
    registry.add_family("greyN", r"grey(\d+)", lambda m: Entry(m[0], str, int(m[1]), "here"))
    assert registry.get("grey7") == Entry("grey7", str, 7, "here")
    assert registry.names() == ["blue", "amber"] and registry.get("blue").factory is str
    with pytest.raises(ConfigError, match="valid: blue, amber, greyN"):
        registry.get("grey7x")


def test_a_number_that_a_family_refuses_is_told_with_the_name():
    def make(match):
        raise ValueError("at most 5")

    registry = two_entries()
    registry.add_family("greyN", r"grey\d", make)
    with pytest.raises(ConfigError, match="colour 'grey7': at most 5"):
        registry.get("grey7")
