import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from tokenunify_scale.config import ConfigError, Named, build, dump_yaml
from tokenunify_scale.objectives.curriculum import Alternating, Constant, Piecewise, Sampled
from tokenunify_scale.objectives.schedule import TERMS, draw_schedules, schedule_text, weights_of
from tokenunify_scale.objectives.tokenunify import restricted
from tokenunify_scale.pretrain import Config, plan
from tokenunify_scale.registry import CURRICULA

ALL = {name: Named(name, CURRICULA.get(name).config) for name in CURRICULA.names()}


def rows(lines):
    """Progress: (three weights, bar), of the rows of a chart."""
    cells = [line.split() for line in lines if line[:1] in ("0", "1")]
    return {at: ([float(weight) for weight in weights], bar) for at, *weights, bar in cells}


def colours(path):
    """How many pixels have the colour of each term."""
    image = imread(path)[..., :3]
    return {
        name: int((np.abs(image - to_rgb(colour)).max(axis=2) < 0.02).sum())
        for name, (_, colour) in TERMS.items()
    }


def test_the_printed_weights_around_the_switches_are_those_of_equation_14():
    found = rows(schedule_text(ALL["piecewise"], steps=1000, seed=0))
    tenths = [f"{tenth / 10:.2f}" for tenth in range(11)]
    assert list(found) == sorted([*tenths, "0.29", "0.69"])
    assert found["0.29"][0] == found["0.00"][0] == [0.73, 0.18, 0.09]
    assert found["0.30"][0] == found["0.69"][0] == [0.18, 0.73, 0.09]
    assert found["0.70"][0] == found["1.00"][0] == [0.09, 0.18, 0.73]


@pytest.mark.parametrize("name", [name for name in ALL if name != "sampled"])
def test_a_row_has_the_weights_of_its_progress_and_a_bar_of_their_shares(name):
    found = rows(schedule_text(ALL[name], steps=1000, seed=0))
    for at, (weights, bar) in found.items():
        expected = weights_of(ALL[name], progress=float(at), seed=0)
        assert weights == pytest.approx(expected, abs=5.01e-4)
        assert bar == "".join(sorted(bar, key="rna".index)) and len(bar) == 40
        for letter, weight in zip("rna", expected, strict=True):
            assert bar.count(letter) == pytest.approx(40 * weight, abs=1)


@pytest.mark.parametrize("terms", [("random", "next"), ("next_all",), ("next", "random")])
def test_of_some_terms_the_weights_in_use_are_shown_and_no_others_named(terms):
    lines = schedule_text(ALL["piecewise"], steps=1000, seed=0, terms=terms)
    letters = {name: letter for name, (letter, _) in TERMS.items() if name in terms}
    legend = ", ".join(f"{letter} {name}" for name, letter in letters.items())
    assert lines[0] == f"piecewise over 1000 steps ({legend})"
    for at, (weights, bar) in rows(lines).items():
        table = weights_of(ALL["piecewise"], progress=float(at), seed=0)
        expected = restricted(table, terms)
        assert weights == pytest.approx(expected, abs=5.01e-4) and sum(expected) == pytest.approx(1)
        assert set(bar) == set(letters.values())


def test_rows_are_added_where_the_lead_changes_among_the_terms_in_use():
    found = rows(schedule_text(ALL["piecewise"], steps=100, seed=0, terms=["random", "next"]))
    assert found["0.29"][0] == [0.802, 0.198, 0] and found["0.30"][0] == [0.198, 0.802, 0]
    assert "0.69" not in found and found["0.70"][0] == [0.333, 0.667, 0]


def test_draws_of_terms_in_use_are_shown_and_those_of_others_refused():
    halves = Named("constant", Constant(random=0.5, next=0.5, next_all=0))
    draws = Named("sampled", Sampled(probabilities=halves))
    lines = schedule_text(draws, steps=20, seed=0, terms=["random", "next"])
    assert lines == [lines[0], *schedule_text(draws, steps=20, seed=0)[1:]]
    assert lines[0].endswith("(r random, n next)")
    with pytest.raises(ConfigError, match="terms are random, and the curriculum has steps"):
        schedule_text(draws, steps=20, seed=0, terms=["random"])


def test_bars_have_shares_where_weights_do_not_sum_to_1():
    curriculum = Named("constant", Constant(random=2, next=0, next_all=6))
    weights, bar = rows(schedule_text(curriculum, steps=10, seed=0))["0.50"]
    assert weights == [2, 0, 6] and bar == 10 * "r" + 30 * "a"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("steps", [1, 7, 10**9])
def test_lines_fit_a_terminal_whatever_the_length_of_the_run(name, steps):
    for line in schedule_text(ALL[name], steps=steps, seed=0):
        assert line.isascii() and len(line) <= 76 and line == line.strip()


