"""Score a segmentation against the ground truth and draw both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.figures import Section, draw_errors, draw_sections
from tokenunify_scale.metrics import Matches, Overlaps
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import read_hdf5, split_spec
from tokenunify_scale.volumes.part import Part, part_of, place
from tokenunify_scale.volumes.volume import Volume, open_volume

DRAWN = 3  # sections in a picture


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

    def plan(self) -> dict[str, Any]:
        """What would be scored: the box in source voxels.

        Raises:
            ConfigError: the sections are not in the segmentation.
            DataError: an input is missing or does not fit.
        """
        with _open_segmentation(self.segmentation) as volume:
            part = part_of(volume, sections=self.sections)
            for spec in (self.labels, self.raw):
                if spec is not None:
                    with open_volume(spec) as other:
                        place(other, volume, part)
        start, stop = list(part.box.start), list(part.box.stop)
        return {"start": start, "stop": stop, "scored": self.labels is not None}

    def run(self, folder: Path) -> dict[str, Any]:
        """Score; draw sections.png and, where there are labels, errors.png.

        Returns:
            What result.json holds; ``metrics`` has the scores where labels were given.

        Raises:
            ConfigError: the sections are not in the segmentation.
            DataError: an input is missing, does not fit, or holds nothing to score.
        """
        with _open_segmentation(self.segmentation) as volume:
            part = part_of(volume, sections=self.sections)
            segmentation = volume.read(part.box.shift(tuple(-o for o in part.origin)))
            labels = _read(self.labels, volume, part)
            voxel_size = volume.voxel_size
            sections = self._sections(volume, part, segmentation, labels)
        for spec in (self.raw, self.labels):
            if voxel_size is None and spec is not None:
                with open_volume(spec) as other:
                    voxel_size = other.voxel_size
        metrics, title, matches = self._score(segmentation, labels)
        picture = {"title": title, "matches": matches, "voxel_size": voxel_size}
        draw_sections(folder / "sections.png", sections, **picture)
        if labels is not None:
            draw_errors(folder / "errors.png", sections, **picture)
        return {
            "metrics": metrics,
            "segmentation": self.segmentation,
            "labels": self.labels,
            "start": list(part.box.start),
            "stop": list(part.box.stop),
            "voxel_size": voxel_size and list(voxel_size),
        }

    def _score(
        self, segmentation: np.ndarray, labels: np.ndarray | None
    ) -> tuple[dict[str, Any], str, Matches | None]:
        """Scores and counts, a line that says them, and which segment is which object."""
        metrics: dict[str, Any] = {
            "segments": int(np.count_nonzero(np.unique(segmentation))),
            "background_fraction": float(np.mean(segmentation == 0)),
        }
        if labels is None:
            return metrics, f"{metrics['segments']} segments", None
        overlaps = Overlaps.of(
            segmentation,
            labels,
            ignore_label=self.ignore_label,
            ignore_segment=self.ignore_segment,
        )
        score, matches = overlaps.score(), Matches.of(overlaps)
        title = (
            f"VOI {score.voi:.3f} bits = split {score.voi_split:.3f} + merge "
            f"{score.voi_merge:.3f},  ARAND {score.arand:.3f}"
        )
        return {**score.to_dict(), **metrics, "objects": int(matches.objects.size)}, title, matches

    def _sections(
        self,
        volume: Volume,
        part: Part,
        segmentation: np.ndarray,
        labels: np.ndarray | None,
    ) -> list[Section]:
        """A few sections, evenly spread, with everything that is drawn of them."""
        depth = len(segmentation)
        count = min(DRAWN, depth)
        chosen = [int((i + 0.5) * depth / count) for i in range(count)]
        return [
            Section(
                index=part.box.start[0] + z,
                segmentation=segmentation[z],
                raw=_read(self.raw, volume, part, z=z),
                affinities=_read_affinities(self.affinities, part, z),
                labels=None if labels is None else labels[z],
            )
            for z in chosen
        ]


def _open_segmentation(spec: str) -> Volume:
    """The volume of ids that a folder or a spec stands for."""
    if Path(spec).is_dir():
        return open_volume(f"{spec}/segmentation.h5:segmentation")
    try:
        return open_volume(spec)
    except ConfigError as error:
        raise ConfigError(f"{error}; and there is no such folder") from None


def _read(
    spec: str | None, segmentation: Volume, part: Part, *, z: int | None = None
) -> np.ndarray | None:
    """The part, or its section ``z``, of a volume; None where no volume is given."""
    if spec is None:
        return None
    with open_volume(spec) as volume:
        box = place(volume, segmentation, part)
        return volume.read(box if z is None else _section(box, z))[slice(None) if z is None else 0]


def _section(box: Box, z: int) -> Box:
    first = box.start[0] + z
    return Box((first, *box.start[1:]), (first + 1, *box.stop[1:]))


def _read_affinities(spec: str | None, part: Part, z: int) -> np.ndarray | None:
    """One section [3, H, W] of predicted affinities, placed by their own offset."""
    if spec is None:
        return None
    path, dataset = Path(spec) / "affinities.h5", "affinities"
    if not Path(spec).is_dir():
        path, dataset = split_spec(spec)
    _, attributes = read_hdf5(path, dataset, Box((0, 0, 0), (0, 0, 0)))
    offset = tuple(-int(o) for o in attributes.get("offset", (0, 0, 0)))
    box = _section(part.box, z)
    if any(a + o < 0 for a, o in zip(box.start, offset, strict=True)):
        raise DataError(f"{spec} begins after section {box.start[0]} of the source volume")
    affinities, _ = read_hdf5(path, dataset, box.shift(offset))
    if affinities.ndim != 4 or affinities.shape[0] != 3:
        raise DataError(f"{spec}: shape {affinities.shape}; expected [3, D, H, W]")
    return affinities[:, 0]
