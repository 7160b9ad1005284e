"""Neurons in three dimensions, as a picture."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.viewer.colours import distinct_colours
from tokenunify_scale.viewer.raster import depth_buffer, shade
from tokenunify_scale.viewer.surface import Surface, surface_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VIEW = (-32.0, -24.0)  # degrees: turned about the y axis, then seen from above
WIDTH, DPI = 7.2, 200  # inches, dots an inch
FINER = 2  # pixels are drawn so much finer each way, and averaged
SIDE = 1000  # pixels of the picture's longer side
ROOM = 0.055  # of that side, around the box, for its labels
NAMED = 14  # neurons in the legend at most
LINE = np.array([0.55, 0.58, 0.62])  # of the box


def render_neurons(
    path: Path,
    segmentation: np.ndarray,
    ids: Sequence[int],
    *,
    voxel_size: tuple[float, float, float],
    title: str,
    colours: np.ndarray | None = None,
) -> None:
    """Draw the surfaces of chosen segments in the box around them, all axes to one scale.

    Args:
        path: PNG file.
        segmentation: [D, H, W] integer ids.
        ids: at least one, each in the segmentation; the largest first reads best.
        voxel_size: (z, y, x) in nm.
        title: one line.
        colours: [N, 3] uint8 in the order of ``ids``; None takes colours that
            are told apart, not those of the page.

    Raises:
        DataError: an id is not in the segmentation, or none is asked for.
    """
    if segmentation.ndim != 3 or not len(ids):
        raise DataError(f"{len(ids)} ids of a segmentation {segmentation.shape}: nothing to draw")
    wanted = np.array(ids, dtype=np.uint64)
    limit = np.iinfo(segmentation.dtype).max if segmentation.dtype.kind in "iu" else 1
    surfaces = []
    for segment in wanted.tolist():
        fits = segment <= limit
        found = surface_of(segmentation, segment, voxel_size=voxel_size) if fits else None
        if found is None:
            raise DataError(f"segment {segment} is not in the segmentation; nothing was drawn")
        surfaces.append(found)
    if colours is None:
        colours = distinct_colours(len(wanted))
    image, camera = _render(surfaces, np.asarray(colours) / 255)
    _page(path, image, camera, title=title, names=_names(wanted, surfaces), colours=colours)


class _Camera:
    """A parallel projection that fits a box (nm, zyx) into a picture."""

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        turn, tilt = np.radians(VIEW)
        about_y = np.array(
            [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
        )
        about_x = np.array(
            [[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]]
        )
        self.low, self.high = low, high
        self.rotation = about_x @ about_y
        self.corners = np.array(list(itertools.product(*zip(low, high, strict=True))))
        seen = self.turned(self.corners)[:, :2]
        extent = np.ptp(seen, axis=0)
        self.scale = SIDE * (1 - 2 * ROOM) / extent.max()  # pixels of the picture per nm
        self.size = extent * self.scale + 2 * ROOM * SIDE  # across, down
        self.shift = ROOM * SIDE - seen.min(axis=0) * self.scale

    def turned(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (z, y, x) as (right, down, away)."""
        return vectors[:, ::-1] @ self.rotation.T

    def pixels(self, places: np.ndarray, *, finer: int = 1) -> np.ndarray:
        """Places (nm, zyx) as pixel coordinates (right, down, away)."""
        seen = self.turned(places) * self.scale
        seen[:, :2] += self.shift
        return seen * finer


