"""Pictures of a comparison: what each run makes of one crop, and PSNR by photograph."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tokenunify_scale.objectives.reconstruction import TASKS
from tokenunify_scale.objectives.reconstruction_table import Found
from tokenunify_scale.objectives.rollout import psnr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Size3 = tuple[int, int, int]
WIDTH, EDGE, GAP = 7.2, 0.06, 0.06  # inches
TITLE, HEAD = 0.32, 0.23  # inches: over all, over each row
DPI = 200
WORDS = "#444444"
COLUMNS = ("hidden at random", None, "behind a prefix", None, "truth; below, features")
HIDDEN = np.array([0.80, 0.86, 0.94])  # no gray: what is hidden is told from what is bright
WRONG = 0.4  # error of a gray value, of the range [0, 1], that an error map shows in full
BRIGHT, DARK = np.array([0.70, 0.09, 0.17]), np.array([0.13, 0.40, 0.67])  # of errors
ERROR_WORDS = f"below, errors:\nred too bright,\nblue too dark,\nin full at {WRONG} of the range"
NOTHING = "nothing to show"
LABELS = {"random": "hidden at random", "next": "next patch", "next_all": "all later patches"}

# Okabe and Ito's colours, told apart by colour-blind readers; the marks differ in print as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = "os^vDP*"
PAPER = ("-", "--", "-.", ":")
TALL, FOOT, ASIDE = 1.75, 0.62, 0.52  # inches, of a diagram
IN_LINE = 4  # names in a line of the legend


class Row(NamedTuple):
    """One row of the contact sheet; images [H, W, 3] in [0, 1], NaN where nothing is shown."""

    title: str
    """Run and objective; empty for the row of the truth."""

    note: str
    """What a reader of its numbers must know."""

    at_random: np.ndarray | None
    """Patches hidden at random as predicted, the others true; None where nothing is claimed."""

    behind: np.ndarray | None
    """The same for those behind a prefix."""

    last: np.ndarray
    """Features as colours, or the truth."""

    psnr: Mapping[str, float]
    """In dB, by task."""

    patch: Size3
    """Patch size (z, y, x) in voxels."""


def draw_sheet(
    path: Path,
    rows: Sequence[Row],
    *,
    title: str,
    voxel_size: tuple[float, float, float] | None = None,
) -> None:
    """A contact sheet: what is shown and the truth, then a row a run.

    Columns are the reconstruction of what is hidden at random, its error, that of what lies behind
    a prefix, its error, and features as colours.

    Args:
        path: PNG file.
        rows: the truth's first.
        title: one line over all.
        voxel_size: (z, y, x) in nm, for the aspect of the images.
    """
    from matplotlib.figure import Figure

    truth = rows[0].last
    _, dy, dx = voxel_size or (1, 1, 1)
    side = (WIDTH - 2 * EDGE - GAP * (len(COLUMNS) - 1)) / len(COLUMNS)
    tall = side * truth.shape[0] * dy / (truth.shape[1] * dx)
    height = TITLE + len(rows) * (HEAD + tall) + EDGE
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    figure.text(EDGE / WIDTH, 1 - 0.2 / height, title, fontsize=9, color=WORDS)
    for number, row in enumerate(rows):
        bottom = height - TITLE - (number + 1) * (HEAD + tall)
        errors = [_error(x, truth) if number else None for x in (row.at_random, row.behind)]
        images = [row.at_random, errors[0], row.behind, errors[1], row.last]
        for column, image in enumerate(images):
            left = EDGE + column * (side + GAP)
            axes = _axes(figure, left, bottom, side, tall)
            _show(axes, image, grid=row.patch[1:] if column in (0, 2) else None)
            if image is None:
                _say(
                    axes, NOTHING if number and column in (0, 2) else "" if number else ERROR_WORDS
                )
            if number == 0:
                axes.set_title(COLUMNS[column] or "", fontsize=7.5, color=WORDS, pad=3)
        if number:
            _head(figure, row, (bottom + tall + 0.05) / height)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _head(figure: "Figure", row: Row, y: float) -> None:
    """The line over a row: run, objective, PSNR by task, note."""
    told = [f"{LABELS[task]} {row.psnr[task]:.1f}" for task in TASKS if row.psnr[task] > 0]
    words = ",  ".join([*told, *([row.note] if row.note else [])])
    text = figure.text(EDGE / WIDTH, y, row.title, fontsize=8, color="black", va="bottom")
    wide = text.get_window_extent().x1 / DPI
    x = (wide + 0.12) / WIDTH
    figure.text(x, y, words, fontsize=7.5, color=WORDS, va="bottom")


def _error(image: np.ndarray | None, truth: np.ndarray) -> np.ndarray | None:
    """Error [H, W, 3], the mean over colours: white for none, red too bright, blue too dark."""
    if image is None:
        return None
    share = ((image - truth).mean(-1, keepdims=True) / WRONG).clip(-1, 1)
    return 1 - np.maximum(share, 0) * (1 - BRIGHT) - np.maximum(-share, 0) * (1 - DARK)


def _axes(figure: "Figure", left: float, bottom: float, wide: float, tall: float) -> "Axes":
    """Axes at a place in inches."""
    total_wide, total_tall = figure.get_size_inches()
    place = (left / total_wide, bottom / total_tall, wide / total_wide, tall / total_tall)
    return figure.add_axes(place)


def _show(axes: "Axes", image: np.ndarray | None, *, grid: tuple[int, int] | None) -> None:
    """An image, with faint lines between its patches."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if image is None:
        return
    height, width, _ = image.shape
    seen = np.where(np.isnan(image), HIDDEN, image).clip(0, 1)
    extent = (0, width, height, 0)
    axes.imshow(seen, extent=extent, aspect="auto", interpolation="nearest")
    if grid is not None:
        lines = {"color": "white", "linewidth": 0.25, "alpha": 0.5}
        for y in range(grid[0], height, grid[0]):
            axes.axhline(y, **lines)
        for x in range(grid[1], width, grid[1]):
            axes.axvline(x, **lines)


