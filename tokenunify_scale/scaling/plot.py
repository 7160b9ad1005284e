"""Draw scaling curves: loss against size, one line for each initialisation."""

import csv
import itertools
import statistics
import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.scaling.fit import Fit, Points, predict, read_points

# Okabe and Ito's colours, told apart by colour-blind readers; markers differ for print in grey.
STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#333333", "D"),
    ("#CC79A7", "v"),
    ("#E69F00", "P"),
    ("#56B4E9", "X"),
    ("#882255", "<"),
)
INIT_STYLES = {"tokenunify": 0, "mae": 1, "autoregressive": 2, "random": 3}
WIDTH, HEIGHT, DPI = 6.0, 4.0, 200
BEYOND = 1.2  # how far curves go beyond the points, as a factor of the size
FOOT_COLUMNS = 112
TICK_GAP = 0.1  # least distance of two size ticks, as a share of the axis
LABEL_GAP = 0.055  # least distance of two line labels, as a share of the axis


def draw(
    points: Mapping[str, Points],
    path: Path,
    *,
    fits: Mapping[str, Fit] | None = None,
    x_label: str = "parameters",
    y_label: str = "VOI (bits, lower is better)",
    title: str = "",
    ticks: Mapping[float, str] | None = None,
) -> list[Path]:
    """Draw one figure and write it as PNG and SVG.

    Every point is a run; the line joins the means at each size. A fitted curve is dashed; one that
    its points do not identify, or a mere guide, is dotted, and the figure's foot says so. Where
    there are only guides, the losses have a logarithmic axis too.

    Args:
        points: (size, loss) pairs of each group.
        path: where to write; the suffixes .png and .svg are put on.
        fits: a fit for each group, or for some.
        x_label: what the sizes are.
        y_label: what the losses are.
        title: stands above the figure.
        ticks: names of sizes, shown under the axis.

    Returns:
        The paths written.

    Raises:
        DataError: there is no point.
    """
    from matplotlib.figure import Figure

    if not any(points.values()):
        raise DataError(f"{path}: no points to draw")
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    ends: dict[str, tuple[float, str]] = {}
    for (name, pairs), (colour, marker) in zip(points.items(), _styles(list(points)), strict=True):
        means = _means(pairs)
        axes.plot(*zip(*means, strict=True), color=colour, linewidth=1.8, zorder=3)
        axes.plot(
            *zip(*pairs, strict=True),
            marker,
            color=colour,
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.8,
            zorder=4,
        )
        ends[name] = (means[-1][1], colour)
        fit = (fits or {}).get(name)
        if fit is not None and len(means) > 1:
            sizes = np.geomspace(means[0][0] / BEYOND, means[-1][0] * BEYOND, 100)
            dashes = "--" if fit.identified else ":"
            axes.plot(sizes, predict(fit, sizes), dashes, color=colour, linewidth=1, zorder=2)
    sizes = sorted({size for pairs in points.values() for size, _ in pairs})
    _scale(axes, sizes, ticks or {})
    if fits and all(fit.E is None for fit in fits.values()):
        _scale_losses(axes)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    _label_lines(axes, ends)
    foot = _foot(fits or {})
    if foot:
        figure.supxlabel(foot, fontsize=7, color="0.4", x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in written:
        figure.savefig(file)
    return written


def _styles(names: list[str]) -> list[tuple[str, str]]:
    """Colour and marker of each group; an initialisation has the same in every figure."""
    free = [n for n in range(len(STYLES)) if n not in [INIT_STYLES.get(name) for name in names]]
    rest = itertools.cycle(free or range(len(STYLES)))
    numbers = [INIT_STYLES[name] if name in INIT_STYLES else next(rest) for name in names]
    return [STYLES[number] for number in numbers]


def _means(pairs: Points) -> list[tuple[float, float]]:
    """Mean loss at each size, sizes rising."""
    losses: dict[float, list[float]] = {}
    for size, loss in sorted(pairs):
        losses.setdefault(size, []).append(loss)
    return [(size, statistics.fmean(values)) for size, values in losses.items()]


def _scale(axes, sizes: list[float], ticks: Mapping[float, str]) -> None:
    """A logarithmic size axis, with a tick at each size if there is room for their names."""
    axes.set_xscale("log")
    axes.minorticks_off()
    span = np.log(sizes[-1] / sizes[0]) if len(sizes) > 1 else 1.0
    shown = sizes
    if np.any(np.diff(np.log(sizes)) < TICK_GAP * span):
        shown = [m * 10.0**e for e in range(-3, 15) for m in (1, 2, 5)]
        shown, ticks = [s for s in shown if sizes[0] <= s <= sizes[-1]], {}
    axes.set_xticks(shown, [f"{ticks[s]}\n{_short(s)}" if s in ticks else _short(s) for s in shown])
    margin = np.exp(0.08 * span)
    axes.set_xlim(sizes[0] / margin, sizes[-1] * margin)


def _scale_losses(axes) -> None:
    """A logarithmic loss axis, on which guide lines are straight, with ticks at round numbers."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    axes.set_yscale("log")
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(ScalarFormatter())


def _short(number: float) -> str:
    """A number of three digits with k, M or G."""
    for unit, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.3g}"


def _label_lines(axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Write each group's name beside the end of its line, kept apart from its neighbours."""
    place = axes.transData + axes.transAxes.inverted()
    right = axes.get_xlim()[1]
    heights = [place.transform((right, y))[1] for y, _ in ends.values()]
    heights = spread(heights, gap=LABEL_GAP)
    for (name, (_, colour)), height in zip(ends.items(), heights, strict=True):
        axes.annotate(
            name,
            (1.0, height),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=10,
            annotation_clip=False,
        )


def spread(heights: list[float], *, gap: float) -> list[float]:
    """Heights moved as little as keeps their order and sets them ``gap`` apart.

    Neighbours that are too near form a block around their common mean.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[tuple[float, list[int]]] = []
    for index in order:
        blocks.append((heights[index], [index]))
        while len(blocks) > 1:
            (below, first), (above, second) = blocks[-2:]
            if above - below >= gap * (len(first) + len(second)) / 2 - 1e-12:
                break
            joined = first + second
            blocks[-2:] = [(statistics.fmean(heights[i] for i in joined), joined)]
    placed = list(heights)
    for centre, members in blocks:
        for place, index in enumerate(members):
            placed[index] = centre + gap * (place - (len(members) - 1) / 2)
    return placed


def _foot(fits: Mapping[str, Fit]) -> str:
    """What a reader must know about the curves."""
    verdicts: dict[str, list[str]] = {}
    for name, fit in fits.items():
        if not fit.identified:
            verdicts.setdefault(fit.verdict, []).append(name)
    lines = []
    for text, names in verdicts.items():
        which = "" if len(names) == len(fits) else f" ({', '.join(names)})"
        lines.append(f"Dotted: {text}{which}")
    return "\n".join(part for line in lines for part in textwrap.wrap(line, FOOT_COLUMNS))


def plot_csv(
    table: Path,
    path: Path,
    *,
    x: str,
    y: str,
    group: str | None,
    fits: Mapping[str, Fit] | None = None,
    title: str = "",
    names: str = "size",
) -> list[Path]:
    """Draw a CSV file's points; x, y and group as in ``fit.read_points``.

    Args:
        table: a CSV file with a header.
        path: where to write, as in ``draw``.
        x: column of the sizes.
        y: column of the losses.
        group: column of the groups.
        fits: a fit for each group.
        title: stands above the figure.
        names: column that names the sizes; not used where the file has none.
    """
    points = read_points(table, x=x, y=y, group=group)
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[x]]
    ticks = {float(row[x]): row[names] for row in rows if row.get(names)}
    y_label = {"voi": "VOI (bits, lower is better)", "arand": "adapted Rand error"}.get(y, y)
    return draw(points, path, fits=fits, x_label=x, y_label=y_label, title=title, ticks=ticks)
