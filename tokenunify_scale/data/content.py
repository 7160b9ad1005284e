"""Random crops of volumes, anywhere or only where there is something to see."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.data.augment import generator, random_box
from tokenunify_scale.data.crops import CropReader
from tokenunify_scale.data.gray import (
    GrayMapping,
    check_finite,
    check_no_labels,
    find_mapping,
)
from tokenunify_scale.data.inputs import Source
from tokenunify_scale.data.shards.index import Sample
from tokenunify_scale.data.team import Team
from tokenunify_scale.volumes.geometry import Triple

IN_MEMORY = 512 << 20
"""Bytes of a source up to which a process reads it whole; a larger one is read crop by crop."""
TRIAL = 64 << 20
"""The same, where one crop is all that is wanted of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentConfig:
    """When a crop shows nothing: blank, padded, or saturated.

    The defaults are far from tissue: crops of 16x160x160 voxels of FIB-25, of a fly's nerve cord
    and of synthetic volumes stay below 0.02, below 0.001 and above 26 (8x32x32: 0.06, 0.02, 7).
    """

    flat: float = 0.3
    """Largest share of voxels that have the crop's commonest gray value."""
    saturated: float = 0.2
    """Largest share of voxels that are black (0) or white (255)."""
    contrast: float = 4.0
    """Smallest standard deviation, in gray levels of 256."""
    attempts: int = 1000
    """Places tried for one crop before its volume is refused."""

    def __post_init__(self) -> None:
        """Refuse what is no share, and contrasts that no crop has."""
        for name in ("flat", "saturated"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share within (0, 1], got {getattr(self, name)}")
        if not 0 <= self.contrast < 127.5 or self.attempts < 1:
            raise ValueError(
                f"contrast is within [0, 127.5), got {self.contrast}; attempts start at 1, "
                f"got {self.attempts}"
            )


def has_content(crop: np.ndarray, *, config: ContentConfig) -> bool:
    """Whether a uint8 crop of any shape shows something."""
    counts = np.bincount(crop.ravel(), minlength=256) / crop.size
    levels = np.arange(256)
    mean = counts @ levels
    return bool(
        counts.max() <= config.flat
        and counts[0] + counts[255] <= config.saturated
        and counts @ (levels - mean) ** 2 >= config.contrast**2
    )


class RandomCrops(Sequence[Sample]):
    """The samples of a request: ``count`` crops of each source, one source after another.

    Sample ``i`` is a function of the seed and ``i``, so any part can be written by anyone.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        mappings: Sequence[GrayMapping | None],
        count: int,
        crop: Triple,
        seed: int,
        content: ContentConfig | None = None,
        in_memory: int = IN_MEMORY,
    ) -> None:
        """Read nothing yet.

        Args:
            sources: each box holds a crop.
            mappings: how each becomes uint8.
            count: crops of each source.
            crop: size (z, y, x) in voxels.
            seed: of the places.
            content: places that show nothing are drawn again; None: all places are equal.
            in_memory: bytes of a source up to which it is read once, whole.
        """
        self.sources, self.mappings, self.count = sources, mappings, count
        self.crop, self.seed, self.content = crop, seed, content
        self.in_memory = in_memory
        self.tried = [0] * len(sources)
        self.found = [0] * len(sources)
        self._current: tuple[int, CropReader] | None = None

    def __len__(self) -> int:
        """Number of samples of all sources."""
        return self.count * len(self.sources)

    def __getitem__(self, sample: int) -> Sample:
        """The crop, uint8 [D, H, W], and the number of its volume and its box there.

        With ``content`` it says how many places were tried, too.

        Raises:
            DataError: no content in ``attempts`` places; says how many were tried so far.
        """
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)}")
        number, turn = divmod(sample, self.count)
        for attempt in range(self.content.attempts if self.content else 1):
            # A first attempt is where a uniform crop lies: to the generator a last 0 is nothing.
            rng = generator(self.seed, number, turn, attempt)
            within = self.sources[number].box
            box = random_box(rng, within.shape, crop=self.crop).shift(within.start)
            crop = self._reader(number).read(box)
            meta = {"volume": number, "box": [list(box.start), list(box.stop)]}
            if self.content is None:
                return crop, meta
            self.tried[number] += 1
            if has_content(crop, config=self.content):
                self.found[number] += 1
                return crop, {**meta, "tried": attempt + 1}
        path, rate = self.sources[number].volume.path, share(self.found[number], self.tried[number])
        raise DataError(
            f"{path}: practically no content: {self.content.attempts} places in a row are blank or "
            f"saturated ({rate} tried); try more with content.attempts, or --sample uniform"
        )

    def _reader(self, number: int) -> CropReader:
        """The reader of a source; only the latest is kept, and with it one volume in memory."""
        if self._current is None or self._current[0] != number:
            source, mapping = self.sources[number], self.mappings[number]
            reader = CropReader(
                source.volume, mapping=mapping, box=source.box, in_memory=self.in_memory
            )
            self._current = (number, reader)
        return self._current[1]


def share(found: int, tried: int) -> str:
    """A rate in words: ``3 of 4 (75 %)``."""
    return f"{found} of {tried} ({100 * found / max(1, tried):.3g} %)"


def check_source(source: Source, *, labels: Literal["refuse", "allow"]) -> None:
    """Look at a sample of a source, and at all of it where it is of floats that fit into memory.

    In a larger one a NaN elsewhere than in the sample is found when a crop meets it.

    Args:
        source: a raw volume.
        labels: what to do with integers that look like labels.

    Raises:
        DataError: NaN or infinity, or labels.
    """
    volume, box = source.volume, source.box
    if labels == "refuse":
        check_no_labels(volume, box=box)
    if math.prod(box.shape) * volume.dtype.itemsize <= IN_MEMORY:
        check_finite(volume, box=box)


def find_crops(
    sources: Sequence[Source],
    *,
    count: int,
    crop: Triple,
    seed: int,
    content: ContentConfig | None,
    percentiles: tuple[float, float],
    labels: Literal["refuse", "allow"],
    team: Team,
) -> RandomCrops:
    """The crops of a request, of sources that turn out to be fit for it.

    The first crop of each is read, so that what is hopeless ends before it is begun.

    Args:
        sources: raw volumes.
        count: as the next ones, see ``RandomCrops``.
        crop: zyx voxels.
        seed: of the places.
        content: or None.
        percentiles: of a sample of each source, what becomes black and white.
        labels: as in ``check_source``.
        team: the processes that share the work; all of them call this.

    Raises:
        DataError: as ``check_source``; no contrast, practically no content, or damaged.
    """

    def find(source: Source) -> GrayMapping | None:
        check_source(source, labels=labels)
        return find_mapping(source.volume, box=source.box, percentiles=percentiles)

    mappings = team.deal(sources, find)

    def crops(in_memory: int) -> RandomCrops:
        return RandomCrops(
            sources,
            mappings=mappings,
            count=count,
            crop=crop,
            seed=seed,
            content=content,
            in_memory=in_memory,
        )

    trial = crops(TRIAL)

    def look(number: int) -> None:
        trial[number * count]

    team.deal(range(len(sources)), look)
    return crops(IN_MEMORY)


def rate_lines(volumes: Sequence[dict], *, count: int) -> list[str]:
    """How often each volume shows something, where places were judged: a line for each.

    Args:
        volumes: as in index.json.
        count: crops of each.
    """
    told = [(volume["path"], volume["tried"]) for volume in volumes if "tried" in volume]
    return [f"{path}: content at {share(count, tried)} places tried" for path, tried in told]