def _render(surfaces: list[Surface], colours: np.ndarray) -> tuple[np.ndarray, _Camera]:
    """The picture [rows, columns, 3] of all surfaces, and how it was taken."""
    vertices = np.concatenate([surface.vertices for surface in surfaces])
    boxes = np.stack([surface.box for surface in surfaces])
    camera = _Camera(boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0))
    first = np.cumsum([0, *(len(surface.vertices) for surface in surfaces)])
    faces = np.concatenate([s.faces + a for s, a in zip(surfaces, first, strict=False)])
    normals = camera.turned(np.concatenate([surface.normals for surface in surfaces]))
    owner = np.repeat(np.arange(len(surfaces)), [len(s.faces) for s in surfaces])
    points = camera.pixels(vertices, finer=FINER)
    # Surfaces are closed: triangles that all turn away are hidden by others.
    towards = (normals[faces][..., 2] < 0.2).any(axis=1)
    faces, owner = faces[towards], owner[towards]
    columns, rows = np.ceil(camera.size).astype(int) * FINER
    face, depth = depth_buffer(points, faces, shape=(rows, columns))
    image = shade(face, depth, points=points, faces=faces, normals=normals, colours=colours[owner])
    _box(image, depth, camera)
    small = image.reshape(rows // FINER, FINER, columns // FINER, FINER, 3).mean(axis=(1, 3))
    return small, camera


def _edges() -> list[tuple[int, int, int]]:
    """Edges of a box: two corners in the order of ``itertools.product``, and their axis (zyx)."""
    return [
        (corner, corner | bit, axis)
        for axis, bit in enumerate((4, 2, 1))
        for corner in range(8)
        if not corner & bit
    ]


def _box(image: np.ndarray, depth: np.ndarray, camera: _Camera) -> None:
    """Draw the box's edges where nothing is before them."""
    corners = camera.pixels(camera.corners, finer=FINER)
    for a, b, _ in _edges():
        count = int(np.linalg.norm(corners[b] - corners[a])) + 2
        points = corners[a] + np.linspace(0, 1, count)[:, None] * (corners[b] - corners[a])
        across, down = np.floor(points[:, :2]).astype(int).T
        for right, below in itertools.product(range(FINER), repeat=2):
            rows = (down + below).clip(0, image.shape[0] - 1)
            columns = (across + right).clip(0, image.shape[1] - 1)
            free = points[:, 2] <= depth[rows, columns]
            image[rows[free], columns[free]] = LINE


def _page(
    path: Path,
    image: np.ndarray,
    camera: _Camera,
    *,
    title: str,
    names: list[str],
    colours: np.ndarray,
) -> None:
    """The picture with title, lengths, scale bar and legend; nothing overlaps."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows, columns = image.shape[:2]
    legend = 0.24 + 0.085 * max(map(len, names))  # inches
    free = WIDTH - legend
    width = free if columns >= rows else free * columns / rows
    tall = width * rows / columns
    height = max(tall, 0.19 * len(names)) + 0.42
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", fontsize=11)
    box = ((free - width) / 2 / WIDTH, (height - 0.42 - tall) / 2 / height)
    axes = figure.add_axes((*box, width / WIDTH, tall / height))
    axes.imshow(image, extent=(0, columns, rows, 0), interpolation="antialiased")
    axes.axis("off")
    _lengths(axes, camera)
    figure.legend(
        handles=[
            Patch(color=np.asarray(colour) / 255, label=name)
            for name, colour in zip(names[:NAMED], colours, strict=False)
        ]
        + [Patch(alpha=0, label=name) for name in names[NAMED:]],
        loc="center right",
        fontsize=8.5,
        frameon=False,
        handlelength=1.1,
        handleheight=1.1,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _lengths(axes: "Axes", camera: _Camera) -> None:
    """Say along an outer edge of the box what axis it is, and how long."""
    corners = camera.pixels(camera.corners)[:, :2]
    middle = corners.mean(axis=0)
    # For each axis, where its edge is looked for (right, down), and how the text lies there.
    sides = {
        0: ((-0.6, 1.0), {"ha": "right", "va": "top"}),
        1: ((-1.0, 0.0), {"ha": "right", "va": "center", "rotation": 90}),
        2: ((0.6, 1.0), {"ha": "left", "va": "top"}),
    }
    for axis, (towards, lies) in sides.items():
        found = [(corners[a] + corners[b]) / 2 for a, b, along in _edges() if along == axis]
        place = max(found, key=lambda spot: float((spot - middle) @ np.array(towards)))
        place = place + 0.012 * SIDE * np.array(towards)
        length = _length(float(camera.high[axis] - camera.low[axis]))
        axes.text(*place, f"{'zyx'[axis]}  {length}", fontsize=8.5, **lies)


def _length(nm: float) -> str:
    return f"{nm / 1000:.3g} \u00b5m" if nm >= 1000 else f"{nm:.3g} nm"


def _names(ids: np.ndarray, surfaces: list[Surface]) -> list[str]:
    """Ids with their sizes; of many the first, and how many more there are."""
    names = [
        f"{segment}  ({surface.voxels:,} voxel{'s' * (surface.voxels > 1)})"
        for segment, surface in zip(ids.tolist(), surfaces, strict=True)
    ]
    more = len(names) - NAMED
    return names if more <= 0 else [*names[:NAMED], f"and {more} more"]
