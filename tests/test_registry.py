import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.registry import Registry


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
