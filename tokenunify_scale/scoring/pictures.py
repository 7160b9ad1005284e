"""Pictures of what was scored, read from disk as far as they show it."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.figures import LARGEST, Section, draw_errors, draw_sections
from tokenunify_scale.metrics import Matches, Mistake, Overlaps
from tokenunify_scale.postprocess.source import open_affinities
from tokenunify_scale.scoring.inputs import Inputs
from tokenunify_scale.scoring.parts import steps_for, thin
from tokenunify_scale.volumes.geometry import Box, Triple

log = logging.getLogger(__name__)
DRAWN = 3  # sections in a picture
SOLID_VOXELS = 1 << 23  # that neurons are rendered from
PAGE_VOXELS = 1 << 25  # of a page: of a larger volume it shows a crop
NEURONS = 6  # in a picture, unless some are named
POINTS = 40  # mistakes that a page lists


def draw(
    folder: Path,
    inputs: Inputs,
    *,
    affinities: str | None,
    title: str,
    matches: Matches | None,
) -> None:
    """sections.png and, where there are labels, errors.png.

    Args:
        folder: to write to.
        inputs: what was scored.
        affinities: a predict folder or a spec, shown beside the sections.
        title: a line over the panels.
        matches: which segment is which object.

    Raises:
        DataError: the affinities do not cover what was scored, or mean something else.
    """
    depth, height, width = inputs.box.shape
    step = -(-max(height, width) // LARGEST)
    count = min(DRAWN, depth)
    chosen = [int((i + 0.5) * depth / count) for i in range(count)]
    sections = [_section(inputs, z, step=step, affinities=affinities) for z in chosen]
    size = inputs.voxel_size
    size = size and (size[0], size[1] * step, size[2] * step)
    picture = {"title": title, "matches": matches, "voxel_size": size}
    draw_sections(folder / "sections.png", sections, **picture)
    if inputs.labels is not None:
        draw_errors(folder / "errors.png", sections, **picture)


def check_affinities(spec: str, box: Box) -> None:
    """Refuse affinities that do not hold a box.

    Raises:
        DataError: no such file, another convention, or they lie elsewhere.
    """
    _affinities(spec, box)


def neurons_of(every: Overlaps, mistakes: Sequence[Mistake]) -> dict[int, str]:
    """Segments to render, and why: pieces of split objects, merges, and the largest ones."""
    found: dict[int, str] = {}
    for kind in ("split", "merge"):
        for mistake in [one for one in mistakes if one.kind == kind][:1]:
            pieces = [one for one, _ in mistake.partners if one != 0][:2]
            ids = [mistake.id] if kind == "merge" else pieces
            why = f"pieces of object {mistake.id}" if kind == "split" else "the worst merge"
            found |= {one: why for one in ids if one not in found and one > 0}
    segments, inverse = np.unique(every.segments, return_inverse=True)
    sizes = np.bincount(inverse, weights=every.counts)
    order = segments[np.argsort(-sizes, kind="stable")]
    for one in order[order > 0][:NEURONS].tolist():
        if len(found) < NEURONS:
            found.setdefault(one, "the largest")
    return found


def draw_neurons(
    path: Path, inputs: Inputs, named: dict[int, str], *, matches: Matches | None
) -> None:
    """neurons.png, from every so many voxels where the volume is large.

    Args:
        path: of the PNG.
        inputs: what was scored.
        named: segments, and why they are shown; one that is lost between the voxels is not.
        matches: colours a segment as the other pictures do.
    """
    from tokenunify_scale.viewer.colours import segment_colours
    from tokenunify_scale.viewer.meshes import render_neurons

    size = inputs.voxel_size or (1.0, 1.0, 1.0)
    steps = steps_for(inputs.box.shape, voxel_size=size, voxels=SOLID_VOXELS)
    solid = _thin(inputs.read_segmentation, inputs, inputs.box, steps)
    ids = [one for one in named if (solid == one).any()]
    if lost := set(named) - set(ids):
        log.warning("%s: %s, too thin for every %s voxels", path.name, lost, steps)
    if ids:
        sides = tuple(side * step for side, step in zip(size, steps, strict=True))
        title = f"Segments: {', '.join(dict.fromkeys(named[one] for one in ids))}"
        colours = segment_colours(np.array(ids, dtype=solid.dtype), matches=matches)
        render_neurons(path, solid, ids, voxel_size=sides, title=title, colours=colours)


def write_page(
    path: Path,
    inputs: Inputs,
    *,
    title: str,
    matches: Matches | None,
    mistakes: Sequence[tuple[Mistake, Triple]],
) -> None:
    """viewer.html of what was scored, or of a crop around the worst mistake if that is large."""
    from tokenunify_scale.viewer.page import write_viewer

    ranked = sorted(mistakes, key=lambda found: -found[0].voi)
    box = page_box(inputs.box, around=ranked[0][1] if ranked else None)
    start, stop = (",".join(map(str, corner)) for corner in (box.start, box.stop))
    points = [
        {**dict(zip("zyx", place, strict=True)), "text": f"{m.kind} {m.id}: VOI {m.voi:.4f}"}
        for m, place in ranked[:POINTS]
    ]
    write_viewer(
        path,
        raw=None if inputs.raw is None else inputs.read_raw(box),
        segmentation=inputs.read_segmentation(box),
        labels=None if inputs.labels is None else inputs.read_labels(box),
        voxel_size=inputs.voxel_size,
        title=title if box == inputs.box else f"{title} (crop {start} to {stop})",
        origin=box.start,
        matches=matches,
        points=points,
    )


def fits_page(box: Box) -> bool:
    """Whether a page shows all of a box."""
    return math.prod(box.shape) <= PAGE_VOXELS


def page_box(box: Box, *, around: Triple | None) -> Box:
    """A box, or if it is too large for a page a crop of it around a voxel, or its middle."""
    shape = list(box.shape)
    while math.prod(shape) > PAGE_VOXELS:
        axis = shape.index(max(shape))
        shape[axis] = -(-shape[axis] // 2)
    middle = around or [(a + b) // 2 for a, b in zip(box.start, box.stop, strict=True)]
    spans = zip(middle, shape, box.start, box.stop, strict=True)
    z, y, x = (min(max(at - side // 2, a), b - side) for at, side, a, b in spans)
    return Box.of((shape[0], shape[1], shape[2])).shift((z, y, x))


def _section(inputs: Inputs, z: int, *, step: int, affinities: str | None) -> Section:
    """One section, ``z`` sections behind the first, thinned to what a panel shows."""
    first = inputs.box.start[0] + z
    box = Box((first, *inputs.box.start[1:]), (first + 1, *inputs.box.stop[1:]))
    steps = (1, step, step)
    read = {
        "segmentation": inputs.read_segmentation,
        "raw": inputs.read_raw if inputs.raw is not None else None,
        "labels": inputs.read_labels if inputs.labels is not None else None,
        "affinities": None if affinities is None else _affinities(affinities, box),
    }
    found = {
        name: None if one is None else _thin(one, inputs, box, steps)[..., 0, :, :]
        for name, one in read.items()
    }
    return Section(index=first, **found)


def _thin(read: Callable[[Box], np.ndarray], inputs: Inputs, box: Box, steps: Triple) -> np.ndarray:
    return thin(read, box, steps=steps, parts=inputs.parts(box))


def _affinities(spec: str, box: Box) -> Callable[[Box], np.ndarray]:
    """What reads the nearest affinities [3, D, H, W] of boxes in source voxels, within ``box``."""
    opened = open_affinities(spec)
    z, y, x = (int(o) for o in opened.attributes.get("offset", (0, 0, 0)))
    whole = Box.of(opened.sides).shift((z, y, x))
    if not whole.contains(box):
        raise DataError(
            f"{spec} covers voxels {whole.start} to {whole.stop} of the source volume, "
            f"{box.start} to {box.stop} are shown (zyx)"
        )
    return lambda part: opened.read(part.shift((-z, -y, -x)), channels=slice(0, 3))
