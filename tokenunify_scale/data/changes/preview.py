"""A contact sheet of augmentation: one crop, and what each change makes of it."""

from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from tokenunify_scale.config import to_dict
from tokenunify_scale.data.augment import AugmentConfig, augment, change_names, generator, only

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Triple = tuple[float, float, float]
Pair = tuple[np.ndarray, np.ndarray | None]

COLUMNS, WIDTH, GAP = 6, 2.1, 0.16  # panels a row; inches: of a panel, between panels
MARGIN, TITLE, CAPTION, BETWEEN = 0.2, 0.6, 0.4, 0.04  # inches; the last: section and cut
TALLEST = 0.6  # height of an xz cut over its width, at most
DPI = 150  # all lengths are whole pixels, so that outlines are sharp
LETTERS = 50  # of a caption's line
DRAWS = 5  # the most visible of so many is shown
OUTLINE, CUT, WORDS = "#ff9e1a", "#1f78d1", "#555555"  # label outlines, marks, captions


@dataclass(frozen=True)
class _Panel:
    """A crop of the sheet with its words, and where it is cut."""

    name: str
    note: str
    caption: str
    crop: np.ndarray
    labels: np.ndarray | None
    z: int
    y: int

    @property
    def cuts(self) -> tuple[tuple[np.ndarray, np.ndarray | None, int], ...]:
        """Section and xz cut: image, labels, and at which row the other cut lies."""
        ids = self.labels
        return (
            (self.crop[self.z], None if ids is None else ids[self.z], self.y),
            (self.crop[:, self.y], None if ids is None else ids[:, self.y], self.z),
        )


