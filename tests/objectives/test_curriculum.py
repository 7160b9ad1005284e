import math
from collections import Counter

import pytest

from tokenunify_scale.config import ConfigError, Named, build_named, to_dict
from tokenunify_scale.objectives.curriculum import (
    Alternating,
    Constant,
    Piecewise,
    Sampled,
    Softmax,
    Weights,
    alternating,
    constant,
    one_of,
    piecewise,
    sampled,
    softmax,
)
from tokenunify_scale.registry import CURRICULA

FIRST, SECOND, THIRD = (0.73, 0.18, 0.09), (0.18, 0.73, 0.09), (0.09, 0.18, 0.73)
ONE = {"random": (1, 0, 0), "next": (0, 1, 0), "next_all": (0, 0, 1)}


def drawn(config, *, steps, seed=0):
    """The one term of each step of a run."""
    for step in range(steps):
        weights = sampled(config, progress=step / steps, seed=seed)
        (name,) = (name for name, weight in weights._asdict().items() if weight)
        yield name


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


@pytest.mark.parametrize("kind", [Piecewise, Softmax])
@pytest.mark.parametrize(
    "switch", [(0.7, 0.3), (0.3, 0.3), (0.0, 0.5), (0.5, 1.0), (-1, 2), (math.nan, 0.5)]
)
def test_switches_that_do_not_rise_within_training_are_refused(kind, switch):
    with pytest.raises(ConfigError, match=r"switch must rise within \(0, 1\), got"):
        kind(switch=switch)


def test_constant_weights_do_not_move():
    config = Constant(random=1.0, next=0.0, next_all=2.0)
    assert constant(config, progress=0.0) == constant(config, progress=1.0) == (1.0, 0.0, 2.0)


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, -0.1, 1), (1, math.nan, 1), (math.inf, 0, 0)])
def test_constant_weights_of_nothing_or_below_0_are_refused(weights):
    random, following, following_all = weights
    with pytest.raises(ConfigError, match="weights must be >= 0 and not all 0"):
        Constant(random=random, next=following, next_all=following_all)


def test_curricula_are_found_by_name_with_their_source():
    assert CURRICULA.names() == ["piecewise", "constant", "softmax", "sampled", "alternating"]
    assert CURRICULA.get("piecewise").source == "Eq. 14"
    assert CURRICULA.get("constant").factory is constant


@pytest.mark.parametrize("name", CURRICULA.names())
@pytest.mark.parametrize("progress", [0, 0.25, 1 / 3, 0.999, 1])
def test_every_curriculum_gives_weights_that_sum_to_1_from_a_progress_and_a_seed(name, progress):
    entry = CURRICULA.get(name)
    weights = entry.factory(entry.config, progress=progress, seed=3)
    assert isinstance(weights, Weights) and min(weights) >= 0
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    assert entry.factory(entry.config, progress=progress, seed=3) == weights


@pytest.mark.parametrize("name", ["piecewise", "constant", "softmax", "alternating"])
def test_only_a_draw_depends_on_the_seed(name):
    entry = CURRICULA.get(name)
    for progress in (0.0, 0.4, 1.0):
        found = [entry.factory(entry.config, progress=progress, seed=seed) for seed in range(5)]
        assert len(set(found)) == 1
        assert found[0] == entry.factory(entry.config, progress=progress)


# Softmax


@pytest.mark.parametrize(
    "progress, printed",
    [
        (0.0, (0.936, 0.047, 0.017)),
        (0.5, (0.047, 0.936, 0.017)),
        (1.0, (0.017, 0.047, 0.936)),
    ],
)
def test_at_temperature_1_the_weights_are_what_equations_6_to_8_give(progress, printed):
    weights = softmax(Softmax(tau_start=1, tau_end=1), progress=progress)
    assert tuple(round(weight, 3) for weight in weights) == printed
    whole = math.exp(4) + math.exp(1) + math.exp(0)
    assert max(weights) == pytest.approx(math.exp(4) / whole)


def test_the_temperature_goes_from_start_to_end_by_equal_factors():
    config = Softmax(tau_start=8, tau_end=2)
    for progress, tau in [(0.0, 8.0), (0.5, 4.0), (1.0, 2.0)]:
        low, middle, high = sorted(softmax(config, progress=progress))
        assert math.log(high / low) == pytest.approx(4 / tau)
        assert math.log(middle / low) == pytest.approx(1 / tau)


def test_no_temperature_gives_the_table_of_equation_14_and_2_comes_near():
    def distance(tau):
        weights = softmax(Softmax(tau_start=tau, tau_end=tau), progress=0.0)
        return max(abs(a - b) for a, b in zip(weights, FIRST, strict=True))

    nearest = min((0.01 * index for index in range(1, 1000)), key=distance)
    assert nearest == pytest.approx(2, abs=0.05) and 0.01 < distance(nearest) < 0.02


@pytest.mark.parametrize("tau", [1e-300, 1e-3, 1e300])
def test_extreme_temperatures_give_one_term_or_all_alike(tau):
    weights = softmax(Softmax(tau_start=tau, tau_end=tau), progress=0.1)
    assert weights == pytest.approx((1, 0, 0) if tau < 1 else (1 / 3, 1 / 3, 1 / 3))


@pytest.mark.parametrize("name", ["tau_start", "tau_end"])
@pytest.mark.parametrize("tau", [0, -1, math.inf, math.nan])
def test_temperatures_that_are_not_above_0_are_refused(name, tau):
    with pytest.raises(ConfigError, match=f"{name} must be > 0 and finite, got {tau}"):
        Softmax(**{name: tau})


# Sampled