@pytest.mark.parametrize("name", ALL)
def test_yaml_shows_the_lines_as_they_are_one_a_row(name):
    lines = schedule_text(ALL[name], steps=500, seed=0)
    shown = dump_yaml({"plan": {"schedule": lines}}).splitlines()[2:]
    assert shown == [f"  - {line}" if line else "  - ''" for line in lines]


def test_the_mean_is_that_of_the_steps():
    lines = schedule_text(ALL["piecewise"], steps=500, seed=0)
    assert lines[-1].split() == ["mean", "0.318", "0.400", "0.282"]


def test_of_draws_the_probabilities_are_shown_and_what_this_seed_draws():
    lines = schedule_text(ALL["sampled"], steps=50, seed=4)
    assert lines[0].startswith("sampled from piecewise over 50 steps")
    assert lines[2:-1] == schedule_text(ALL["piecewise"], steps=50, seed=4)[2:]
    label, letters = lines[-1].split()
    assert label == "drew" and len(letters) == 50
    for step, letter in enumerate(letters):
        weights = weights_of(ALL["sampled"], progress=step / 50, seed=4)
        assert weights["rna".index(letter)] == 1
    assert schedule_text(ALL["sampled"], steps=50, seed=5)[-1] != lines[-1]


def test_probabilities_that_are_draws_themselves_are_looked_through():
    twice = Named("sampled", Sampled(probabilities=ALL["sampled"]))
    once, again = (schedule_text(named, steps=50, seed=0) for named in (ALL["sampled"], twice))
    assert once == again


def test_many_changes_do_not_fill_the_screen():
    curriculum = Named("alternating", Alternating(turns=50))
    assert len(rows(schedule_text(curriculum, steps=1000, seed=0))) == 11


def test_an_unknown_curriculum_is_refused():
    with pytest.raises(ConfigError, match="unknown curriculum 'piecewize'.*piecewise"):
        schedule_text(Named("piecewize"), steps=10, seed=0)


def test_a_picture_has_every_term_in_its_colour(tmp_path):
    for name, file in {"piecewise": "new/one.png", "constant": "together.png"}.items():
        draw_schedules(tmp_path / file, {name: ALL[name]}, steps=100, seed=0)
        assert min(colours(tmp_path / file).values()) > 200, name


def test_a_term_that_is_not_in_use_is_not_drawn(tmp_path):
    some = ("random", "next_all")
    draw_schedules(tmp_path / "a.png", {"a": ALL["piecewise"]}, steps=100, seed=0, terms=some)
    areas = colours(tmp_path / "a.png")
    assert areas["next"] == 0 and min(areas["random"], areas["next_all"]) > 200
    draws = Named("sampled", Sampled(probabilities=Named("constant", Constant(next=0))))
    draw_schedules(tmp_path / "b.svg", {"b": draws}, steps=100, seed=0, terms=some)
    text = (tmp_path / "b.svg").read_text()
    assert "<!-- random -->" in text and "<!-- next -->" not in text


def test_draws_are_marked_below_their_probabilities(tmp_path):
    always = Named("constant", Constant(random=0, next=1, next_all=0))
    draws = Named("sampled", Sampled(probabilities=always))
    areas = {}
    for name, curriculum in {"constant": always, "sampled": draws}.items():
        draw_schedules(tmp_path / f"{name}.png", {name: curriculum}, steps=240, seed=0)
        areas[name] = colours(tmp_path / f"{name}.png")
    assert areas["sampled"]["next"] > 2 * areas["constant"]["next"]
    assert areas["sampled"]["random"] == pytest.approx(areas["constant"]["random"], rel=0.2)


def test_all_curricula_fit_one_vector_graphic(tmp_path):
    draw_schedules(tmp_path / "all.svg", ALL, steps=20, seed=0)
    text = (tmp_path / "all.svg").read_text()
    assert all(f"<!-- {name} -->" in text for name in ALL)
    assert text.count("<!-- random -->") == len(ALL), "a label a panel"


def test_a_dry_run_draws_the_schedule_of_an_objective_that_has_one(tmp_path):
    def planned(**objective):
        request = {"model": "emmamba_atto", "shards": [str(tmp_path / "none")], "steps": 40,
                   "crop": [8, 32, 32], "objective": {"patch": [4, 8, 8], **objective}}  # fmt: skip
        return plan(build(Config, request))

    told = planned(name="tokenunify", curriculum={"name": "piecewise", "switch": [0.1, 0.2]})
    moved = Named("piecewise", Piecewise(switch=(0.1, 0.2)))
    assert told["schedule"] == schedule_text(moved, steps=40, seed=0)
    two = planned(name="tokenunify", terms=["random", "next"])
    assert two["schedule"][0].endswith("(r random, n next)")
    assert "schedule" not in planned(name="mae")
    assert not list(tmp_path.iterdir()), "nothing is written"