def draw_contact_sheet(
    path: Path,
    crop: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    config: AugmentConfig,
    seed: int,
    voxel_size: Triple | None = None,
) -> None:
    """Draw a crop, each change of it alone and always, and then some as the config has it.

    Each panel is a section over an xz cut, both where the change is largest. Mixup takes the
    crop's own mirror image for a partner.

    Args:
        path: PNG file.
        crop: uint8 [D, H, W].
        labels: None or [D, H, W]; their outlines are drawn.
        config: strengths of the changes; the probabilities are in the captions.
        seed: of the changes.
        voxel_size: (z, y, x) in nm, for the aspect, and for what needs square voxels.

    Raises:
        ValueError: as ``augment``.
    """

    def change(config: AugmentConfig, draw: int) -> Pair:
        return augment(
            crop,
            labels,
            config=config,
            rng=generator(seed, draw),
            voxel_size=voxel_size,
            partner=lambda: crop[::-1, ::-1, ::-1],
        )

    def panel(name: str, changed: Pair, *, note: str = "", caption: str = "") -> _Panel:
        difference = _difference(changed[0], crop)
        z = _place(difference.mean(axis=(1, 2)))
        return _Panel(name, note, caption, *changed, z, _place(difference[z].mean(axis=1)))

    size = " x ".join(map(str, crop.shape))
    panels = [panel("original", (crop, labels), caption=f"{size} voxels (z, y, x)")]
    for name in change_names():
        draws = [change(only(config, name), draw) for draw in range(DRAWS)]
        changed = max(draws, key=lambda draw: _difference(draw[0], crop).mean())
        options = to_dict(getattr(config, name))
        chance = options.pop("p")
        caption = ", ".join(f"{key} {value:g}" for key, value in options.items())
        if np.array_equal(changed[0], crop):
            caption = "leaves a crop of this shape as it is"
        note = f"p = {chance:g}" if chance else "p = 0 (off)"
        panels.append(panel(name, changed, note=note, caption=caption))
    for draw in range(-len(panels) % COLUMNS or COLUMNS):
        caption = f"all changes with their p, draw {draw + 1}"
        panels.append(panel("as configured", change(config, draw), caption=caption))
    figure = _draw(panels, voxel_size or (1.0, 1.0, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _difference(crop: np.ndarray, original: np.ndarray) -> np.ndarray:
    """How much each voxel differs, of the range [0, 255]."""
    return np.abs(crop.astype(np.int16) - original)


def _place(difference: np.ndarray) -> int:
    """Where a difference [n] is largest, or the middle where it is nowhere or never zero."""
    partial = difference.any() and not difference.all()
    return int(difference.argmax()) if partial else len(difference) // 2


def _draw(panels: list[_Panel], voxel_size: Triple) -> "Figure":
    """Panels in rows; sizes are computed, so that nothing overlaps."""
    from matplotlib.figure import Figure

    depth, height, width = (
        side * length for side, length in zip(panels[0].crop.shape, voxel_size, strict=True)
    )
    talls = [WIDTH * height / width, WIDTH * min(depth / width, TALLEST)]
    talls = [max(1, round(tall * DPI)) / DPI for tall in talls]
    row = CAPTION + sum(talls) + BETWEEN + GAP
    wide = 2 * MARGIN + COLUMNS * (WIDTH + GAP) - GAP
    tall = TITLE + -(-len(panels) // COLUMNS) * row
    figure = Figure(figsize=(wide, tall), dpi=DPI)
    # One set of axes in inches: a set for each image would take most of the time.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, wide), ylim=(0, tall), autoscale_on=False)
    axes.set_axis_off()
    axes.text(MARGIN, tall - 0.28, "Augmentation, change by change", fontsize=13, weight="bold")
    legend = _legend(panels[0].labels is not None)
    axes.text(MARGIN, tall - 0.46, legend, fontsize=8, color=WORDS)
    for number, panel in enumerate(panels):
        left = MARGIN + number % COLUMNS * (WIDTH + GAP)
        top = tall - TITLE - number // COLUMNS * row
        axes.text(left, top - 0.15, panel.name, fontsize=9, weight="bold")
        axes.text(left + WIDTH, top - 0.15, panel.note, fontsize=8, color=WORDS, ha="right")
        lines = "\n".join(wrap(panel.caption, LETTERS))
        axes.text(left, top - 0.19, lines, fontsize=6.5, color=WORDS, va="top", linespacing=1.1)
        bottom = top - CAPTION + BETWEEN
        for (image, ids, row_of_other), high in zip(panel.cuts, talls, strict=True):
            bottom -= BETWEEN + high
            _show(axes, image, ids, row_of_other, left=left, bottom=bottom, tall=high)
    return figure


def _legend(labelled: bool) -> str:
    outlines = " Orange: outlines of the labels." if labelled else ""
    return (
        f"Each change alone, the most visible of {DRAWS} draws; p: how often the config makes it. "
        f"Section above, xz cut below; a blue mark is where the other one lies.{outlines}"
    )


def _show(
    axes: "Axes",
    image: np.ndarray,
    labels: np.ndarray | None,
    row: int,
    *,
    left: float,
    bottom: float,
    tall: float,
) -> None:
    """An image [rows, W] uint8 with outlines of its labels, and a mark on either side of a row."""
    from matplotlib.colors import to_rgba

    sides = round(tall * DPI), round(WIDTH * DPI)
    place = {"aspect": "auto", "extent": (left, left + WIDTH, bottom, bottom + tall)}
    smooth = "nearest" if image.shape[1] <= sides[1] else "antialiased"
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation=smooth, **place)
    if labels is not None:
        overlay = np.zeros((*sides, 4))
        overlay[_edges(labels, sides)] = to_rgba(OUTLINE, 0.75)
        axes.imshow(overlay, interpolation="nearest", **place)
    y = bottom + tall * (1 - (row + 0.5) / image.shape[0])
    axes.plot(left - 0.04, y, marker=">", color=CUT, markersize=3)
    axes.plot(left + WIDTH + 0.04, y, marker="<", color=CUT, markersize=3)


def _edges(labels: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Where labels [rows, W] change, bool of ``sides`` in pixels: lines of one pixel."""
    y, x = (np.arange(n) * old // n for n, old in zip(sides, labels.shape, strict=True))
    ids = labels[y][:, x]
    edge = np.zeros(sides, dtype=bool)
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    return edge
