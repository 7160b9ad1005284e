"""Draw scaling curves: loss against size, one line for each initialisation."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.scaling.laws.fit import Fit
from tokenunify_scale.scaling.laws.points import Points, read_points
from tokenunify_scale.scaling.pages.curves import Curve, curves, ink, size_ticks
from tokenunify_scale.scaling.pages.legend import Entry, set_page
from tokenunify_scale.scaling.pages.overlay import ELSEWHERE, paper_curves, paper_entries
from tokenunify_scale.scaling.pages.page import COLUMN, PAGE, Page
from tokenunify_scale.scaling.pages.published import figure6
from tokenunify_scale.scaling.pages.strokes import (
    SCALES,
    Scale,
    draw_curve,
    draw_fit,
    draw_paper,
    dress,
    limit,
    loss_ticks,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Width = Literal["column", "page"]
WIDTHS = {"column": COLUMN, "page": PAGE}
DPI = 250
UNSURE = "not identified: "  # how a fit's verdict begins where it is
SUFFIXES = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
Y_LABELS = {"voi": "VOI (bits, lower is better)", "arand": "adapted Rand error"}


def draw(points: Mapping[str, Points], path: Path, **options: Any) -> list[Path]:
    """Draw one figure and write it as PNG, SVG and PDF.

    Args:
        points: sizes and losses of each group.
        path: where to write; the suffixes .png, .svg and .pdf are put on.
        **options: as ``compose`` has them.

    Returns:
        The paths written.

    Raises:
        DataError, ConfigError: as ``compose``.
    """
    import matplotlib

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every table of a font
    figure = compose(points, where=str(path), **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Appended, not replaced: what follows a dot in a name is no suffix.
    written = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    with matplotlib.rc_context({"svg.hashsalt": path.name, "pdf.fonttype": 42}):
        for file in written:
            figure.savefig(file, metadata=SUFFIXES[file.suffix])
    return written


def compose(
    points: Mapping[str, Points],
    *,
    fits: Mapping[str, Fit] | None = None,
    paper: str | None = None,
    paper_x: str = "parameters",
    scale: Scale = "logx",
    width: Width = "page",
    x_label: str = "parameters",
    y_label: str = Y_LABELS["voi"],
    second: str = "D",
    title: str = "",
    ticks: Mapping[float, str] | None = None,
    notes: Sequence[str] = (),
    where: str = "figure",
) -> "Figure":
    """The figure of ``draw``, not yet written.

    Every point is a run; the line joins the means at each size. A fitted curve is dashed, with its
    95 % band; one that its points do not identify, or a mere guide, is dotted, and the figure's
    foot says so. Points with two sizes (N, D) are families of curves over N.

    Args:
        points: sizes and losses of each group.
        fits: a fit for each group, or for some.
        paper: backbone whose points of the paper's Figure 6 are drawn too, hollow and lighter.
        paper_x: which of Figure 6's sizes the points' are: parameters, gmacs or flops.
        scale: which axes are logarithmic: both, the sizes, or none.
        width: 85 mm (column) or 170 mm (page).
        x_label: what the sizes are.
        y_label: what the losses are.
        second: what the second size is.
        title: stands above the figure.
        ticks: names of sizes, shown under the axis.
        notes: sentences for the figure's foot.
        where: what an error calls the figure.

    Raises:
        DataError: there is no point.
        ConfigError: no such scale, width or backbone, or Figure 6 has no such size.
    """
    from matplotlib.figure import Figure

    for what, value, valid in (("scale", scale, SCALES), ("width", width, WIDTHS)):
        if value not in valid:
            raise ConfigError(f"{where}: {what} is {value!r}, expected one of {', '.join(valid)}")
    fits, own = fits or {}, curves(points, second=second)
    if not own:
        raise DataError(f"{where}: no points to draw")
    others = paper_curves(paper, own, x=paper_x) if paper else []
    page = Page(Figure(dpi=DPI), WIDTHS[width])
    axes, thick = page.axes, 1.0 if width == "column" else 1.5  # points
    for curve in others:
        draw_paper(axes, curve, thick)
    for curve in own:
        draw_curve(axes, curve, thick)
    fitted = {
        curve.label: heights
        for curve in own
        if (fit := fits.get(curve.group)) is not None
        and (heights := draw_fit(axes, curve, fit, log=scale != "linear", thick=thick)) is not None
    }
    # A curve that is not identified may go anywhere between and beyond its points.
    sure = {curve.label for curve in own if curve.label in fitted and fits[curve.group].identified}
    heights = (heights for label, heights in fitted.items() if label in sure)
    limit(axes, [*own, *others], heights, scale=scale)
    dress(axes, page.sizes.tick)
    drawn = [curve for curve in own if curve.label in fitted]
    foot = [*_foot(fits, drawn, shaded=bool(axes.collections)), *notes]
    set_page(
        page,
        [*map(_entry, own), *paper_entries(others, own, paper)],
        title=title,
        x_label=x_label,
        y_label=y_label,
        foot="\n".join([*foot, ELSEWHERE.format(paper)] if paper else foot),
        x_ticks=size_ticks(
            [float(x) for curve in [*own, *others] for x in curve.x],
            ticks or {},
            log=scale != "linear",
        ),
        y_ticks=loss_ticks(*axes.get_ylim(), log=scale == "loglog"),
    )
    return page.figure


def _entry(curve: Curve) -> Entry:
    sizes, means = curve.means
    handle = {"color": curve.colour, "marker": curve.marker, "linewidth": 1.2, "markersize": 4}
    return Entry(
        name=curve.label or "all",
        colour=ink(curve.colour),
        end=(sizes[-1], means[-1]),
        handle=handle,
    )


def _foot(fits: Mapping[str, Fit], fitted: Sequence[Curve], *, shaded: bool) -> list[str]:
    """What a reader must know about the fitted curves, in sentences; the first reason of each."""
    doubt: dict[str, list[str]] = {}
    for name, fit in fits.items():
        if not fit.identified:
            reason = fit.verdict.removeprefix(UNSURE).split(";")[0]
            doubt.setdefault(reason, []).append(name)
    unsure = {name for names in doubt.values() for name in names}
    dashed = any(curve.group not in unsure for curve in fitted)
    dotted = "Dotted: " if any(curve.group in unsure for curve in fitted) else ""
    reasons = [
        reason + ("" if len(names) == len(fits) else f" ({', '.join(names)})")
        for reason, names in doubt.items()
    ]
    return [
        *(["Dashed: fit."] if dashed else []),
        *([f"{dotted}{UNSURE}{'; '.join(reasons)}."] if reasons else []),
        *(["Shaded: 95 % band of a fit."] if shaded else []),
    ]


def plot_csv(
    table: Path,
    path: Path,
    *,
    x: Sequence[str],
    y: str,
    group: str | None,
    flops: str | None = None,
    names: str = "size",
    **options: Any,
) -> list[Path]:
    """Draw a CSV file's points; x, y and group as in ``points.read_points``.

    Args:
        table: a CSV file with a header.
        path: where to write, as in ``draw``.
        x: columns of the sizes, one or two.
        y: column of the losses.
        group: columns of the groups.
        flops: column of the FLOPs that stands in for a second size.
        names: column that names the sizes; not used where the file has none.
        **options: as ``compose`` has them.
    """
    points = read_points(table, x=x, y=y, group=group, flops=flops)
    options.setdefault("ticks", _names(table, x[0], names))
    options.setdefault("x_label", x[0])
    options.setdefault("y_label", Y_LABELS.get(y, y))
    options.setdefault("second", "D" if flops else x[-1])
    return draw(points, path, **options)


def _names(table: Path, x: str, names: str) -> dict[float, str]:
    """What a table's sizes are called, where it says and each has one name."""
    found: dict[float, set[str]] = {}
    with table.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.DictReader(file, skipinitialspace=True)
        lines.fieldnames = [name.strip() for name in lines.fieldnames or []]
        for line in lines:
            if (line[x] or "").strip() and (line.get(names) or "").strip():
                found.setdefault(float(line[x]), set()).add(line[names].strip())
    return {size: called.pop() for size, called in found.items() if len(called) == 1}


def plot_paper(path: Path, *, backbone: str, fits: Mapping[str, Fit], **options: Any) -> list[Path]:
    """Draw the paper's Figure 6 alone, with fits to its points.

    Args:
        path: where to write, as in ``draw``.
        backbone: mamba or transformer.
        fits: of ``published.figure6``'s groups.
        **options: as ``compose`` has them.
    """
    note = "Points: Figure 6 of the paper, one value a size; parameters as the figure rounds them."
    options.setdefault("title", f"Figure 6 of the paper, {backbone}")
    options["notes"] = (note, *options.get("notes", ()))
    return draw(figure6(backbone), path, fits=fits, **options)
