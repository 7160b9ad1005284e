"""What a table of points gives; what a study's gives is held by the tests of the command."""

import json
from types import SimpleNamespace

import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.scaling.results import Curves, draw_table, fit_table, judge_table

ARGS = {"x": "N", "y": "loss", "group": None, "flops": None, "noise": None, "scale": "logx",
        "width": "page", "paper": None}  # fmt: skip


@pytest.fixture
def table(tmp_path):
    """Two curves of four sizes and two seeds."""
    lines = ["init,seed,N,loss,kind"]
    for init, more in (("a", 0.0), ("b", 0.2)):
        for seed in (0, 1):
            lines += [f"{init},{seed},{n},{1 + more + 2 * n**-0.5 + 0.001 * seed},k"
                      for n in (10, 30, 100, 300)]  # fmt: skip
    file = tmp_path / "points.csv"
    file.write_text("\n".join(lines))
    return file


def curves(**changes):
    return Curves.of(SimpleNamespace(**{**ARGS, **changes}))


def test_a_table_with_initialisations_has_a_curve_for_each_unless_told(table, tmp_path):
    assert list(curves().points(table)) == ["a", "b"]
    assert list(curves(group="").points(table)) == [""]
    assert list(curves(group="init,kind").points(table)) == ["a k", "b k"]


def test_a_table_without_has_one(tmp_path):
    file = tmp_path / "other.csv"
    file.write_text("N, loss\n10, 2\n20, 1\n")
    assert list(curves().points(file)) == [""]


def test_fits_are_written_in_full_and_told(table, tmp_path, capsys):
    fits, said = fit_table(table, tmp_path, curves())
    record = json.loads((tmp_path / "fit.json").read_text())
    assert record["a"]["alpha"] == fits["a"].alpha and said in capsys.readouterr().out


def test_a_verdict_is_written_and_names_the_better_one(table, tmp_path):
    said = judge_table(table, tmp_path, curves())
    assert "a is better than b" in said
    (one,) = json.loads((tmp_path / "verdict.json").read_text())["comparisons"]
    assert {one["first"], one["second"]} == {"a", "b"}


def test_figures_may_be_as_wide_as_a_column_and_have_the_paper_s_behind_them(table, tmp_path):
    text = table.read_text().replace(",N,", ",parameters,")
    table.write_text(text)
    asked = curves(x="parameters", width="column", paper="")
    paths = draw_table(table, tmp_path, asked, fits={}, title="points")
    assert [path.name for path in paths] == ["scaling.png", "scaling.svg", "scaling.pdf"]
    assert asked.paper == "mamba" and "paper" in (tmp_path / "scaling.svg").read_text()


def test_a_noise_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="--noise is a standard deviation, > 0, got 0"):
        curves(noise=0.0)
