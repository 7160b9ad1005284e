import pytest

from tokenunify_scale.objectives.curriculum import Constant, Piecewise, constant, piecewise
from tokenunify_scale.registry import CURRICULA

FIRST, SECOND, THIRD = (0.73, 0.18, 0.09), (0.18, 0.73, 0.09), (0.09, 0.18, 0.73)


@pytest.mark.parametrize(
    "progress, weights",
    [
        (0.0, FIRST),
        (0.29, FIRST),
        (0.3, SECOND),
        (0.5, SECOND),
        (0.69, SECOND),
        (0.7, THIRD),
        (1.0, THIRD),
    ],
)
def test_weights_are_those_of_equation_14_and_a_phase_begins_at_its_switch(progress, weights):
    found = piecewise(Piecewise(), progress=progress)
    assert (found.random, found.next, found.next_all) == weights
    assert sum(found) == pytest.approx(1)


@pytest.mark.parametrize("steps", [10, 20, 30, 70, 1000])
def test_phases_begin_at_the_step_that_a_run_of_any_length_expects(steps):
    phases = [piecewise(Piecewise(), progress=step / steps) for step in range(steps)]
    assert phases.count(FIRST) == 3 * steps // 10
    assert phases.count(SECOND) == 4 * steps // 10


def test_switches_can_be_moved():
    moved = Piecewise(switch=(0.1, 0.2))
    assert [piecewise(moved, progress=p) for p in (0.05, 0.15, 0.25)] == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize("switch", [(0.7, 0.3), (0.3, 0.3), (0.0, 0.5), (0.5, 1.0), (-1, 2)])
def test_switches_that_do_not_rise_within_training_are_refused(switch):
    with pytest.raises(ValueError, match=r"switch must rise within \(0, 1\)"):
        Piecewise(switch=switch)


def test_constant_weights_do_not_move():
    config = Constant(random=1.0, next=0.0, next_all=2.0)
    assert constant(config, progress=0.0) == constant(config, progress=1.0) == (1.0, 0.0, 2.0)


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, -0.1, 1)])
def test_constant_weights_of_nothing_or_below_0_are_refused(weights):
    random, following, following_all = weights
    with pytest.raises(ValueError, match="weights must be >= 0 and not all 0"):
        Constant(random=random, next=following, next_all=following_all)


def test_curricula_are_found_by_name_with_their_source():
    assert CURRICULA.get("piecewise").source == "Eq. 14"
    assert CURRICULA.get("constant").factory is constant
