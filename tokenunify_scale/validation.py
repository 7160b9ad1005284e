"""Segment and score a labelled region that training does not see, with the network as it stands."""

import itertools
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.affinities import widen_borders
from tokenunify_scale.data.crops import check_pair, relabel
from tokenunify_scale.data.gray import find_mapping, read_gray
from tokenunify_scale.data.reflect import grow, read_reflected
from tokenunify_scale.metrics import Score, score
from tokenunify_scale.models.tiling import Windows, blending_window
from tokenunify_scale.objectives.affinity import PREDICTION, AffinityConfig, compare
from tokenunify_scale.postprocess.waterz import WaterzConfig
from tokenunify_scale.registry import POSTPROCESS
from tokenunify_scale.train.distributed import on_main, sum_over_ranks
from tokenunify_scale.train.engine import Engine
from tokenunify_scale.train.held_out import PREFIX
from tokenunify_scale.volumes.geometry import Box, tiles
from tokenunify_scale.volumes.volume import Volume, open_volume, sections_box

LARGE = 1 << 26  # voxels, of which rank 0 needs 50 bytes each to segment them
JUDGE = PREFIX + "voi"
Cuts = tuple[float, ...]
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """What is segmented and scored while a network is trained, and how often."""

    volume: str | None = None
    """Where the sections are, if in another volume than the one trained on."""

    labels: str | None = None
    """The labels of that volume."""

    every: int | None = None
    """Steps between two validations; by default a tenth of the run."""

    thresholds: Cuts = (0.3, 0.5, 0.7)
    """Of the segmentation by waterz; the best of them is the score."""

    waterz: WaterzConfig = field(default_factory=WaterzConfig)
    """How it is segmented, besides the thresholds."""

    def __post_init__(self) -> None:
        """Refuse half of a pair, and numbers outside their ranges."""
        if (self.volume is None) != (self.labels is None):
            raise ValueError("volume and labels go together")
        if self.every is not None and self.every < 1:
            raise ValueError(f"every must be >= 1, got {self.every}")
        if not self.thresholds or not all(0 <= cut <= 1 for cut in self.thresholds):
            raise ValueError(f"thresholds must be within [0, 1], got {self.thresholds}")


class Region(NamedTuple):
    """Where to validate."""

    raw: Volume
    labels: Volume
    box: Box


def region_of(
    config: ValidationConfig,
    sections: tuple[int, int] | None,
    *,
    volume: Sequence[str],
    labels: Sequence[str],
    trained: tuple[int, int] | None,
) -> Region | None:
    """What is validated on, if anything is.

    Args:
        config: of the validation.
        sections: of its volume; None: all of another volume, of the same one nothing.
        volume: what is trained on; the first is the same one.
        labels: of them.
        trained: the sections of them that are trained on; None for all.

    Raises:
        ConfigError: sections that are trained on too, or are not in the volume.
        DataError: the volume or its labels cannot be read.
    """
    if sections is None and config.volume is None:
        return None
    spec = config.volume or volume[0]
    raw, truth = open_volume(spec), open_volume(config.labels or labels[0])
    box = sections_box(raw, sections)
    if os.path.abspath(spec) in map(os.path.abspath, volume):
        other = sections_box(raw, trained)
        if 0 not in other.intersect(box).shape:
            rest = (0, box.start[0]), (box.stop[0], raw.shape[0])
            start, stop = max(rest, key=lambda each: each[1] - each[0])
            raise ConfigError(
                f"{raw.path}: sections {box.start[0]} to {box.stop[0]} are validated on, and "
                f"{other.start[0]} to {other.stop[0]} trained on; they must not overlap: give "
                f"--sections {start}:{stop}"
            )
    return Region(raw, truth, box)


