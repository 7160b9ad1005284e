"""Pictures of a segmentation: sections beside the ground truth, and where the errors are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tokenunify_scale.metrics import ERRORS, Matches

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2  # inches, a page's text width; half of it still reads
MARGINS = {"left": 0.32, "right": 0.04, "column": 0.06, "row": 0.06}  # inches
TITLE, HEAD, FOOT = 0.34, 0.19, 0.34  # inches: title, a line of column names, legend
WIDEST, LEAST = 2.4, 5.2  # inches: of a panel at most, of a page at least
DPI = 200
PAINT = 0.55  # opacity of colours over the raw image
LARGEST = 1024  # voxels a side of a drawn panel; larger sections are thinned
BAND = 1 << 16  # voxels whose colours are computed at a time: as floats they take 200 bytes each

# Colours that stay apart for colour-blind readers (Okabe and Ito).
ERROR_COLOURS = {
    "split": ((0.00, 0.45, 0.70), "cut off (split)"),
    "merge": ((0.84, 0.37, 0.00), "joined to another (merge)"),
    "missed": ((0.94, 0.89, 0.26), "not segmented"),
}


@dataclass(frozen=True)
class Section:
    """What is known of one section; all arrays [H, W] but for affinities [3, H, W]."""

    index: int
    """Number of the section in the source volume."""

    segmentation: np.ndarray
    raw: np.ndarray | None = None
    affinities: np.ndarray | None = None
    labels: np.ndarray | None = None


def draw_sections(
    path: Path,
    sections: Sequence[Section],
    *,
    title: str,
    matches: Matches | None = None,
    voxel_size: tuple[float, float, float] | None = None,
) -> None:
    """One row a section: raw, affinities, segmentation, ground truth, as far as they are there.

    Args:
        path: PNG file.
        sections: at least one; all with the same inputs and shape.
        title: one line over the panels.
        matches: colours a segment as the object whose largest part it is.
        voxel_size: (z, y, x) in nm, for the aspect and the scale bar.
    """
    columns = {}
    if sections[0].raw is not None:
        columns["raw"] = [_drawn(s, lambda gray, rows: gray) for s in sections]
    if sections[0].affinities is not None:
        columns["affinities\n(zyx as RGB)"] = [
            _bytes(np.moveaxis(s.affinities, 0, -1).clip(0, 1)) for s in sections
        ]
    columns["segmentation"] = [
        _painted(s, s.segmentation, keys=partial(_segment_keys, matches=matches)) for s in sections
    ]
    if sections[0].labels is not None:
        columns["ground truth"] = [_painted(s, s.labels, keys=_mix) for s in sections]
    figure, panels = _grid(sections, list(columns), voxel_size=voxel_size, title=title)
    for column, images in zip(panels.T, columns.values(), strict=True):
        for axes, image in zip(column, images, strict=True):
            _show(axes, image, voxel_size)
    if voxel_size is not None:
        _scale_bar(panels[-1, 0], sections[0].segmentation.shape, voxel_size)
    _save(figure, path)


def draw_errors(
    path: Path,
    sections: Sequence[Section],
    *,
    matches: Matches,
    title: str,
    voxel_size: tuple[float, float, float] | None = None,
) -> None:
    """One panel a section: what is cut off its object, joined to another, or left out.

    Args:
        path: PNG file.
        sections: at least one, with labels.
        matches: partners over the whole scored volume, not over a section.
        title: one line over the panels.
        voxel_size: (z, y, x) in nm, for the aspect and the scale bar.
    """
    figure, panels = _grid(
        [sections[0]],
        [f"section {s.index}" for s in sections],
        voxel_size=voxel_size,
        title=title,
        foot=FOOT,
        rows_named=False,
    )
    for axes, section in zip(panels[0], sections, strict=True):
        _show(axes, _drawn(section, partial(_mark_errors, section, matches)), voxel_size)
    _legend(figure)
    if voxel_size is not None:
        _scale_bar(panels[0, 0], sections[0].segmentation.shape, voxel_size)
    _save(figure, path)


def _grid(
    sections: Sequence[Section],
    columns: Sequence[str],
    *,
    voxel_size: tuple[float, float, float] | None,
    title: str,
    foot: float = 0.04,
    rows_named: bool = True,
) -> "tuple[Figure, np.ndarray]":
    """A figure of panels in a section's aspect; sizes are computed, so that nothing overlaps."""
    from matplotlib.figure import Figure

    _, y, x = voxel_size or (1, 1, 1)
    height, width = sections[0].segmentation.shape
    left = MARGINS["left"] if rows_named else MARGINS["right"]
    free = WIDTH - left - MARGINS["right"] - MARGINS["column"] * (len(columns) - 1)
    side = min(free / len(columns), WIDEST)
    tall = side * height * y / (width * x)
    head = 0.06 + HEAD * max(name.count("\n") + 1 for name in columns)
    total = TITLE + head + foot + len(sections) * (tall + MARGINS["row"])
    used = WIDTH - free + side * len(columns)
    page = max(used, LEAST if rows_named else WIDTH)  # the title fits, and the legend
    figure = Figure(figsize=(page, total), dpi=DPI)
    figure.text(0.5, 1 - 0.5 * TITLE / total, title, ha="center", va="center", fontsize=11)
    left += (page - used) / 2
    panels = np.empty((len(sections), len(columns)), dtype=object)
    for row, section in enumerate(sections):
        bottom = total - TITLE - head - tall - row * (tall + MARGINS["row"])
        for column, name in enumerate(columns):
            start = left + column * (side + MARGINS["column"])
            box = (start / page, bottom / total, side / page, tall / total)
            axes = panels[row, column] = figure.add_axes(box)
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(name, fontsize=10, pad=4)
            if column == 0 and rows_named:
                axes.set_ylabel(f"section {section.index}", fontsize=10, labelpad=4)
    return figure, panels


