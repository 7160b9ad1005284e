"""Score a segmentation against the ground truth, find what is worst, and draw both."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.metrics import Counter, Matches, Mistake, Overlaps, Score, Units, worst
from tokenunify_scale.scoring import pictures, table
from tokenunify_scale.scoring.inputs import Inputs, open_inputs
from tokenunify_scale.scoring.places import places_of
from tokenunify_scale.train.runlog import track
from tokenunify_scale.volumes.geometry import Triple

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """A segmentation and what it is held against; the fields are those of ``evaluate.Config``."""

    segmentation: str
    labels: str | None = None
    raw: str | None = None
    affinities: str | None = None
    sections: tuple[int, int] | None = None
    ignore_label: int | None = 0
    ignore_segment: int | None = None
    border: Literal["original", "widened"] = "original"
    border_voxels: int = 1
    units: Units = "bits"
    worst: int = 20
    neurons: Literal["auto", "off"] | tuple[int, ...] = "auto"
    viewer: Literal["auto", "on", "off"] = "auto"
    neuroglancer: str | None = None

    def plan(self) -> dict[str, Any]:
        """What would be scored: the box in source voxels.

        Raises:
            ConfigError: the sections are not in the segmentation; a link to what is no folder of
                Zarr arrays.
            DataError: an input is missing, does not fit, or its ids are not integers.
        """
        linked = Path(self.segmentation, "segmentation.zarr").is_dir()
        if self.neuroglancer is not None and not linked:
            raise ConfigError(
                f"--neuroglancer shows Zarr arrays, and {self.segmentation} holds no "
                "segmentation.zarr: segment with --format zarr, and give its folder"
            )
        with self._open() as inputs:
            start, stop = list(inputs.box.start), list(inputs.box.stop)
            if self.affinities is not None:
                pictures.check_affinities(self.affinities, inputs.box)
        return {"start": start, "stop": stop, "scored": self.labels is not None}

    def run(self, folder: Path) -> dict[str, Any]:
        """Score; write the pictures and, where there are labels, the tables of what is worst.

        The volumes are read part by part, once to count and once to find places.

        Returns:
            What result.json holds; ``metrics`` has the scores where labels were given.

        Raises:
            ConfigError: the sections are not in the segmentation.
            DataError: an input is missing, does not fit, or holds nothing to score.
        """
        with self._open() as inputs:
            every = self._count(inputs)
            facts = {
                "segments": int(np.unique(every.segments[every.segments != 0]).size),
                "background_fraction": _share(every, every.segments == 0),
            }
            metrics, title, matches, scored = facts, f"{facts['segments']} segments", None, None
            mistakes: list[Mistake] = []
            places: list[Triple] = []
            if inputs.labels is not None:
                scored = self._scored(every)
                score, matches = scored.score(units=self.units), Matches.of(scored)
                metrics = {**score.to_dict(), **facts, "objects": int(matches.objects.size)}
                title = self._title(score)
                mistakes = worst(scored, count=self.worst, units=self.units)
                places = self._places(inputs, mistakes, folder)
            named = self._named(every, mistakes)
            found = list(zip(mistakes, places, strict=True))
            self._draw(folder, inputs, every, title, matches, named, found)
            return {
                "metrics": metrics,
                "segmentation": self.segmentation,
                "labels": self.labels,
                "start": list(inputs.box.start),
                "stop": list(inputs.box.stop),
                "voxel_size": inputs.voxel_size and list(inputs.voxel_size),
                "convention": None if scored is None else self._convention(scored),
                "neurons": {str(one): why for one, why in named.items()},
                "neuroglancer": self._link(),
            }

    def score(self) -> Score:
        """The scores alone; nothing is written.

        Raises:
            ConfigError, DataError: as ``run``.
        """
        with self._open() as inputs:
            return self._scored(self._count(inputs)).score(units=self.units)

    @contextmanager
    def _open(self) -> Iterator[Inputs]:
        border = self.border_voxels if self.border == "widened" else 0
        with open_inputs(
            self.segmentation,
            labels=self.labels,
            raw=self.raw,
            sections=self.sections,
            border=border,
        ) as inputs:
            yield inputs

    def _count(self, inputs: Inputs) -> Overlaps:
        """The table of all ids; without labels, of the segments with themselves."""
        counter, parts = Counter(), inputs.parts()
        for part in track(parts, description="score", unit="part", enabled=len(parts) > 2):
            segmentation = inputs.read_segmentation(part)
            labels = segmentation if inputs.labels is None else inputs.read_labels(part)
            counter.add(segmentation, labels)
        return counter.overlaps()

    def _scored(self, every: Overlaps) -> Overlaps:
        """The part of the table that counts.

        Raises:
            DataError: there is none.
        """
        labelled = every.without(ignore_label=self.ignore_label)
        if not labelled.counts.size:
            raise DataError(
                f"{self.labels}: nothing to score, labels are all background (id "
                f"{self.ignore_label}, which is ignored) in what is scored"
            )
        scored = labelled.without(ignore_segment=self.ignore_segment)
        if not scored.counts.size:
            raise DataError(
                f"{self.segmentation}: nothing to score, all labelled voxels have the ignored "
                f"segment id {self.ignore_segment}: segmentation and labels do not overlap"
            )
        if not scored.segments.any():
            log.warning("%s is background 0 wherever there are labels", self.segmentation)
        return scored

    def _places(self, inputs: Inputs, mistakes: list[Mistake], folder: Path) -> list[Triple]:
        """Find where the mistakes are; errors.csv, errors.md and a few lines on the screen."""
        parts = inputs.parts()
        shown = track(parts, description="places", unit="part", enabled=len(parts) > 2)
        pairs = [mistake.pair for mistake in mistakes]
        places = places_of(pairs, inputs, parts=shown) if pairs else []
        table.write_csv(
            folder / "errors.csv", mistakes, places, units=self.units, voxel_size=inputs.voxel_size
        )
        table.write_markdown(folder / "errors.md", mistakes, places, units=self.units)
        if mistakes:
            print(f"{table.worst_text(mistakes, places)}\n")
        return places

    def _named(self, every: Overlaps, mistakes: list[Mistake]) -> dict[int, str]:
        """Segments to render, and why.

        Raises:
            DataError: one that was asked for is not there.
        """
        if self.neurons == "auto":
            return pictures.neurons_of(every, mistakes)
        if self.neurons == "off":
            return {}
        strangers = set(self.neurons) - set(every.segments.tolist())
        if strangers:
            raise DataError(f"{self.segmentation}: no segment {min(strangers)} in what is scored")
        return dict.fromkeys(self.neurons, "chosen")

    def _draw(
        self,
        folder: Path,
        inputs: Inputs,
        every: Overlaps,
        title: str,
        matches: Matches | None,
        named: dict[int, str],
        found: list[tuple[Mistake, Triple]],
    ) -> None:
        """All pictures."""
        pictures.draw(folder, inputs, affinities=self.affinities, title=title, matches=matches)
        if named:
            pictures.draw_neurons(folder / "neurons.png", inputs, named, matches=matches)
        if self._has_page(inputs, every):
            page = {"title": title, "matches": matches, "mistakes": found}
            pictures.write_page(folder / "viewer.html", inputs, **page)

    def _has_page(self, inputs: Inputs, every: Overlaps) -> bool:
        """Whether to write viewer.html: by itself only where all of it, and every id, can show."""
        shown = min(every.segments.min(), every.objects.min()) >= 0
        auto = self.viewer == "auto" and shown and pictures.fits_page(inputs.box)
        return auto or self.viewer == "on"

    def _link(self) -> str | None:
        """What opens the segmentation in Neuroglancer, where that is asked for; printed, too."""
        if self.neuroglancer is None:
            return None
        from tokenunify_scale.viewer.neuroglancer import write_state

        remote = self.raw if self.raw and "://" in self.raw else None
        link = write_state(Path(self.segmentation), base=self.neuroglancer, raw=remote)
        print(f"{link}\n")
        return link

    def _title(self, score: Score) -> str:
        """The scores in a line."""
        return (
            f"VOI {score.voi:.3f} {self.units} = split {score.voi_split:.3f} + merge "
            f"{score.voi_merge:.3f},  ARAND {score.arand:.3f}"
        )

    def _convention(self, scored: Overlaps) -> dict[str, Any]:
        """What the scores mean."""
        return {
            "units": self.units,
            "ignore_label": self.ignore_label,
            "ignore_segment": self.ignore_segment,
            "border": self.border,
            "border_voxels": self.border_voxels if self.border == "widened" else 0,
            "voxels_scored": int(scored.counts.sum()),
        }


def _share(table: Overlaps, rows: np.ndarray) -> float:
    """The part of a table's voxels that some of its rows hold."""
    return float(table.counts[rows].sum() / table.counts.sum())
