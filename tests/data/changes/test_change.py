from dataclasses import dataclass

import numpy as np
import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.augment import generator
from tokenunify_scale.data.changes.change import Change, pick_sections, to_gray


@dataclass(frozen=True, kw_only=True)
class Fade(Change):
    """A change with limits."""

    LIMITS = {"low": (0.1, 1), "count": (1, np.inf)}

    low: float = 0.5
    high: float = 0.9
    count: int = 1


@pytest.mark.parametrize(
    "options, words",
    [
        ({"p": 1.5}, "p is a probability within 0 to 1, got 1.5"),
        ({"p": float("nan")}, "p is a probability within 0 to 1, got nan"),
        ({"low": 0.05}, "low is a strength within 0.1 to 1, got 0.05"),
        ({"high": -1}, "high is a strength >= 0, got -1"),
        ({"high": float("inf")}, "high is a strength >= 0, got inf"),
        ({"count": 0}, "count is a strength >= 1, got 0"),
        ({"low": 0.6, "high": 0.55}, "low is at most high, got 0.6 and 0.55"),
    ],
)
def test_what_is_out_of_its_limits_is_refused_by_name(options, words):
    with pytest.raises(ConfigError, match=words):
        Fade(**options)


def test_what_is_within_its_limits_is_taken_and_a_change_is_off_unless_it_says_otherwise():
    assert Fade(low=1, high=1, count=9, p=1).count == 9
    assert Fade().p == Change().p == 0


def test_one_to_the_most_sections_are_picked_and_each_as_often():
    rng = generator(0)
    picks = [pick_sections(rng, 5, most=3) for _ in range(3000)]
    assert all(len(set(pick)) == len(pick) for pick in picks)
    assert set(map(len, picks)) == {1, 2, 3}
    counts = np.bincount(np.concatenate(picks), minlength=5)
    assert counts.sum() == pytest.approx(6000, rel=0.03) and np.ptp(counts) < 200
    assert sorted(max((pick_sections(rng, 2, most=9) for _ in range(50)), key=len)) == [0, 1]


def test_gray_values_are_rounded_and_cut_off():
    values = np.array([-3.0, 0.4, 0.6, 254.4, 255.6, 300.0])
    assert to_gray(values).tolist() == [0, 0, 1, 254, 255, 255]
    assert to_gray(values).dtype == np.uint8
