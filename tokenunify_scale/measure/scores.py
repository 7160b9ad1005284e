"""How fast a segmentation is scored, beside scikit-image on the same arrays, and whether equal."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tokenunify_scale.measure.clock import medians
from tokenunify_scale.measure.report import Finding, table
from tokenunify_scale.metrics import Score, score
from tokenunify_scale.metrics.overlaps import threads
from tokenunify_scale.volumes.geometry import Triple
from tokenunify_scale.volumes.volume import open_volume

TILE = 256  # voxels in plane of the synthetic labels that a volume is tiled with
CELL, WAVE = 22, 5  # voxels: of a supervoxel's side, and of the bends in it
OURS, THEIRS = "ours", "scikit-image"
LIKE, RANDOM = "neurons and supervoxels", "random ids"
PART = 4  # random ids fill this part of the sections: scikit-image takes 4 GB for a quarter


def compare(shape: Triple, *, repeats: int) -> dict[str, Any]:
    """Seconds of both on labels like those of a lab, and on ids without any order.

    Args:
        shape: (z, y, x) voxels.
        repeats: turns; medians are reported.
    """
    score(np.ones(4, np.uint32), np.ones(4, np.uint32))  # compiles, or loads from the cache
    found = {}
    small = (-(-shape[0] // PART), *shape[1:])
    for name, make, sides in ((LIKE, supervoxels, shape), (RANDOM, random_ids, small)):
        labels, segmentation = make(sides)
        found[name] = _compare(labels, segmentation, repeats=repeats)
        del labels, segmentation
    return {"threads": threads(), "inputs": found}


def _compare(labels: np.ndarray, segmentation: np.ndarray, *, repeats: int) -> dict[str, Any]:
    results: dict[str, tuple[float, ...]] = {}

    def keep(name: str, work: Callable[..., tuple[float, ...]]) -> Callable[[], None]:
        def call() -> None:
            results[name] = work(segmentation, labels)

        return call

    works = {OURS: keep(OURS, ours), THEIRS: keep(THEIRS, theirs)}
    seconds = medians(works, repeats=repeats)
    pairs = zip(results[OURS], results[THEIRS], strict=True)
    return {
        "shape": list(labels.shape),
        "objects": int(labels.max()),
        "segments": int(segmentation.max()),
        "seconds": seconds,
        "difference": max(abs(a - b) for a, b in pairs),
    }


def ours(segmentation: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """VOI split and merge, adapted Rand error, precision and recall."""
    found: Score = score(segmentation, labels)
    return found.voi_split, found.voi_merge, found.arand, found.precision, found.recall


def theirs(segmentation: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """The same by scikit-image, in its two calls; it names precision and recall the other way."""
    from skimage.metrics import adapted_rand_error, variation_of_information

    split, merge = variation_of_information(labels, segmentation, ignore_labels=(0,))
    error, recall, precision = adapted_rand_error(labels, segmentation, ignore_labels=(0,))
    return float(split), float(merge), float(error), float(precision), float(recall)


def supervoxels(shape: Triple) -> tuple[np.ndarray, np.ndarray]:
    """Neurons with background between them, and a segmentation into pieces of sections.

    Synthetic labels of 256 x 256 voxels are repeated in plane under new ids. Pieces lie in the
    grown neurons, a voxel beside their true borders, so that both kinds of error occur.

    Args:
        shape: (z, y, x) voxels.

    Returns:
        Labels and segmentation, int64 [D, H, W] without gaps in their ids: what scikit-image takes
        as it is.
    """
    depth, height, width = shape
    spec = f"synthetic:seed=7,shape={max(depth, 8)}x{TILE}x{TILE},dataset=labels"
    with open_volume(spec) as volume:
        tile = volume.read()[:depth]
    z, y, x = np.indices(tile.shape, dtype=np.int32, sparse=True)
    rows = (y + WAVE * np.sin(x / 9)).astype(np.int32) // CELL + 2
    columns = (x + WAVE * np.sin(y / 7)).astype(np.int32) // CELL + 2
    cells = (z * TILE + rows) * TILE + columns
    pieces = np.roll(tile, 1, axis=2).astype(np.int64) * (cells.max() + 1) + cells
    tile = np.unique(tile, return_inverse=True)[1].reshape(tile.shape)
    pieces = np.unique(pieces, return_inverse=True)[1].reshape(tile.shape) + 1
    labels, segmentation = np.zeros((2, *shape), dtype=np.int64)
    starts = [(a, b) for a in range(0, height, TILE) for b in range(0, width, TILE)]
    for number, (a, b) in enumerate(starts):
        here = np.s_[:, a : a + TILE, b : b + TILE]
        cut = np.s_[:, : labels[here].shape[1], : labels[here].shape[2]]
        labels[here] = np.where(tile[cut] > 0, tile[cut] + number * tile.max(), 0)
        segmentation[here] = pieces[cut] + number * pieces.max()
    return labels, segmentation


def random_ids(shape: Triple) -> tuple[np.ndarray, np.ndarray]:
    """Ids without any order in space: what a run length cannot help with."""
    generator = np.random.default_rng(0)
    labels, segmentation = generator.integers(0, 1000, (2, *shape))
    return labels, segmentation


def scores_table(measured: dict[str, Any]) -> str:
    """The table of ``benchmark scores``."""
    rows = []
    for name, found in measured["inputs"].items():
        sides, voxels = "x".join(map(str, found["shape"])), math.prod(found["shape"])
        for who, seconds in found["seconds"].items():
            rate = f"{voxels / seconds / 1e6:,.0f}"
            rows.append([f"{name}, {sides}", who, f"{seconds:.2f}", rate])
    head = f"VOI and adapted Rand error, our threads: {measured['threads']}"
    return table([head, "", "s", "Mvoxels/s"], rows)


def scores_findings(measured: dict[str, Any]) -> list[Finding]:
    """What of ``benchmark scores`` has a target; random ids are told, not judged."""
    findings = []
    for name, found in measured["inputs"].items():
        ratio = found["seconds"][THEIRS] / found["seconds"][OURS]
        findings.append(Finding(f"scikit-image / ours, {name}", ratio, "scores", name == LIKE))
    largest = max(found["difference"] for found in measured["inputs"].values())
    return [*findings, Finding("largest difference of a score", largest, "equal scores")]
