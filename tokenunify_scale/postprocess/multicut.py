"""Multicut: the partition of the region graph with the least cost, by bioimage-cpp."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.postprocess.agglomerate import segment_graph
from tokenunify_scale.postprocess.contacts import Contacts
from tokenunify_scale.postprocess.watershed import Offset, Watershed, check_affinities, fragments
from tokenunify_scale.registry import POSTPROCESS

LEAST = 1e-3  # of a probability: its logarithm stays finite
BYTES_A_VOXEL = 110


@dataclass(frozen=True, kw_only=True)
class MulticutConfig(Watershed):
    """How fragments are made, and what cutting between them costs.

    The paper's ("LMC"): fragments sections, boundary_of weakest, boundary 0.25, smooth 2, repair 0,
    attach flood.
    """

    beta: float = 0.5
    """Boundary probability at which a contact is undecided; higher joins more."""

    weighting: Literal["size", "none"] = "size"
    """A contact's cost is multiplied by its faces, or counts once whatever its size."""

    solver: Literal["kernighan_lin", "greedy_additive", "greedy_fixation"] = "kernighan_lin"
    """Kernighan-Lin started from greedy additive contraction, or a greedy solver alone, faster."""

    def __post_init__(self) -> None:
        """Refuse a beta that is no probability within (0, 1)."""
        Watershed.__post_init__(self)
        if not 0 < self.beta < 1:
            raise ConfigError(f"beta is {self.beta}; expected within (0, 1)")


def segment(
    config: MulticutConfig, affinities: np.ndarray, *, offsets: Sequence[Offset]
) -> tuple[dict[None, np.ndarray], np.ndarray]:
    """Segment a volume held in memory.

    Args:
        config: fragments, costs and solver.
        affinities: [C, D, H, W] in [0, 1]; channel c at p is the edge (p, p - offsets[c]), of
            which only the first three are read.
        offsets: of all channels, the first three the nearest along z, y, x.

    Returns:
        The segmentation under the key None, as no threshold decides, and the fragments, both
        [D, H, W] uint64. The id of a segment is that of its first fragment.

    Raises:
        DataError: affinities of a wrong shape, with NaN or outside [0, 1].
        HostError: bioimage-cpp is not installed.

    Source: the paper's "LMC"; Beier et al. 2017, Multicut brings automated neurite segmentation.
    """
    load_library()
    affinities = check_affinities(affinities)[:3]
    return segment_graph(affinities, fragments, solve, config=config, offsets=offsets, kept="sums")


def solve(config: MulticutConfig, contacts: Contacts, nodes: np.ndarray) -> dict[None, np.ndarray]:
    """The least costly partition found of a region graph.

    Args:
        config: costs and solver.
        contacts: the region graph.
        nodes: uint64 [N], all fragments' ids, ascending, without 0.

    Returns:
        Under the key None, the segment of each node, uint64 [N]: its first node's id.

    Raises:
        HostError: bioimage-cpp is not installed.
    """
    if not len(contacts):
        return {None: nodes.copy()}
    graph = load_library().graph
    ends = contacts.ends.astype(np.uint64)
    region_graph = graph.UndirectedGraph.from_unique_edges(nodes.size, ends)
    objective = graph.multicut.MulticutObjective(region_graph, costs(config, contacts))
    if config.solver == "greedy_fixation":
        graph.multicut.GreedyFixationMulticut().optimize(objective)
    else:
        graph.multicut.GreedyAdditiveMulticut().optimize(objective)
    if config.solver == "kernighan_lin":
        graph.multicut.KernighanLinMulticut().optimize(objective)  # starts from the labels so far
    _, first, label = np.unique(objective.labels, return_index=True, return_inverse=True)
    return {None: nodes[first][label]}


def costs(config: MulticutConfig, contacts: Contacts) -> np.ndarray:
    """What cutting each contact costs: log of the odds that it is inside a neuron.

    Args:
        config: beta and weighting.
        contacts: the region graph.

    Returns:
        float64 [E]; positive is attractive.

    Source: log((1 - p) / p) + log((1 - beta) / beta) of the mean boundary probability p, weighted
        by size / largest size as in elf's multicut. The mean size here: the same solutions, but
        small contacts stay far from the solver's least gain.
    """
    joined = np.clip(contacts.mean, LEAST, 1 - LEAST)
    result = np.log(joined / (1 - joined)) - np.log((1 - config.beta) / config.beta)
    if config.weighting == "size":
        result *= contacts.count / contacts.count.mean()
    return result


def load_library() -> ModuleType:
    """The package bioimage_cpp with what this package uses of it.

    Raises:
        HostError: it is not installed.
    """
    try:
        import bioimage_cpp
        import bioimage_cpp.graph.multicut
        import bioimage_cpp.segmentation
    except ImportError as error:
        raise HostError(
            f"bioimage-cpp is not installed ({error}): pip install bioimage-cpp"
        ) from None
    return bioimage_cpp


POSTPROCESS.add("multicut", segment, MulticutConfig(), source="the paper's LMC; bioimage-cpp")
