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
from tokenunify_scale.postprocess.contacts import Contacts
from tokenunify_scale.postprocess.edges import Edges, Needed

QUANTILES = range(10, 100, 5)


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


def needed(scoring: str) -> Needed:
    """What of the histograms of a region graph a score reads, by its word."""
    score = parse_score(scoring)
    if score.quantile is None:
        return "sums"
    return "highest" if score.highest else "all"


def agglomerate(
    contacts: Contacts,
    nodes: np.ndarray,
    *,
    scoring: str,
    thresholds: Sequence[float],
    bins: int = 256,
    doubt: float = 0.0,
) -> dict[float, np.ndarray]:
    """Join fragments, cheapest pair first, until the next costs a threshold or more.

    Args:
        contacts: the region graph with what the scoring needs of the histograms; it is used up, as
            merges work in its arrays.
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
        ValueError: the graph keeps something else of its histograms.

    Source: waterz, IterativeRegionMerging.hpp, whose queue and treatment of ties this follows.
    """
    quantile, kernel = parse_score(scoring).quantile, _kernel()
    if contacts.kept != needed(scoring):
        raise ValueError(f"{scoring} needs {needed(scoring)} of histograms, not {contacts.kept}")
    asked = sorted(set(thresholds))

    def one_pass(contacts: Contacts, several: Sequence[float]) -> dict[float, np.ndarray]:
        how = (kernel.MEAN if quantile is None else quantile, float(doubt), 1.0 - several[0])
        graph, scores = _graph(kernel, contacts.ends, nodes.size), _scores(kernel, contacts)
        queue = kernel.queue_of(len(contacts), bins=bins)
        kernel.start(scores, queue, *how)
        found = {}
        for value in several:
            kernel.merge_until(graph, scores, queue, np.float32(value), *how)
            found[value] = nodes[kernel.roots(graph)]
        return found

    # With doubt the order depends on the threshold, so that each takes a pass of its own.
    *first, last = [[value] for value in asked] if doubt else [asked]
    found = {}
    for several in first:
        found |= one_pass(contacts.copy(), several)
    return found | one_pass(contacts, last)


def segment_graph(
    affinities: np.ndarray,
    fragments: Callable[..., np.ndarray],
    solve: Callable[..., dict[Any, np.ndarray]],
    *,
    config: Any,
    offsets: Sequence[tuple[int, int, int]],
    kept: Needed,
) -> tuple[dict[Any, np.ndarray], np.ndarray]:
    """Segment a volume in memory by way of its region graph.

    Args:
        affinities: [C, D, H, W] float32 in [0, 1].
        fragments: ``fragments(config, affinities, *, offsets)``, ids consecutive from 1.
        solve: ``solve(config, contacts, nodes)``, the segments of all nodes by threshold.
        config: of the method.
        offsets: of all channels.
        kept: what ``solve`` needs of the histograms.

    Returns:
        Segmentations by threshold, and the fragments, all [D, H, W] uint64; 0 stays 0.
    """
    pieces = fragments(config, affinities, offsets=offsets)
    nodes = np.arange(1, int(pieces.max()) + 1, dtype=np.uint64)
    solved = solve(config, Contacts.of(Edges.of(affinities, pieces), nodes, needed=kept), nodes)
    none = np.zeros(1, np.uint64)
    return {key: np.concatenate([none, ids])[pieces] for key, ids in solved.items()}, pieces


def _graph(kernel: ModuleType, ends: np.ndarray, nodes: int):
    """The kernel's graph, connected."""
    graph = kernel.Graph(
        ends=ends,
        following=np.full(2 * len(ends), -1, np.int32),
        first=np.full(nodes, -1, np.int32),
        degree=np.zeros(nodes, np.int32),
        name=np.arange(nodes, dtype=np.int32),
        parent=np.arange(nodes, dtype=np.int32),
        table=np.full(1 << (3 * len(ends) // 2 + 16).bit_length(), -1, np.int32),
    )
    kernel.connect(graph)
    return graph


def _scores(kernel: ModuleType, contacts: Contacts):
    """The kernel's scores."""
    pairs = len(contacts)
    # Of whole histograms the entries are the faces.
    counted = pairs if contacts.kept == "highest" else 0
    return kernel.Scores(
        value=np.zeros(pairs, np.float32),
        stale=np.zeros(pairs, bool),
        dead=np.zeros(pairs, bool),
        count=contacts.count,
        total=contacts.total,
        begin=contacts.begin,
        length=contacts.length,
        entries=np.ones(counted, contacts.count.dtype),
        bins=contacts.bins,
        times=contacts.times,
        used=np.array([contacts.used], np.int64),
    )


def _kernel() -> ModuleType:
    try:
        from tokenunify_scale.ops import agglomerate_kernel
    except ImportError as error:
        raise HostError(
            f"agglomeration of a graph needs numba ({error}): pip install numba"
        ) from None
    return agglomerate_kernel
