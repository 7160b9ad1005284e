"""One HTML file that shows a segmentation over its raw image, without a server or a network."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.metrics import Matches, Overlaps
from tokenunify_scale.metrics.overlaps import check_ids
from tokenunify_scale.viewer.colours import object_colours, segment_colours
from tokenunify_scale.viewer.embed import (
    Layer,
    bytes_each,
    differences,
    pack,
    points_inside,
    reduction,
    thin_ids,
    thin_raw,
    words,
)
from tokenunify_scale.volumes.geometry import Triple

LIMIT = 128 << 20  # bytes of the unpacked voxels: 250^3 with ground truth is 78 MB
SOURCES = ("data.js", "draw.js", "panels.js", "lists.js", "app.js")
UNKNOWN = -1  # number of a partner that was not scored


def write_viewer(
    path: Path,
    *,
    raw: np.ndarray | None,
    segmentation: np.ndarray,
    labels: np.ndarray | None = None,
    voxel_size: tuple[float, float, float] | None,
    title: str,
    origin: Triple = (0, 0, 0),
    matches: Matches | None = None,
    points: Sequence[Mapping[str, Any]] = (),
    limit: int = LIMIT,
) -> Triple:
    """Write a page that opens by a double click in a browser of 2023 or later.

    Args:
        path: of the HTML file; it appears when it is whole.
        raw: [D, H, W], best uint8; None shows the ids alone.
        segmentation: [D, H, W] integer ids; 0 is background and stays unpainted.
        labels: [D, H, W] ground truth; adds its own view, and one of the errors.
        voxel_size: (z, y, x) in nm; None shows voxels as cubes, without a scale.
        title: one line.
        origin: first voxel (z, y, x) of the arrays in the source volume.
        matches: which segment is which object; None finds it from ``labels`` without their 0.
        points: places to go to, each with z, y, x (voxels of the source volume) and text.
        limit: bytes of unpacked voxels in the page; more are thinned, and the page says so.

    Returns:
        How many voxels (z, y, x) became one: (1, 1, 1) where none were left out.

    Raises:
        DataError: shapes differ, the volume is empty, or ids are no integers or negative.
    """
    _check(segmentation, raw=raw, labels=labels)
    if labels is not None and matches is None:
        overlaps = Overlaps.of(segmentation, labels)
        matches = Matches.of(overlaps) if overlaps.counts.size else None
    sides = voxel_size or (1.0, 1.0, 1.0)
    volumes = [ids for ids in (segmentation, labels) if ids is not None]
    each = (raw is not None) + sum(map(bytes_each, volumes))
    factors = reduction(segmentation.shape, voxel_size=sides, each=each, limit=limit)
    blobs: dict[str, str] = {}
    told: dict[str, Any] = {
        "title": title,
        "shape": [-(-s // f) for s, f in zip(segmentation.shape, factors, strict=True)],
        "full": list(segmentation.shape),
        "factors": list(factors),
        "origin": [int(o) for o in origin],
        "voxelSize": voxel_size and [float(side) for side in voxel_size],
        "points": points_inside(points, shape=segmentation.shape, origin=origin),
        "layers": {},
    }
    if raw is not None:
        small, told["window"] = thin_raw(raw, factors=factors)
        blobs["raw"] = pack(differences(small))
    layers = {"segmentation": _layer(segmentation, "segmentation", factors)}
    if labels is not None:
        layers["labels"] = _layer(labels, "labels", factors)
    for name, layer in layers.items():
        told["layers"][name] = {"bytes": layer.index.itemsize, "count": int(layer.ids.size)}
        colours = (
            segment_colours(layer.ids, matches=matches)
            if name == "segmentation"
            else object_colours(layer.ids)
        )
        blobs |= {
            name: pack(layer.index),
            f"{name}-ids": pack(words(layer.ids)),
            f"{name}-colours": pack(colours),
        }
    told["errors"] = labels is not None and matches is not None
    if told["errors"]:
        partners = _partners(matches, layers["segmentation"], layers["labels"])
        for name, numbers in zip(("segmentation", "labels"), partners, strict=True):
            blobs[f"{name}-partners"] = pack(numbers)
    _write(path, told, blobs)
    return factors


def _check(segmentation: np.ndarray, *, raw: np.ndarray | None, labels: np.ndarray | None) -> None:
    """Refuse arrays that are not one volume, before anything is packed."""
    shape = segmentation.shape
    if len(shape) != 3 or not math.prod(shape):
        raise DataError(f"segmentation has shape {shape}; expected [D, H, W] with voxels in it")
    for name, other in (("raw", raw), ("labels", labels)):
        if other is not None and other.shape != shape:
            raise DataError(
                f"{name} has shape {other.shape} and the segmentation {shape}; "
                "they must be equal (zyx voxels)"
            )
    for name, ids in (("segmentation", segmentation), ("labels", labels)):
        if ids is not None:
            check_ids(name, ids.dtype)


def _layer(volume: np.ndarray, name: str, factors: Triple) -> Layer:
    return Layer.of(thin_ids(volume, factors=factors), name=name)


def _partners(matches: Matches, segments: Layer, objects: Layer) -> tuple[np.ndarray, np.ndarray]:
    """For each number of a layer that of its best partner in the other, -1 where unscored."""
    found = []
    tables = (
        (segments, matches.segments, matches.object_of, objects),
        (objects, matches.objects, matches.segment_of, segments),
    )
    for layer, ids, partners, other in tables:
        place = np.searchsorted(ids, layer.ids).clip(max=ids.size - 1)
        there = ids[place] == layer.ids
        found.append(np.where(there, other.places(partners[place]), UNKNOWN).astype(np.int32))
    return found[0], found[1]


def _write(path: Path, told: Mapping[str, Any], blobs: Mapping[str, str]) -> None:
    """Put style, script and data into the page."""
    folder = files("tokenunify_scale.viewer") / "page"
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in SOURCES)
    # No text of the user may end the script element that holds it.
    plain = json.dumps(told).replace("<", "\\u003c")
    data = [f'<script type="application/json" id="told">{plain}</script>']
    data += [
        f'<script type="text/plain" id="{name}">{text}</script>' for name, text in blobs.items()
    ]
    page = (folder / "page.html").read_text(encoding="utf-8")
    head, rest = page.split("<!-- DATA -->")
    head = head.replace("/* STYLE */", (folder / "style.css").read_text(encoding="utf-8"))
    head = head.replace("TITLE", html.escape(told["title"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(head)
        file.writelines(data)
        file.write(rest.replace("/* SCRIPT */", script))
    temporary.replace(path)
