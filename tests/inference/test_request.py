import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.inference.request import parse_box
from tokenunify_scale.volumes.geometry import Box


def test_a_box_is_two_corners():
    assert parse_box("1,2,3..40, 50,60") == Box((1, 2, 3), (40, 50, 60))


@pytest.mark.parametrize("words", ["", "1,2,3", "1,2..3,4", "1,2,3..4,2,5", "a,0,0..1,1,1"])
def test_other_words_are_refused(words):
    with pytest.raises(ConfigError, match="box"):
        parse_box(words)
