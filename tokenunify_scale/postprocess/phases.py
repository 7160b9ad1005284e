"""The methods in two phases, so that one code serves whole volumes and blocks of larger ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenunify_scale.postprocess import agglomerate, multicut, mutex, watershed, waterz
from tokenunify_scale.postprocess.edges import Needed
from tokenunify_scale.registry import POSTPROCESS


@dataclass(frozen=True)
class Phases:
    """What a method does with a block, and with the region graph of all blocks."""

    fragments: Callable
    """``fragments(config, affinities [C, D, H, W], *, offsets)``: uint64 [D, H, W], 1 to n, 0 is
    none."""
    solve: Callable
    """``solve(config, contacts, nodes)``: for each threshold (or None) the segment of each node."""
    bytes_a_voxel: int
    """Peak memory of segmenting a whole volume, beside its affinities."""


METHODS = {
    "waterz": Phases(watershed.fragments, waterz.solve, waterz.BYTES_A_VOXEL),
    "multicut": Phases(watershed.fragments, multicut.solve, multicut.BYTES_A_VOXEL),
    "mutex": Phases(mutex.fragments, mutex.solve, mutex.BYTES_A_VOXEL),
}


def phases(name: str) -> Phases:
    """The phases of the method ``name`` of POSTPROCESS.

    Raises:
        ConfigError: an unknown method; the message has the nearest name and the list.
    """
    return METHODS[POSTPROCESS.get(name).name]


def needed(config: Any) -> Needed:
    """What of the histograms of a region graph a method reads."""
    if not isinstance(config, waterz.WaterzConfig):
        return "sums"
    return agglomerate.needed(config.scoring)


def check_graph(config: Any) -> None:
    """Refuse, before long work, a config whose method cannot work on the graph of blocks.

    Raises:
        ConfigError: waterz with a template of the library as its scoring.
    """
    if isinstance(config, waterz.WaterzConfig):
        waterz.check_graph(config)
