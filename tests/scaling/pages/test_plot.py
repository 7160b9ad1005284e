import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.scaling.laws.fit import fit_law
from tokenunify_scale.scaling.laws.points import Points
from tokenunify_scale.scaling.pages import strokes
from tokenunify_scale.scaling.pages.plot import _foot, compose, draw, plot_csv, plot_paper
from tokenunify_scale.scaling.pages.published import figure6

TABLE = """size,init,seed,parameters,voi,missing
atto,mae,0,1000,2.0,
atto,mae,1,1000,2.1,
femto,mae,0,4000,1.5,
atto,random,0,1000,2.5,
femto,random,0,,,finetune/femto-random-s0
"""
NAMES = ["tokenunify", "mae", "autoregressive", "random", "byol", "dbmim", "ms_con_em", "own"]


def points(*pairs):
    table = np.array(pairs, dtype=float)
    return Points(x=table[:, :-1], y=table[:, -1])


def curve(count, *, factor=1.0, seeds=1, low=4e5, high=1e9):
    """A made-up curve with ``seeds`` runs at each of ``count`` sizes."""
    sizes = np.repeat(np.geomspace(low, high, count), seeds)
    noise = 1 + 0.02 * np.sin(37 * np.arange(len(sizes)))
    return Points(x=sizes[:, None], y=1 + factor * (sizes / 1e6) ** -0.3 * noise)


def family(rng, *, exact):
    n, d = np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e10, 4)
    x = np.array(list(itertools.product(n, d)))
    x = x if exact else x * np.exp(rng.normal(size=x.shape))
    return Points(x=x, y=1.6 + 400 * x[:, 0] ** -0.34 + 410 * x[:, 1] ** -0.28)


def collisions(figure):
    """Pairs of texts that overlap, and texts that reach over the page's border.

    The boxes are matplotlib's own, as it draws them.
    """
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    shown = [
        text for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and not_outside(text, figure.axes[0])
    ]  # fmt: skip
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown]
    wide, high = figure.get_size_inches() * figure.dpi
    found = [
        (a, b) for (a, one), (b, two) in itertools.combinations(boxes, 2)
        if min(one.x1, two.x1) - max(one.x0, two.x0) > 0.5
        and min(one.y1, two.y1) - max(one.y0, two.y0) > 0.5
    ]  # fmt: skip
    found += [(t, "page") for t, b in boxes if b.x0 < 0 or b.y0 < 0 or b.x1 > wide or b.y1 > high]
    inside = figure.axes[0].get_window_extent(renderer)
    found += [
        (t, "lines") for t, b in boxes
        if min(b.x1, inside.x1) - max(b.x0, inside.x0) > 0.5
        and min(b.y1, inside.y1) - max(b.y0, inside.y0) > 0.5
    ]  # fmt: skip
    return found


def not_outside(text, axes):
    """Matplotlib keeps labels of ticks beyond an axis's limits, and does not draw them."""
    for name in "xy":
        low, high = sorted(getattr(axes, f"get_{name}lim")())
        for tick in getattr(axes, f"{name}axis").get_major_ticks():
            if text in (tick.label1, tick.label2):
                return low <= tick.get_loc() <= high and text is tick.label1
    return True


def crowd(groups, count, width, *, close, long):
    """A figure of so many groups and sizes, lines near or apart, names short or long."""
    some = {
        NAMES[k] + (" with a name that is long" if long else ""): curve(
            count, factor=1 + k * (0.004 if close else 0.6), seeds=2
        )
        for k in range(groups)
    }
    sizes = np.geomspace(4e5, 1e9, count)
    return compose(
        some,
        width=width,
        scale=("loglog", "logx", "linear")[(groups + count) % 3],
        ticks={s: f"emmamba_of_size_{k}" if long else f"s{k}" for k, s in enumerate(sizes)},
        title="A title of many words that goes on and on, twice as long" if long else "short",
        x_label="parameters_of_the_" + "whole_network_" * 9 if long else "parameters",
        y_label="a loss of long name " * 6 if long else "VOI (bits, lower is better)",
        notes=["A note of several words under the figure."] * (1 + 2 * long),
    )


