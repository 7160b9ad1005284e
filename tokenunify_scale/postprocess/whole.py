"""Segment a volume that fits in memory."""

import time
from typing import Any, Literal

import numpy as np

from tokenunify_scale.postprocess.outcome import FRAGMENTS, Outcome, Segments, names
from tokenunify_scale.postprocess.relabel import compact, fill
from tokenunify_scale.postprocess.source import Affinities
from tokenunify_scale.registry import POSTPROCESS

Dissolve = Literal["nearest", "background"]


def segment_whole(
    source: Affinities, *, method: str, options: Any, min_size: int, dissolve: Dissolve
) -> Outcome:
    """Segment all at once, dissolve small segments and renumber the rest from 1.

    Args:
        source: of the affinities, which are read as a whole.
        method: a name of POSTPROCESS.
        options: its config.
        min_size: segments of fewer voxels are dissolved.
        dissolve: their voxels go to the nearest segment that stays, or to background 0.

    Raises:
        DataError: affinities that hold NaN, or values outside [0, 1].
        HostError: a package that the method needs is absent.
    """
    start = time.monotonic()
    found, fragments = POSTPROCESS.get(method).factory(
        options, source.read(), offsets=source.offsets
    )
    middle = time.monotonic()
    called = names(list(found), asked=getattr(options, "threshold", None))
    arrays: dict[str, np.ndarray] = {}
    segments: dict[str, Segments] = {}
    for threshold, name in called.items():
        joined = found.pop(threshold)
        array, removed = compact(joined, min_size=min_size)
        count = int(array.max())
        if removed and dissolve == "nearest":
            holes = (array == 0) & (joined != 0)
            array = fill(array, holes, voxel_size=source.voxel_size or (1.0, 1.0, 1.0))
        background = float(np.mean(array == 0))
        arrays[name], segments[name] = array, Segments(threshold, count, removed, background)
    arrays[FRAGMENTS] = fragments
    return Outcome(
        arrays,
        segments,
        fragments=int(np.count_nonzero(np.unique(fragments))),
        blocks=1,
        stages={"segment": middle - start, "finish": time.monotonic() - middle},
    )
