"""Agglomeration of fragments as waterz does it, the paper's method; the door to that package."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.postprocess.agglomerate import (
    agglomerate,
    needed,
    parse_score,
    segment_graph,
)
from tokenunify_scale.postprocess.contacts import Contacts
from tokenunify_scale.postprocess.watershed import Offset, Watershed, check_affinities, fragments
from tokenunify_scale.registry import POSTPROCESS

MEAN = "OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>"
QUANTILE = "OneMinus<HistogramQuantileAffinity<RegionGraphType, {}, ScoreValue, 256, {}>>"
MOST_BINS = 1 << 16
BYTES_A_VOXEL = 110  # sections of neuropil as fragments; the library needs as much


@dataclass(frozen=True, kw_only=True)
class WaterzConfig(Watershed):
    """How fragments are made and joined."""

    # Paper: "50 % quantile, 256 bins" is the library's default template, whose edges start from
    # their single highest affinity: one wrong voxel in a membrane merges. That is "paper".
    scoring: str = "median"
    """Score of a contact: 1 - affinity, of which is taken the mean, or a quantile of all
    affinities: q10 to q95 in steps of 5, median = q50; q50_max, q75_max...: the quantile of the
    highest of each pair of fragments, paper = q50_max; or a template of the library as written,
    which needs g++ and boost."""

    threshold: float | tuple[float, ...] = 0.5
    """Fragments are joined up to this score; lower gives more and smaller segments. Of several
    each gives a segmentation, in one pass."""

    bins: int = 256
    """Bins of the queue of merges; 0 sorts exactly, slower."""

    # Paper: 0. A contact of one voxel is then as sure as one of a thousand, and the first to merge.
    doubt: float = 3.0
    """Faces of just the threshold's affinity added to every contact: what is joined at last does
    not change by them, but large contacts are judged before small ones. 0 is the library itself."""

    def __post_init__(self) -> None:
        """Refuse an unknown scoring, values out of range, and doubt with a template."""
        Watershed.__post_init__(self)
        if not 0 <= self.bins <= MOST_BINS:
            raise ConfigError(f"bins is {self.bins}; expected within [0, {MOST_BINS}]")
        if self.doubt < 0:
            raise ConfigError(f"doubt is {self.doubt}; expected >= 0 faces")
        for value in thresholds(self) or (-1,):
            if not 0 <= value <= 1:
                raise ConfigError(f"threshold is {self.threshold}; expected within [0, 1]")
        if "<" not in self.scoring:
            parse_score(self.scoring)
        elif self.doubt:
            raise ConfigError(f"scoring is a template of the library, which has no doubt: set "
                              f"doubt to 0, not {self.doubt}")  # fmt: skip


def thresholds(config: WaterzConfig) -> tuple[float, ...]:
    """The thresholds asked for, ascending, each once."""
    asked = config.threshold if isinstance(config.threshold, tuple) else (config.threshold,)
    return tuple(sorted(set(asked)))


def segment(
    config: WaterzConfig, affinities: np.ndarray, *, offsets: Sequence[Offset]
) -> tuple[dict[float, np.ndarray], np.ndarray]:
    """Segment a volume held in memory.

    Args:
        config: scoring, thresholds and fragments.
        affinities: [C, D, H, W] in [0, 1]; channel c at p is the edge (p, p - offsets[c]), of
            which only the first three are read.
        offsets: of all channels, the first three the nearest along z, y, x.

    Returns:
        For each threshold, ascending, a segmentation, and the fragments, all [D, H, W] uint64.
        The id of a segment is that of one of its fragments.

    Raises:
        DataError: affinities of a wrong shape, with NaN or outside [0, 1].
        HostError: waterz or numba is not installed, or there is no compiler for the template.

    Source: the paper's inference (waterz, 50 % quantile, threshold 0.5, 256 bins).
    """
    affinities = check_affinities(affinities)[:3]
    if config.doubt:
        kept = needed(config.scoring)
        return segment_graph(
            affinities, fragments, solve, config=config, offsets=offsets, kept=kept
        )
    run = _runner(config)
    pieces = fragments(config, affinities, offsets=offsets)
    return run(affinities, pieces), pieces


def solve(config: WaterzConfig, contacts: Contacts, nodes: np.ndarray) -> dict[float, np.ndarray]:
    """Agglomerate a region graph: what ``segment`` does after the fragments.

    Args:
        config: scoring and thresholds.
        contacts: the region graph with what the scoring needs; it is used up.
        nodes: uint64 [N], all fragments' ids, ascending, without 0.

    Returns:
        For each threshold, ascending, the segment of each node, uint64 [N].

    Raises:
        ConfigError: the scoring is a template, which only the library can follow.
        HostError: numba is absent.
    """
    check_graph(config)
    return agglomerate(
        contacts,
        nodes,
        scoring=config.scoring,
        thresholds=thresholds(config),
        bins=config.bins,
        doubt=config.doubt,
    )


def check_graph(config: WaterzConfig) -> None:
    """Refuse what cannot be done on the graph of a volume that is cut in blocks.

    Raises:
        ConfigError: the scoring is a template of the library.
    """
    if "<" in config.scoring:
        raise ConfigError(
            f"scoring is the template {config.scoring!r}, which works on whole volumes in memory "
            "only; blocks take mean, median, paper, q10 to q95, q10_max to q95_max"
        )


def template(scoring: str) -> str:
    """The library's C++ type of a score, by its word or as written."""
    if "<" in scoring:
        return scoring
    score = parse_score(scoring)
    if score.quantile is None:
        return MEAN
    return QUANTILE.format(score.quantile, "true" if score.highest else "false")


def _runner(config: WaterzConfig):
    """The library, ready to join fragments, compiled if that is needed: before any long work."""
    library, function = _waterz(), template(config.scoring)
    options = {"scoring_function": function, "discretize_queue": config.bins}

    def run(affinities: np.ndarray, pieces: np.ndarray) -> dict[float, np.ndarray]:
        asked = thresholds(config)
        with _silence():
            # It writes each result over the fragments it is given.
            results = library.agglomerate(affinities, asked, fragments=pieces.copy(), **options)
            return {key: found.copy() for key, found in zip(asked, results, strict=True)}

    nothing = np.ones((3, 1, 1, 1), np.float32), np.ones((1, 1, 1), np.uint64)
    try:
        run(*nothing)
    except Exception as error:  # whatever a compiler and its driver raise
        raise HostError(
            f"waterz cannot compile scoring {function!r} with {config.bins} bins: it needs g++, "
            f"the boost headers and pip install witty ({type(error).__name__})"
        ) from None
    return run


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
