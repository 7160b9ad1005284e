"""Hierarchical agglomeration of a region graph: the partition waterz gives, without its voxels.

The library builds the graph from a volume in memory. Here the graph is given, as blocks of a volume
larger than memory add up to it, and the same merges follow in the same order.
"""

import re
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tokenunify_scale.config import ConfigError, HostError, did_you_mean
from tokenunify_scale.postprocess.edges import UNIT, Edges

QUANTILES = range(10, 100, 5)
NODES_LIMIT = 2**31 - 1


class Score(NamedTuple):
    """What of a contact's affinities is taken; its score is 1 minus that."""

    quantile: int | None
    """In percent; None is the mean."""
    highest: bool
    """Only the highest affinity of each pair of fragments counts, not all."""


def scorings() -> list[str]:
    """Every word that ``parse_score`` knows."""
    words = [f"q{q}{end}" for q in QUANTILES for end in ("", "_max")]
    return ["median", "mean", "paper", *words]


def parse_score(word: str) -> Score:
    """A score by its word: mean, median (q50), paper (q50_max), q10 to q95 in steps of 5, q10_max.

    Raises:
        ConfigError: another word.
    """
    if word == "mean":
        return Score(None, False)
    name = {"median": "q50", "paper": "q50_max"}.get(word, word)
    found = re.fullmatch(r"q(\d\d)(_max)?", name)
    if found is None or int(found[1]) not in QUANTILES:
        raise ConfigError(f"scoring is {word!r}: {did_you_mean(word, scorings())}")
    return Score(int(found[1]), found[2] is not None)


def agglomerate(
    edges: Edges,
    nodes: np.ndarray,
    *,
    scoring: str,
    thresholds: Sequence[float],
    bins: int = 256,
    doubt: float = 0.0,
) -> dict[float, np.ndarray]:
    """Join fragments, cheapest pair first, until the next costs a threshold or more.

    Args:
        edges: the region graph.
        nodes: uint64 [N], all fragments' ids, ascending and unique, without 0.
        scoring: a word of ``scorings``.
        thresholds: scores (1 - affinity) to stop at.
        bins: bins of the queue of merges; 0 sorts exactly.
        doubt: faces of affinity 1 - threshold added to each contact, so that one of many faces is
            joined before one of few with the same score; 0 is waterz.

    Returns:
        For each threshold, ascending, uint64 [N]: the least fragment of each node's segment.

    Raises:
        ConfigError: an unknown scoring.
        HostError: numba is absent.
        ValueError: an edge between fragments that ``nodes`` lacks, or too many fragments.

    Source: waterz, IterativeRegionMerging.hpp, whose queue and treatment of ties this follows.
    """
    score = parse_score(scoring)
    kernel = _kernel()
    if max(nodes.size, 2 * len(edges)) > NODES_LIMIT:
        raise ValueError(f"{nodes.size} fragments and {len(edges)} pairs; at most {NODES_LIMIT}")
    ends = np.searchsorted(nodes, edges.pairs)
    if len(edges) and not np.array_equal(nodes[np.minimum(ends, nodes.size - 1)], edges.pairs):
        raise ValueError("edges join fragments that are not among the nodes")
    ends = ends.astype(np.int32)
    quantile = kernel.MEAN if score.quantile is None else score.quantile
    asked = sorted(set(thresholds))
    found = {}
    # With doubt the order depends on the threshold, so that each takes a pass of its own.
    for several in [[value] for value in asked] if doubt else [asked]:
        how = (quantile, float(doubt), 1.0 - several[0])
        graph, scores = _graph(kernel, ends, nodes.size), _scores(kernel, edges, score)
        queue = kernel.queue_of(len(edges), bins=bins)
        kernel.start(scores, queue, *how)
        for value in several:
            kernel.merge_until(graph, scores, queue, np.float32(value), *how)
            found[value] = nodes[kernel.roots(graph)]
    return found


def segment_graph(
    affinities: np.ndarray,
    fragments: Callable[..., np.ndarray],
    solve: Callable[..., dict[Any, np.ndarray]],
    *,
    config: Any,
    offsets: Sequence[tuple[int, int, int]],
) -> tuple[dict[Any, np.ndarray], np.ndarray]:
    """Segment a volume in memory by way of its region graph.

    Args:
        affinities: [C, D, H, W] float32 in [0, 1].
        fragments: ``fragments(config, affinities, *, offsets)``, ids consecutive from 1.
        solve: ``solve(config, edges, nodes)``, the segments of all nodes by threshold.
        config: of the method.
        offsets: of all channels.

    Returns:
        Segmentations by threshold, and the fragments, all [D, H, W] uint64; 0 stays 0.
    """
    pieces = fragments(config, affinities, offsets=offsets)
    nodes = np.arange(1, int(pieces.max()) + 1, dtype=np.uint64)
    solved = solve(config, Edges.of(affinities, pieces), nodes)
    none = np.zeros(1, np.uint64)
    return {key: np.concatenate([none, ids])[pieces] for key, ids in solved.items()}, pieces


def _graph(kernel: ModuleType, ends: np.ndarray, nodes: int):
    """The kernel's graph, connected."""
    places = 1 << int(2 * len(ends) + 16).bit_length()  # at most half of the table is full
    graph = kernel.Graph(
        ends=ends.copy(),
        following=np.full(2 * len(ends), -1, np.int32),
        first=np.full(nodes, -1, np.int32),
        degree=np.zeros(nodes, np.int32),
        name=np.arange(nodes, dtype=np.int32),
        parent=np.arange(nodes, dtype=np.int32),
        keys=np.full(places, -1, np.int64),
        values=np.zeros(places, np.int32),
    )
    kernel.connect(graph)
    return graph


def _scores(kernel: ModuleType, edges: Edges, score: Score):
    """The kernel's scores: histograms only where a quantile is asked for."""
    count = len(edges)
    lengths = np.diff(edges.starts)
    if score.quantile is None:
        bins, times, lengths = np.zeros(0, np.int16), np.zeros(0, np.int64), np.zeros_like(lengths)
    elif score.highest:
        bins, times, lengths = edges.highest, np.ones(count, np.int64), np.ones_like(lengths)
    else:
        bins, times = edges.bins, edges.times
    begin = np.cumsum(lengths) - lengths
    spare = bins.size + 2 * 256 if bins.size else 0
    return kernel.Scores(
        value=np.zeros(count, np.float32),
        stale=np.zeros(count, bool),
        dead=np.zeros(count, bool),
        count=edges.count.copy(),
        total=edges.total / UNIT,
        begin=begin,
        length=lengths,
        entries=np.add.reduceat(times, begin) if bins.size else np.zeros(count, np.int64),
        bins=np.concatenate([bins.astype(np.int16), np.zeros(spare, np.int16)]),
        times=np.concatenate([times, np.zeros(spare, np.int64)]),
        used=np.array([bins.size], np.int64),
    )


def _kernel() -> ModuleType:
    try:
        from tokenunify_scale.ops import agglomerate_kernel
    except ImportError as error:
        raise HostError(
            f"agglomeration of a graph needs numba ({error}): pip install numba"
        ) from None
    return agglomerate_kernel