@pytest.mark.parametrize("weights", [FIRST, SECOND, THIRD, (1.0, 0.0, 2.0), (0.0, 0.0, 3.0)])
def test_one_weight_averages_to_all_of_them(weights):
    points = 3000  # the middles of equal parts of [0, 1), not a sample
    kept = [one_of(Weights(*weights), at=(index + 0.5) / points) for index in range(points)]
    mean = [math.fsum(column) / points for column in zip(*kept, strict=True)]
    assert mean == pytest.approx(weights, abs=1e-12)
    assert all(sorted(one)[:2] == [0, 0] for one in kept)


@pytest.mark.parametrize("at", [0.0, 1 - 2**-52])
@pytest.mark.parametrize("weights", [(0.0, 1.0, 0.0), (0.0, 0.1 + 0.2, 0.0), (0.0, 1e-9, 0.0)])
def test_a_weight_of_0_is_never_kept(at, weights):
    assert one_of(Weights(*weights), at=at) == weights


def test_a_drawn_step_has_one_term_of_weight_1():
    for step in range(300):
        assert sorted(sampled(Sampled(), progress=step / 300, seed=1)) == [0, 0, 1]


def test_the_same_seed_and_progress_draw_the_same_term_and_another_seed_others():
    runs = [list(drawn(Sampled(), steps=200, seed=seed)) for seed in (7, 7, 8)]
    assert runs[0] == runs[1] != runs[2]
    # Other processes, ranks and platforms draw these too.
    recorded = "rarrnrrrnrrnarnrnraaaanaa"
    letters = {"random": "r", "next": "n", "next_all": "a"}
    assert "".join(letters[name] for name in runs[0][::8]) == recorded


@pytest.mark.parametrize(
    "other, weights",
    [
        ("piecewise", (0.318, 0.4, 0.282)),  # phases of 30, 40 and 30 % of Eq. 14's rows
        ("constant", (1 / 3, 1 / 3, 1 / 3)),
    ],
)
def test_terms_are_drawn_as_often_as_their_weights_say(other, weights):
    config = Sampled(probabilities=Named(other, CURRICULA.get(other).config))
    counts = Counter(drawn(config, steps=10_000))
    for name, weight in zip(Weights._fields, weights, strict=True):
        assert counts[name] / 10_000 == pytest.approx(weight, abs=0.01)


def test_draws_of_a_phase_follow_its_row_for_many_seeds():
    runs = [list(drawn(Sampled(), steps=200, seed=seed)) for seed in range(100)]
    for row, phase in zip((FIRST, SECOND, THIRD), [(0, 60), (60, 140), (140, 200)], strict=True):
        counts = Counter(name for run in runs for name in run[slice(*phase)])
        for name, weight in zip(Weights._fields, row, strict=True):
            assert counts[name] / counts.total() == pytest.approx(weight, abs=0.02)


def test_steps_do_not_follow_from_the_step_before():
    names = list(drawn(Sampled(probabilities=Named("constant", Constant())), steps=9000))
    pairs = Counter(zip(names, names[1:], strict=False))
    assert len(pairs) == 9
    for count in pairs.values():
        assert count / 9000 == pytest.approx(1 / 9, abs=0.015)


def test_a_term_without_weight_is_never_drawn():
    config = Sampled(probabilities=Named("constant", Constant(random=1, next=0, next_all=2)))
    steps = [sampled(config, progress=step / 3000) for step in range(3000)]
    assert set(steps) == {(3, 0, 0), (0, 0, 3)}, "the mean stays (1, 0, 2)"
    assert sum(step.random for step in steps) / 3000 == pytest.approx(1, abs=0.08)


def test_probabilities_are_chosen_in_a_config_and_written_back():
    request = {"name": "sampled", "probabilities": {"name": "piecewise", "switch": [0.1, 0.2]}}
    chosen = build_named(request, CURRICULA, where="curriculum")
    assert chosen.options.probabilities == Named("piecewise", Piecewise(switch=(0.1, 0.2)))
    assert build_named(to_dict(chosen), CURRICULA, where="curriculum") == chosen
    with pytest.raises(ConfigError, match="unknown curriculum 'softmix'.*softmax"):
        build_named({"name": "sampled", "probabilities": "softmix"}, CURRICULA, where="curriculum")


# Alternating


def test_the_papers_first_version_changes_modes_every_100_of_400_epochs():
    turns = [alternating(Alternating(), progress=epoch / 400) for epoch in range(400)]
    assert turns == 2 * ([ONE["random"]] * 100 + [ONE["next"]] * 100)
    assert alternating(Alternating(), progress=1.0) == ONE["next"]


@pytest.mark.parametrize("turns", [3, 7, 29, 100])
def test_turns_are_equally_long_whatever_the_rounding_of_step_by_steps(turns):
    modes = ("next_all", "random", "next")
    config = Alternating(modes=modes, turns=turns)
    for length in (1, 3, 10):
        steps = turns * length
        expected = [ONE[modes[step // length % 3]] for step in range(steps)]
        assert [alternating(config, progress=step / steps) for step in range(steps)] == expected


@pytest.mark.parametrize("modes", [(), ("next",), ("next", "previous")])
def test_fewer_than_two_modes_and_unknown_ones_are_refused(modes):
    with pytest.raises(ConfigError, match="modes must be two or more of random, next, next_all"):
        Alternating(modes=modes)


@pytest.mark.parametrize("turns", [0, -4, 1])
def test_fewer_turns_than_modes_are_refused(turns):
    with pytest.raises(ConfigError, match=f"turns must be >= 2, one a mode, got {turns}"):
        Alternating(turns=turns)


def test_modes_are_read_from_a_list():
    request = {"name": "alternating", "modes": ["next", "next_all"], "turns": 2}
    options = build_named(request, CURRICULA, where="curriculum").options
    assert options == Alternating(modes=("next", "next_all"), turns=2)