@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("groups", [1, 3, 8])
def test_no_text_overlaps(groups, width):
    for count, how in ((1, 0), (2, 1), (9, 2), (9, 3)):
        figure = crowd(groups, count, width, close=how % 2 == 0, long=(how + groups // 2) % 4 > 1)
        assert collisions(figure) == [], count


@pytest.mark.slow
@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("groups", range(1, 9))
def test_no_text_overlaps_for_any_number_of_groups_sizes_and_lengths_of_names(groups, width):
    for count, close, long in itertools.product((1, 2, 4, 9), (False, True), (False, True)):
        figure = crowd(groups, count, width, close=close, long=long)
        assert collisions(figure) == [], (count, close, long)


@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("scale", ["loglog", "logx", "linear"])
def test_no_text_overlaps_with_fits_the_paper_or_families_of_curves(width, scale, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        strokes, "predict", lambda fit, x: 3 - 0.1 * np.log10(x.reshape(len(x), -1))[:, 0]
    )
    monkeypatch.setattr(
        strokes, "band", lambda fit, x: (np.full(len(x), 1.0), np.full(len(x), 9.0))
    )
    fit = SimpleNamespace(
        identified=False, verdict="not identified: " + "noise leaves it open " * 5
    )
    some = {name: curve(4, factor=k, high=7e6) for k, name in enumerate(NAMES[:4], start=1)}
    for options in (
        {"points": some, "fits": dict.fromkeys(some, fit)},
        {"points": some, "paper": "transformer"},
        {"points": {"own": some["mae"]}, "paper": "mamba"},
        {"points": {"": family(rng, exact=True)}, "fits": {"": fit}},
        {"points": {"a": family(rng, exact=False), "b": family(rng, exact=True)}},
    ):
        assert collisions(compose(options.pop("points"), width=width, scale=scale, **options)) == []


@pytest.mark.parametrize("losses", [(1e-8, 1e3), (2.0, 2.0001), (123456.0, 9e6), (5.0, 5.0)])
def test_losses_of_any_range_have_ticks_that_keep_apart(losses):
    some = {"a": points((1e6, losses[0]), (1e7, losses[1]))}
    for scale in ("loglog", "logx", "linear"):
        figure = compose(some, scale=scale, width="column")
        assert collisions(figure) == []
        assert len(figure.axes[0].get_yticks()) >= 2


def test_a_dollar_or_an_underscore_in_a_name_is_no_formula():
    figure = compose({"a_$x^2$": curve(2)}, title="50 $ and 60 $")
    assert collisions(figure) == []
    assert not any(t.get_parse_math() for t in figure.texts)


def test_the_figure_has_every_group_by_name_and_every_size(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(TABLE)
    words = {"x": ["parameters"], "y": "voi", "group": "init", "title": "demo"}
    paths = plot_csv(table, tmp_path / "scaling", **words)
    assert [path.name for path in paths] == ["scaling.png", "scaling.svg", "scaling.pdf"]
    image = imread(paths[0])
    assert image.shape[1] == round(170 / 25.4 * 250) and np.ptp(image) > 0.5
    assert paths[2].read_bytes().startswith(b"%PDF")
    # Matplotlib notes each text of an SVG in a comment.
    text = paths[1].read_text()
    assert all(f"<!-- {word} -->" in text for word in ("mae", "random", "atto", "4 k", "demo"))
    again = plot_csv(table, tmp_path / "b" / "scaling", **words)
    assert again[1].read_bytes() == paths[1].read_bytes()


def test_the_drawn_fit_and_its_band_are_those_of_the_fit():
    from tokenunify_scale.scaling.laws.fit import band, predict

    some = curve(7, seeds=2)
    fit = fit_law(some, resamples=20)
    axes = compose({"mae": some}, fits={"mae": fit}, scale="logx").axes[0]
    (line,) = [line for line in axes.lines if len(line.get_xdata()) == strokes.FINE]
    x, y = line.get_data()
    assert np.allclose(y, predict(fit, x)) and x[0] < some.x.min() and x[-1] > some.x.max()
    filled = axes.collections[0].get_paths()[0].vertices
    low, high = band(fit, x)
    assert filled[:, 1].min() == pytest.approx(low.min())
    assert filled[:, 1].max() == pytest.approx(high.max())


def test_a_curve_that_is_not_identified_is_confessed_under_the_figure():
    two = SimpleNamespace(identified=False, verdict="not identified: 2 sizes; more")
    sure = SimpleNamespace(identified=True, verdict="fitted")
    mae, own = SimpleNamespace(group="mae"), SimpleNamespace(group="own")
    both = _foot({"mae": two, "own": two}, [mae, own], shaded=False)
    assert both == ["Dotted: not identified: 2 sizes."]
    assert _foot({"mae": two, "own": sure}, [mae, own], shaded=True) == [
        "Dashed: fit.",
        "Dotted: not identified: 2 sizes (mae).",
        "Shaded: 95 % band of a fit.",
    ]


def test_the_paper_s_points_are_hollow_lighter_and_named():
    figure = compose({"mae": curve(3, high=7e6), "own": curve(3)}, paper="mamba")
    (hollow,) = [
        line for line in figure.axes[0].lines
        if line.get_markerfacecolor() == "white" and np.allclose(line.get_ydata()[0], 1.3415)
    ]  # fmt: skip
    assert list(hollow.get_ydata()) == list(figure6("mamba")["mae"].y)
    words = " ".join(text.get_text() for text in figure.texts)
    assert "paper, mamba paper, mamba, random paper, mamba, tokenunify" in words
    assert "another data set" in words


def test_the_paper_s_figure_is_drawn_alone(tmp_path):
    some = SimpleNamespace(identified=False, verdict="not identified: 4 sizes")
    fits = {"mae": some}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strokes, "predict", lambda fit, x: np.ones(len(x)))
        patch.setattr(strokes, "band", lambda fit, x: None)
        paths = plot_paper(tmp_path / "f6", backbone="mamba", fits=fits, notes=["Said."])
    text = paths[1].read_text()
    assert "<!-- Figure 6 of the paper, mamba -->" in text and "Said." in text


def test_a_wrong_request_is_refused_by_name():
    with pytest.raises(DataError, match="no points"):
        compose({})
    with pytest.raises(ConfigError, match="scale is 'log'"):
        compose({"a": curve(2)}, scale="log")
    with pytest.raises(ConfigError, match="no backbone 'mambo'.*mamba"):
        compose({"a": curve(2)}, paper="mambo")
    with pytest.raises(ConfigError, match="has no 'seconds'"):
        compose({"a": curve(2)}, paper="mamba", paper_x="seconds")


def test_drawing_writes_beside_a_name_with_a_dot(tmp_path):
    assert draw({"a": curve(2)}, tmp_path / "v1.5")[0].name == "v1.5.png"