class Validation:
    """A labelled region: predicted tile by tile by all ranks, segmented and scored by rank 0.

    Scored as ``evaluate`` does it: against the labels as they are given, background 0 left out.
    """

    def __init__(
        self,
        region: Region,
        *,
        look: Windows,
        every: int,
        judge: ValidationConfig,
        config: AffinityConfig,
    ) -> None:
        """Check the pair, and read the region.

        Args:
            region: intensities, and integers >= 0 of the same shape; 0 is background.
            look: how the network sees it, as from ``windows`` for its shape.
            every: steps between two measurements.
            judge: how it is segmented; the best of its thresholds is reported.
            config: of the objective, for the loss.

        Raises:
            DataError: shapes differ, labels are no integers, negative, or all background.
        """
        raw, labels, box = region
        check_pair(raw, labels)
        if (voxels := math.prod(box.shape)) > LARGE:
            log.warning(
                "validation on %s voxels needs about %.0f GiB on rank 0 each time: %s of them do",
                f"{voxels:,}",
                50 * voxels / 2**30,
                f"{LARGE:,}",
            )
        self.labels = relabel(labels.read(box), name=labels.path)
        if not self.labels.any():
            raise DataError(f"{labels.path}: no labels, all 0, in {box}: nothing to validate on")
        seen = grow(box, look.margin).intersect(Box.of(raw.shape))
        self._raw = read_gray(raw, seen, mapping=find_mapping(raw))
        self._inside = box.shift(tuple(-start for start in seen.start))
        self._look, self._every, self._config = look, every, config
        self._options = replace(judge.waterz, threshold=judge.thresholds)

    def due(self, step: int, *, steps: int) -> bool:
        """Whether it is measured after ``step`` of ``steps``: every so often, and after the last.

        Not before the first: a fresh head predicts nothing worth a segmentation.
        """
        return step > 0 and (step % self._every == 0 or step == steps)

    def measure(
        self, engine: Engine, *, progress: float, asked: Callable[[], str | None]
    ) -> dict[str, float | None] | None:
        """Scores by name with ``held_out_`` before it; as ``train.held_out.Measure`` has it.

        Returns:
            The loss of the whole region, and of the best threshold: ``voi`` with ``voi_split`` and
            ``voi_merge`` in bits, ``arand``, ``threshold``. None for each where the prediction is
            not finite.
        """
        affinities = self._predict(engine, progress=progress, asked=asked)
        if affinities is None:
            return None
        found = on_main(engine.world, lambda: self._score(affinities))
        return {PREFIX + name: value for name, value in found.items()}

    def _predict(
        self, engine: Engine, *, progress: float, asked: Callable[[], str | None]
    ) -> np.ndarray | None:
        """[C, *shape] blended over tiles; ranks share the tiles, and call the network as often."""
        shape, device = self._inside.shape, engine.world.device
        window = torch.from_numpy(blending_window(self._look.tile)).to(device)
        total, weight = None, torch.zeros(shape, device=device)
        for boxes, real in self._shares(engine):
            crops = torch.from_numpy(np.stack([self._seen(box) for box in boxes])).unsqueeze(1)
            step = engine.evaluate({"crops": crops}, progress=progress)
            outputs = step.parts[PREDICTION]
            if total is None:
                total = torch.zeros(outputs.shape[1], *shape, device=device)
            for box, output in itertools.islice(zip(boxes, outputs, strict=True), real):
                predicted = output[(slice(None), *Box.of(self._look.tile).slices)]
                total[(slice(None), *box.slices)] += predicted * window
                weight[box.slices] += window
            if asked():
                return None
        return (sum_over_ranks(total) / sum_over_ranks(weight)).cpu().numpy()

    def _shares(self, engine: Engine) -> Iterator[tuple[list[Box], int]]:
        """This rank's micro-batches of tiles, and how many of each count: some make up numbers."""
        boxes = tiles(self._inside.shape, tile=self._look.tile, overlap=self._look.overlap)
        world, micro = engine.world, engine.micro_batch
        for first in range(0, len(boxes), world.size * micro):
            mine = boxes[first + world.rank * micro :][:micro]
            yield mine or boxes[:1], len(mine)

    def _seen(self, box: Box) -> np.ndarray:
        """What the network sees of a tile, mirrored at the faces of what was read."""
        box = grow(box.shift(self._inside.start), self._look.margin, end=self._look.extra)
        whole = Box.of(self._raw.shape)
        return read_reflected(lambda part: self._raw[part.slices], box, within=whole)

    def _score(self, affinities: np.ndarray) -> dict[str, float | None]:
        """Loss and scores, without the prefix."""
        names = ("voi", "voi_split", "voi_merge", "arand")
        if not np.isfinite(affinities).all():
            return dict.fromkeys(("loss", *names, "threshold"))
        segment = POSTPROCESS.get("waterz").factory
        found, _ = segment(self._options, affinities, offsets=self._config.edges)
        scores: dict[float, Score] = {
            threshold: score(segmentation, self.labels) for threshold, segmentation in found.items()
        }
        threshold = min(scores, key=lambda each: scores[each].voi)
        best = {name: getattr(scores[threshold], name) for name in names}
        return {"loss": self._loss(affinities), **best, "threshold": threshold}

    def _loss(self, affinities: np.ndarray) -> float:
        """The loss of the blended prediction as a whole."""
        labels = widen_borders(torch.from_numpy(self.labels)[None], voxels=self._config.border)
        losses, _ = compare(torch.from_numpy(affinities)[None], labels, config=self._config)
        return float(losses.mean())
