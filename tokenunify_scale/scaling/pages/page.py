"""Where the words of a figure go: everything is measured, so that nothing overlaps or is cut."""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

MM = 1 / 25.4  # inches
EDGE = 1.5 * MM  # free at the border of the page
GAP = 1.0 * MM  # between blocks
LINE = 1.25  # line height over font size
TICK = 6 / 72  # from the axes to a tick's label


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Inches and points of a page."""

    width: float
    plot: float
    """Height of the axes."""
    title: float
    label: float
    tick: float
    foot: float


# The two widths of a journal, its column and its page; no print is below 6 points.
COLUMN = Sizes(width=85 * MM, plot=55 * MM, title=8.5, label=8, tick=7, foot=6)
PAGE = Sizes(width=170 * MM, plot=90 * MM, title=10.5, label=9.5, tick=8.5, foot=7)


class Page:
    """A figure with one axes whose margins are made for the words around it."""

    def __init__(self, figure: "Figure", sizes: Sizes) -> None:
        """Take a figure; its size and its axes' place are set by ``place``."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.figure, self.sizes = figure, sizes
        self.renderer = FigureCanvasAgg(figure).get_renderer()
        figure.set_size_inches(sizes.width, 2 * sizes.plot)
        self.axes = figure.add_axes((0.2, 0.25, 0.6, 0.5))

    def width(self, words: str, size: float) -> float:
        """Inches that a line of text takes."""
        from matplotlib.font_manager import FontProperties

        font = FontProperties(size=size)
        wide, _, _ = self.renderer.get_text_width_height_descent(words or " ", font, False)
        return wide / self.figure.dpi

    def wrap(self, words: str, size: float, width: float) -> list[str]:
        """Lines of at most ``width`` inches; a word that is wider than that is cut."""
        lines: list[str] = []
        for paragraph in words.splitlines():
            line = ""
            for word in paragraph.split():
                joined = f"{line} {word}".strip()
                if self.width(joined, size) <= width:
                    line = joined
                    continue
                lines += [line] if line else []
                while self.width(word, size) > width and len(word) > 1:
                    # The first length that is too wide, by halves.
                    wide = bisect(
                        range(1, len(word)), width, key=lambda n: self.width(word[:n], size)
                    )
                    lines.append(word[: max(1, wide)])
                    word = word[max(1, wide) :]
                line = word
            lines += [line] if line else []
        return lines

    def place(
        self,
        *,
        title: str,
        x_label: str,
        y_label: str,
        labels: float,
        legend: float,
        foot: str,
        x_ticks: Sequence[Sequence[tuple[float, str]]],
        y_ticks: Sequence[Sequence[tuple[float, str]]],
    ) -> float:
        """Put ticks and words around the drawn lines, and set the page's height for them.

        Args:
            title: over the axes.
            x_label: what the sizes are.
            y_label: what the losses are.
            labels: inches to leave free at the right of the axes.
            legend: inches to leave free between the size axis and the foot.
            foot: small print below; line breaks are kept.
            x_ticks: sets of (place, label), the best first.
            y_ticks: the same for the losses.

        Returns:
            Where the legend begins, in inches from the bottom.
        """
        sizes, page = self.sizes, self.sizes.width
        self._resize(left=0.2 * page, right=0.1 * page, bottom=1.0, top=0.5)
        self._choose("y", y_ticks)
        widest = max(self.width(t.get_text(), sizes.tick) for t in self._labels("y"))
        y_lines = self.wrap(y_label, sizes.label, sizes.plot)
        left = EDGE + len(y_lines) * self.line(sizes.label) + GAP + widest + TICK
        right = EDGE + (labels or self.width(x_ticks[-1][-1][1], sizes.tick) / 2)
        self._resize(left=left, right=right, bottom=1.0, top=0.5)
        self._choose("x", x_ticks)
        rows = max(t.get_text().count("\n") + 1 for t in self._labels("x"))
        full = page - 2 * EDGE
        x_lines, foot_lines, title_lines = (
            self.wrap(words, size, full)
            for words, size in ((x_label, sizes.label), (foot, sizes.foot), (title, sizes.title))
        )
        ticks = TICK + rows * self.line(sizes.tick)
        names = ticks + len(x_lines) * self.line(sizes.label)
        small = len(foot_lines) * self.line(sizes.foot) + GAP if foot_lines else 0.0
        bottom = names + (legend + GAP if legend else 0.0) + small + EDGE
        top = EDGE + GAP + len(title_lines) * self.line(sizes.title)
        self._resize(left=left, right=right, bottom=bottom, top=top)
        self.write(title_lines, EDGE, bottom + sizes.plot + top - EDGE, sizes.title)
        across = max((self.width(line, sizes.label) for line in x_lines), default=0) / 2
        middle = min(max((left + page - right) / 2, EDGE + across), page - EDGE - across)
        self.write(x_lines, middle, bottom - ticks, sizes.label, ha="center")
        self._upright(y_lines, EDGE, bottom + sizes.plot / 2)
        self.write(foot_lines, EDGE, small + EDGE - GAP, sizes.foot, color="#555555")
        return bottom - names - GAP

    def line(self, size: float) -> float:
        """Inches from one line of text to the next."""
        return LINE * size / 72

    def _resize(self, *, left: float, right: float, bottom: float, top: float) -> None:
        """Set the page's height, and the axes between margins in inches."""
        page, height = self.sizes.width, bottom + self.sizes.plot + top
        self.figure.set_size_inches(page, height)
        box = (left / page, bottom / height, (page - left - right) / page, self.sizes.plot / height)
        self.axes.set_position(box)

    def _labels(self, axis: str) -> "list[Text]":
        ticks = getattr(self.axes, f"get_{axis}ticklabels")()
        return [label for label in ticks if label.get_text()]

    def _choose(self, axis: str, sets: Sequence[Sequence[tuple[float, str]]]) -> None:
        """Take the first set of ticks whose labels keep apart and stay on the page."""
        low, high = sorted(getattr(self.axes, f"get_{axis}lim")())
        edge = self.figure.dpi * EDGE / 2
        for ticks in sets:
            shown = [(place, words) for place, words in ticks if low <= place <= high]
            if not shown:
                continue
            places, words = zip(*shown, strict=True)
            getattr(self.axes, f"set_{axis}ticks")(places, words, parse_math=False)
            boxes = [text.get_window_extent(self.renderer) for text in self._labels(axis)]
            if axis == "y":
                boxes.sort(key=lambda box: box.y0)
                apart = all(a.y1 + 2 <= b.y0 for a, b in zip(boxes, boxes[1:], strict=False))
            else:
                boxes.sort(key=lambda box: box.x0)
                gap = self.figure.dpi * 0.6 * self.sizes.tick / 72
                apart = all(a.x1 + gap <= b.x0 for a, b in zip(boxes, boxes[1:], strict=False))
                inside = self.figure.dpi * self.sizes.width - edge
                apart = apart and boxes[0].x0 >= edge and boxes[-1].x1 <= inside
            if apart:
                return

    def write(self, lines: Sequence[str], x: float, top: float, size: float, **style: Any) -> None:
        """Put lines of text below ``top``, in inches from the page's lower left corner."""
        for number, line in enumerate(lines):
            y = top - (number + 0.5) * self.line(size)
            self.figure.text(
                x,
                y,
                line,
                transform=self.figure.dpi_scale_trans,
                fontsize=size,
                va="center_baseline",
                parse_math=False,
                **style,
            )

    def _upright(self, lines: Sequence[str], left: float, middle: float) -> None:
        """Lines of text that read upwards, the first one at the left."""
        for number, line in enumerate(lines):
            self.figure.text(
                left + (number + 0.5) * self.line(self.sizes.label),
                middle,
                line,
                transform=self.figure.dpi_scale_trans,
                fontsize=self.sizes.label,
                rotation=90,
                ha="center",
                va="center",
                parse_math=False,
            )
