"""Agglomeration of fragments by waterz, the paper's method; the only door to that package."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.postprocess import watershed
from tokenunify_scale.registry import POSTPROCESS

# Paper: "50 % quantile, 256 bins" is this library's default template, whose edges start from their
# single highest affinity; noise on a membrane then merges. "median" is the quantile of all of them.
SCORING = {
    "paper": "OneMinus<HistogramQuantileAffinity<RegionGraphType, 50, ScoreValue, 256, true>>",
    "median": "OneMinus<HistogramQuantileAffinity<RegionGraphType, 50, ScoreValue, 256, false>>",
    "mean": "OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>",
}
COMPILED_BINS = (0, 256)


@dataclass(frozen=True, kw_only=True)
class WaterzConfig:
    """How fragments are made and joined."""

    scoring: Literal["paper", "median", "mean"] = "paper"
    """Score of an edge between two fragments: 1 - affinity, of which affinity is taken the
    median of the highest of each first contact (paper), the median of all, or the mean."""

    threshold: float = 0.5
    """Fragments are joined up to this score; lower gives more and smaller segments."""

    bins: int = 256
    """Bins of the queue of merges; 0 sorts exactly, slower."""

    fragments: Literal["sections", "volume"] = "sections"
    """Watershed of each section on its own, or of the volume in three dimensions."""

    boundary: float = 0.5
    """Boundary value (1 - affinity) from which on a voxel cannot be a seed of a fragment."""

    attach: Literal["edges", "flood"] = "edges"
    """Boundary voxels join the fragment their strong edges lead to, or as the watershed floods
    them (the paper's way, which needs ground truth with gaps between neurons)."""

    def __post_init__(self) -> None:
        """Refuse what the library cannot do without a compiler, and values outside [0, 1]."""
        if self.bins not in COMPILED_BINS:
            raise ConfigError(f"bins is {self.bins}; waterz has been compiled for {COMPILED_BINS}")
        for name in ("threshold", "boundary"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected within [0, 1]")


def segment(config: WaterzConfig, affinities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Segment a volume held in memory.

    Args:
        config: scoring, threshold and fragments.
        affinities: [3, D, H, W] in [0, 1]; channel c at p is the edge (p, p - e_c).

    Returns:
        Segmentation and fragments, both [D, H, W] uint64. Segment ids are ids of fragments.

    Raises:
        DataError: affinities of a wrong shape, with NaN or outside [0, 1].
        HostError: waterz is not installed.

    Source: the paper's inference (waterz, 50 % quantile, threshold 0.5, 256 bins).
    """
    library = _waterz()
    affinities = watershed.check_affinities(affinities)
    pieces = watershed.fragments(
        affinities, threshold=config.boundary, mode=config.fragments, attach=config.attach
    )
    segmentation = pieces.copy()  # waterz writes its result over the fragments it is given
    with _silence():
        results = library.agglomerate(
            affinities,
            [config.threshold],
            fragments=segmentation,
            scoring_function=SCORING[config.scoring],
            discretize_queue=config.bins,
        )
        for _ in results:  # one threshold, one result: ``segmentation`` itself
            pass
    return segmentation, pieces


def _waterz() -> ModuleType:
    try:
        import waterz
    except ImportError as error:
        raise HostError(f"waterz is not installed ({error}): pip install waterz") from None
    return waterz


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what waterz prints, from Python and from C++, off standard output."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            os.dup2(nowhere.fileno(), 1)
            try:
                yield
            finally:
                os.dup2(kept, 1)
    finally:
        os.close(kept)


POSTPROCESS.add("waterz", segment, WaterzConfig(), source="the paper's inference; waterz")