def _show(axes: "Axes", image: np.ndarray, voxel_size: tuple[float, float, float] | None) -> None:
    height, width = image.shape[:2]
    step = -(-max(height, width) // LARGEST)
    extent = (0, width, height, 0)
    axes.imshow(image[::step, ::step], extent=extent, aspect="auto", interpolation="nearest")


def _drawn(section: Section, colour: Callable[[np.ndarray, slice], np.ndarray]) -> np.ndarray:
    """A section as uint8 [H, W, 3], from what ``colour`` makes of some of its rows.

    Args:
        section: whose raw image lies below, contrast stretched; mid-gray where there is none.
        colour: of the gray image float [h, W, 3] in [0, 1] of the rows it is told.
    """
    height, width = section.segmentation.shape
    raw = np.broadcast_to(0.5, (height, width))
    low, high = 0.0, 1.0
    if section.raw is not None:
        raw = section.raw.astype(np.float32)
        low, high = np.percentile(raw, (0.5, 99.5))
    image = np.empty((height, width, 3), np.uint8)
    step = max(1, BAND // width)
    for first in range(0, height, step):
        rows = slice(first, min(first + step, height))
        gray = ((raw[rows] - low) / max(high - low, 1e-6)).clip(0, 1)
        gray = np.repeat(gray[..., None], 3, axis=2)
        image[rows] = _bytes(colour(gray, rows))
    return image


def _bytes(image: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] as the library that draws them would round them."""
    return (image * 255).astype(np.uint8)


def _mark_errors(section: Section, matches: Matches, gray: np.ndarray, rows: slice) -> np.ndarray:
    """Errors as colours over a paler image."""
    kinds = matches.errors(section.segmentation[rows], section.labels[rows])
    image = gray * 0.6 + 0.4
    for name, (colour, _) in ERROR_COLOURS.items():
        wrong = kinds == ERRORS.index(name)
        image[wrong] = 0.3 * image[wrong] + 0.7 * np.array(colour)
    return image


def _segment_keys(segmentation: np.ndarray, matches: Matches | None) -> np.ndarray:
    """What colours each voxel: its object if this is the object's largest part, else itself."""
    segments, place = np.unique(segmentation, return_inverse=True)
    keys = _mix(segments.astype(np.uint64) + np.uint64(1 << 40))
    if matches is not None:
        target = np.searchsorted(matches.segments, segments).clip(max=matches.segments.size - 1)
        objects = matches.object_of[target]
        mutual = matches.segment_of[np.searchsorted(matches.objects, objects)] == segments
        keys = np.where(mutual, _mix(objects), keys)
    return keys[place].reshape(segmentation.shape)


def _mix(ids: np.ndarray) -> np.ndarray:
    """Ids scattered over 64 bits, so that neighbouring ids get colours far apart."""
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)


def _painted(
    section: Section, ids: np.ndarray, *, keys: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Ids as colours over the section, id 0 unpainted, with a dark line between ids."""
    from matplotlib.colors import hsv_to_rgb

    edge = np.zeros(ids.shape, dtype=bool)
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]

    def paint(gray: np.ndarray, rows: slice) -> np.ndarray:
        own, key = ids[rows], keys(ids[rows])
        parts = [((key >> np.uint64(shift)) & np.uint64(0xFFFF)) / 0xFFFF for shift in (48, 32, 16)]
        hsv = np.stack([parts[0], 0.45 + 0.5 * parts[1], 0.75 + 0.25 * parts[2]], axis=-1)
        image = np.where((own != 0)[..., None], (1 - PAINT) * gray + PAINT * hsv_to_rgb(hsv), gray)
        image[edge[rows]] *= 0.45
        return image

    return _drawn(section, paint)


def _legend(figure: "Figure") -> None:
    from matplotlib.patches import Patch

    figure.legend(
        handles=[Patch(color=colour, label=text) for colour, text in ERROR_COLOURS.values()],
        loc="lower center",
        ncols=len(ERROR_COLOURS),
        fontsize=10,
        frameon=False,
        borderaxespad=0.2,
        columnspacing=1.5,
    )


def _scale_bar(
    axes: "Axes", shape: tuple[int, int], voxel_size: tuple[float, float, float]
) -> None:
    """A round length of at most a quarter of the panel, white with a dark rim, in its corner."""
    from matplotlib.patheffects import withStroke

    height, width = shape
    target = width * voxel_size[2] / 4
    power = 10 ** np.floor(np.log10(target))
    length = max(factor * power for factor in (1, 2, 5) if factor * power <= target)
    text = f"{length / 1000:g} \u00b5m" if length >= 1000 else f"{length:g} nm"
    long, x, y = length / voxel_size[2], 0.05 * width, 0.94 * height
    rim = {"color": "white", "path_effects": [withStroke(linewidth=5, foreground="black")]}
    axes.plot([x, x + long], [y, y], linewidth=3, **rim)
    rim["path_effects"] = [withStroke(linewidth=2, foreground="black")]
    axes.text(x, y - 0.02 * height, text, fontsize=9, va="bottom", **rim)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def _save(figure: "Figure", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
