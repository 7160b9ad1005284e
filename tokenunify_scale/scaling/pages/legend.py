"""Names of lines: beside their ends where all have room there, else in a legend below."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenunify_scale.scaling.pages.curves import spread
from tokenunify_scale.scaling.pages.page import EDGE, Page

WIDEST = 0.3  # of the page's width, for a name beside its line
NEAR = 0.8  # of the axes' width, where a line must end for a name at its right
AWAY = 5 / 72  # inches from the axes to a name
HANDLE = 1.8  # font sizes that a legend's line is long
INDENT = 2.4  # font sizes from a legend's line to its name


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line's name, where the line ends, and how it is shown in a legend."""

    name: str
    colour: str
    """Of the name."""
    end: tuple[float, float] | None
    """(x, y) of the last point; None for what can only stand in the legend."""
    handle: dict[str, Any] = field(default_factory=dict)
    """Settings of the short line with a marker."""


@dataclass(frozen=True)
class _Cell:
    """An entry in a row of the legend."""

    entry: Entry
    lines: list[str]
    width: float


def set_page(page: Page, entries: Sequence[Entry], **words: Any) -> None:
    """Place all words of a page, and the names of its lines.

    Args:
        page: with its lines drawn and the limits of its axes set.
        entries: a name each.
        **words: the others, as ``Page.place`` has them.
    """
    if _fits_beside(page, entries):
        widest = max(page.width(entry.name, page.sizes.label) for entry in entries)
        page.place(labels=widest + AWAY, legend=0.0, **words)
        _name_lines(page, entries)
    else:
        rows = _flow(page, entries)
        top = page.place(labels=0.0, legend=sum(_height(page, row) for row in rows), **words)
        _draw(page, rows, top)


def _ends(page: Page, entries: Sequence[Entry]) -> list[tuple[float, float]]:
    """Last points in shares of the axes."""
    place = page.axes.transData + page.axes.transAxes.inverted()
    return [tuple(place.transform(entry.end)) for entry in entries]


def _fits_beside(page: Page, entries: Sequence[Entry]) -> bool:
    """Whether all names can stand at the right, each near the end of its line."""
    if not entries or any(entry.end is None for entry in entries):
        return False
    size = page.sizes.label
    low = page.sizes.plot >= len(entries) * page.line(size)
    near = all(x > NEAR and -0.01 <= y <= 1.01 for x, y in _ends(page, entries))
    return (
        low
        and near
        and all(page.width(entry.name, size) <= WIDEST * page.sizes.width for entry in entries)
    )


def _name_lines(page: Page, entries: Sequence[Entry]) -> None:
    """Names at the right of the axes, kept apart and within the axes' height."""
    ends = _ends(page, entries)
    gap = page.line(page.sizes.label) / page.sizes.plot
    heights = spread([y for _, y in ends], gap=gap)
    # What reaches beyond a border is pushed inwards: up from the bottom, then down from the top.
    order = sorted(range(len(heights)), key=heights.__getitem__)
    for number, index in enumerate(order):
        heights[index] = max(heights[index], gap * (number + 0.5))
    for number, index in enumerate(reversed(order)):
        heights[index] = min(heights[index], 1 - gap * (number + 0.5))
    beyond = 1 + 3 / 72 / (page.sizes.width * page.axes.get_position().width)
    for entry, (x, y), height in zip(entries, ends, heights, strict=True):
        if abs(height - y) > gap / 4:
            page.axes.plot(
                [x, beyond],
                [y, height],
                transform=page.axes.transAxes,
                color=entry.colour,
                linewidth=0.6,
                alpha=0.7,
                clip_on=False,
                zorder=1,
            )
        page.axes.annotate(
            entry.name,
            (1.0, height),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            color=entry.colour,
            va="center_baseline",
            fontsize=page.sizes.label,
            annotation_clip=False,
            parse_math=False,
        )


def _flow(page: Page, entries: Sequence[Entry]) -> list[list[_Cell]]:
    """Legend entries in rows that are no wider than the page; long names in several lines."""
    size = page.sizes.label
    full, em = page.sizes.width - 2 * EDGE, size / 72
    rows: list[list[_Cell]] = []
    for entry in entries:
        lines = page.wrap(entry.name, size, full - INDENT * em) or [""]
        wide = (INDENT + 1) * em + max(page.width(line, size) for line in lines)
        if not rows or sum(cell.width for cell in rows[-1]) + wide - em > full:
            rows.append([])
        rows[-1].append(_Cell(entry, lines, wide))
    return rows


def _height(page: Page, row: Sequence[_Cell]) -> float:
    return max(len(cell.lines) for cell in row) * page.line(page.sizes.label)


def _draw(page: Page, rows: Sequence[Sequence[_Cell]], top: float) -> None:
    """The legend's rows below ``top``, in inches from the bottom."""
    from matplotlib.lines import Line2D

    size, inch = page.sizes.label, page.figure.dpi_scale_trans
    em = size / 72
    for row in rows:
        x, y = EDGE, top - page.line(size) / 2
        for cell in row:
            points = [x, x + HANDLE * em / 2, x + HANDLE * em]
            handle = cell.entry.handle
            page.figure.add_artist(Line2D(points, [y] * 3, markevery=[1], transform=inch, **handle))
            page.write(cell.lines, x + INDENT * em, top, size, color=cell.entry.colour)
            x += cell.width
        top -= _height(page, row)
