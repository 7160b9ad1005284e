import numpy as np
import pytest
from matplotlib.image import imread

from tokenunify_scale.config import DataError
from tokenunify_scale.scaling.fit import fit_power_law
from tokenunify_scale.scaling.plot import STYLES, _foot, _styles, draw, plot_csv, spread

TABLE = """size,init,seed,parameters,voi,missing
atto,mae,0,1000,2.0,
atto,mae,1,1000,2.1,
femto,mae,0,4000,1.5,
atto,random,0,1000,2.5,
femto,random,0,,,finetune/femto-random-s0
"""


def test_the_figure_has_every_group_by_name_and_every_size(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(TABLE)
    paths = plot_csv(
        table, tmp_path / "scaling", x="parameters", y="voi", group="init", title="demo"
    )
    assert [path.name for path in paths] == ["scaling.png", "scaling.svg"]
    image = imread(paths[0])
    assert image.shape[:2] == (800, 1200) and np.ptp(image) > 0.5
    # Matplotlib notes each text of an SVG in a comment.
    text = paths[1].read_text()
    assert all(f"<!-- {word} -->" in text for word in ("mae", "random", "atto", "4 k", "demo"))


def test_a_curve_that_is_not_identified_is_confessed_under_the_figure():
    two = fit_power_law([(10, 2.0), (100, 1.0)])
    foot = _foot({"mae": two, "random": two})
    assert foot.startswith("Dotted: not identified: 2 sizes, 3 parameters") and "\n" not in foot
    one = fit_power_law([(10, 2.0)])
    assert "(mae)" in _foot({"mae": two, "random": one})


def test_sizes_too_near_for_names_get_plain_ticks(tmp_path):
    points = {"a": [(503.0, 2.0), (4524.0, 1.0)], "b": [(561.0, 2.0), (5024.0, 1.0)]}
    text = draw(points, tmp_path / "x", ticks={503.0: "100M"})[1].read_text()
    assert "<!-- 1 k -->" in text and "100M" not in text


def test_no_points_are_refused(tmp_path):
    with pytest.raises(DataError, match="no points"):
        draw({}, tmp_path / "x")


def test_an_initialisation_keeps_its_colour_and_no_two_groups_share_one():
    assert _styles(["random", "mae"])[1] == _styles(["mae", "other"])[0] == STYLES[1]
    styles = _styles(["random", "a", "b", "tokenunify", "c"])
    assert len(set(styles)) == 5


def test_labels_are_moved_apart_in_order_and_no_further_than_needed():
    assert spread([0.5, 0.1], gap=0.1) == [0.5, 0.1]
    assert spread([0.50, 0.52], gap=0.1) == pytest.approx([0.46, 0.56])
    assert spread([0.5, 0.5, 0.5, 0.9], gap=0.1) == pytest.approx([0.4, 0.5, 0.6, 0.9])
    heights = list(np.random.default_rng(0).random(12))
    placed = spread(heights, gap=0.05)
    assert np.argsort(placed).tolist() == np.argsort(heights).tolist()
    assert np.diff(sorted(placed)).min() >= 0.05 - 1e-9
