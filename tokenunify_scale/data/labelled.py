"""Crops of several labelled volumes in one stream."""

from collections.abc import Sequence

import numpy as np
import torch

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.augment import generator
from tokenunify_scale.data.crops import LabelledBatch, LabelledCrops

CHOICE = 1  # one word more than the places of crops have: other random numbers


class LabelledMix:
    """Crops of volumes in turn by chance, by their sizes; a pure function of seed and position."""

    def __init__(self, sources: Sequence[LabelledCrops], *, seed: int) -> None:
        """Check that they are alike.

        Args:
            sources: at least one; crops of one size.
            seed: of the choice among them.

        Raises:
            ConfigError: none, or crops of several sizes.
        """
        if not sources or len({source.inner for source in sources}) > 1:
            raise ConfigError(f"{len(sources)} labelled volumes, which must give crops of one size")
        self.sources, self.seed = list(sources), seed
        self.inner = sources[0].inner
        voxels = np.array([np.prod(source.box.shape, dtype=np.float64) for source in sources])
        self._ends = np.cumsum(voxels / voxels.sum())

    def source_of(self, position: int) -> int:
        """Which of the volumes the crop at ``position`` comes from."""
        if len(self.sources) == 1:
            return 0
        rng = generator(self.seed, position, len(self.sources), CHOICE)
        return int(np.searchsorted(self._ends[:-1], rng.random(), side="right"))

    def batch(self, position: int, size: int) -> LabelledBatch:
        """The ``size`` crops at ``position`` and after, with their labels."""
        positions = range(position, position + size)
        parts = [self.sources[self.source_of(p)].batch(p, 1) for p in positions]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
