"""Mutex watershed: attraction and repulsion between voxels, strongest first, by bioimage-cpp."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tokenunify_scale.config import ConfigError
from tokenunify_scale.postprocess.agglomerate import agglomerate, segment_graph
from tokenunify_scale.postprocess.consistency import consistent
from tokenunify_scale.postprocess.contacts import Contacts
from tokenunify_scale.postprocess.multicut import load_library
from tokenunify_scale.postprocess.watershed import Offset, check_affinities
from tokenunify_scale.registry import POSTPROCESS

NEAREST = 3  # channels that attract
BYTES_A_VOXEL = 240  # with three long-range channels or none


@dataclass(frozen=True, kw_only=True)
class MutexConfig:
    """How voxels attract and repel each other, and how what comes of it is joined."""

    stride: tuple[int, int, int] = (1, 1, 1)
    """Of the long-range channels every so many voxels (z, y, x) repel. With 1, 3, 3 it is twice as
    fast and breaks thick membranes less, but a neurite a few voxels thin can be lost."""

    repair: int = 3
    """Rounds in which affinities of the nearest channels are overruled that contradict those
    around them; those of a true partition never are."""

    calm: float = 1.0
    """Standard deviation in voxels, in the plane, of the blurred affinities that decide half of
    the order in which edges are taken, not their sign: sharp affinities are all equally strong, and
    wrong ones would come as early as others. 0 takes the affinities alone."""

    threshold: float | tuple[float, ...] = 0.5
    """What the mutex watershed left apart is joined where the mean affinity of the contact is above
    1 - threshold, as between blocks of a large volume; 0 joins nothing. Of several each gives a
    segmentation."""

    doubt: float = 3.0
    """As waterz has it: large contacts are judged before small ones."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if min(self.stride) < 1:
            raise ConfigError(f"stride is {self.stride}; expected at least 1 voxel along each axis")
        for name in ("repair", "calm", "doubt"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected >= 0")
        for value in thresholds(self) or (-1,):
            if not 0 <= value <= 1:
                raise ConfigError(f"threshold is {self.threshold}; expected within [0, 1]")


def thresholds(config: MutexConfig) -> tuple[float, ...]:
    """The thresholds asked for, ascending, each once."""
    asked = config.threshold if isinstance(config.threshold, tuple) else (config.threshold,)
    return tuple(sorted(set(asked)))


def segment(
    config: MutexConfig, affinities: np.ndarray, *, offsets: Sequence[Offset]
) -> tuple[dict[float, np.ndarray], np.ndarray]:
    """Segment a volume held in memory.

    Args:
        config: order, repulsion and joining.
        affinities: [C, D, H, W] in [0, 1]; channel c at p is the edge (p, p - offsets[c]).
        offsets: of all channels, the first three the nearest along z, y, x.

    Returns:
        For each threshold, ascending, a segmentation, and what the mutex watershed alone gave, all
        [D, H, W] uint64.

    Raises:
        DataError: affinities of a wrong shape, with NaN or outside [0, 1].
        HostError: bioimage-cpp or numba is not installed.

    Source: Wolf et al. 2018, The mutex watershed.
    """
    affinities = check_affinities(affinities)
    return segment_graph(affinities, fragments, solve, config=config, offsets=offsets, kept="sums")


def fragments(
    config: MutexConfig, affinities: np.ndarray, *, offsets: Sequence[Offset]
) -> np.ndarray:
    """The mutex watershed of a volume.

    The nearest channels attract by their affinity; each further one repels by 1 - affinity. Where
    there is none, the nearest channels repel by theirs too, at every voxel: a partition of signed
    edges, which a network's thick membranes break into specks. Train long-range channels for it.

    Args:
        config: order and repulsion.
        affinities: [C, D, H, W] in [0, 1]; channel c at p is the edge (p, p - offsets[c]).
        offsets: of all channels, the first three the nearest along z, y, x.

    Returns:
        [D, H, W] uint64, ids consecutive from 1; every voxel has one.

    Raises:
        DataError: affinities of a wrong shape, with NaN or outside [0, 1].
        HostError: bioimage-cpp is not installed.
        ValueError: offsets that do not fit the channels.
    """
    library = load_library()
    affinities = check_affinities(affinities)
    if len(offsets) != len(affinities):
        raise ValueError(f"{len(affinities)} channels of affinities have {len(offsets)} offsets")
    near = _ordered(consistent(affinities[:NEAREST], rounds=config.repair), config.calm)
    far, apart, stride = affinities[NEAREST:], offsets[NEAREST:], config.stride
    if len(far):
        far = _ordered(far, config.calm)
    else:
        far, apart, stride = near, offsets[:NEAREST], None
    weights = np.concatenate([near, 1 - far])
    # The library's edge is (p, p + offset).
    steps = [[-step for step in offset] for offset in (*offsets[:NEAREST], *apart)]
    return library.segmentation.mutex_watershed(weights, steps, NEAREST, strides=stride)


def _ordered(affinities: np.ndarray, calm: float) -> np.ndarray:
    """Affinities on the same side of 0.5, closer to it where their surroundings differ."""
    if not calm:
        return affinities
    mixed = ndimage.gaussian_filter(affinities, (0, 0, calm, calm))
    mixed = (affinities + mixed) / 2
    low, high = np.float32(0.5 - 1e-3), np.float32(0.5 + 1e-3)
    return np.where(affinities > 0.5, np.maximum(mixed, high), np.minimum(mixed, low))


def solve(config: MutexConfig, contacts: Contacts, nodes: np.ndarray) -> dict[float, np.ndarray]:
    """Join segments of the mutex watershed by the mean affinity of their contacts.

    Args:
        config: thresholds and doubt.
        contacts: the region graph with sums; it is used up.
        nodes: uint64 [N], all ids, ascending, without 0.

    Returns:
        For each threshold, ascending, the segment of each node, uint64 [N].

    Raises:
        HostError: numba is absent.
    """
    return agglomerate(
        contacts, nodes, scoring="mean", thresholds=thresholds(config), doubt=config.doubt
    )


POSTPROCESS.add("mutex", segment, MutexConfig(), source="not in the paper; bioimage-cpp")