def _say(axes: "Axes", words: str) -> None:
    """Words in the middle of an empty panel."""
    axes.text(0.5, 0.5, words, ha="center", va="center", fontsize=7, color=WORDS)


def draw_images(
    path: Path,
    founds: Mapping[str, Found],
    *,
    names: Sequence[str],
    paper: Mapping[str, Sequence[float]],
) -> None:
    """PSNR of each photograph, one diagram a task, one mark a run; the paper's beside ``next``.

    Args:
        path: PNG or SVG file.
        founds: by run; those of which nothing is claimed are left out.
        names: of the photographs.
        paper: its PSNR in dB of each, by column; empty for other photographs.
    """
    from matplotlib.figure import Figure

    lines = -(-(len(paper) + len(founds)) // IN_LINE)
    height = len(TASKS) * TALL + 0.1 + 0.18 * lines + FOOT
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    places = np.arange(len(names))
    for number, task in enumerate(TASKS):
        bottom = FOOT + (len(TASKS) - 1 - number) * TALL + 0.12
        axes = _axes(figure, ASIDE, bottom, WIDTH - ASIDE - EDGE, TALL - 0.3)
        if task == "next":
            for dashes, (column, values) in zip(PAPER, paper.items(), strict=False):
                label = f"paper: {column.replace('_', ', ')}"
                axes.plot(places, values, dashes, color="0.55", linewidth=1, label=label)
        for i, (name, found) in enumerate(founds.items()):
            values, colour = psnr(found.errors[task]), COLOURS[i % len(COLOURS)]
            if not np.isnan(values).all():
                # Beyond seven runs colours come again, with other marks.
                mark = MARKS[(i + i // len(COLOURS)) % len(MARKS)]
                axes.plot(places, values, mark, color=colour, markersize=4, label=name)
        axes.set_title(LABELS[task], fontsize=8.5, color=WORDS, loc="left", pad=3)
        axes.set_ylabel("PSNR (dB)", fontsize=8)
        last = number == len(TASKS) - 1
        axes.set_xticks(places, names if last else [""] * len(names), rotation=60, ha="right")
        axes.tick_params(labelsize=7)
        axes.grid(color="0.92", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(-0.6, len(names) - 0.4)
        if task == "next":
            handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=IN_LINE, fontsize=7.5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
