"""Score a segmentation against the ground truth and draw both, or measure a model's rollout."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tokenunify_scale.config import ConfigError, DataError, to_dict
from tokenunify_scale.figures import Section, draw_errors, draw_sections
from tokenunify_scale.metrics import Matches, Overlaps
from tokenunify_scale.train.runlog import RunFolder
from tokenunify_scale.volumes.geometry import Box, Triple
from tokenunify_scale.volumes.hdf5 import read_hdf5, split_spec
from tokenunify_scale.volumes.part import Part, part_of, place
from tokenunify_scale.volumes.volume import Volume, open_volume

if TYPE_CHECKING:
    from tokenunify_scale.objectives.rollout_study import Study

DRAWN = 3  # sections in a picture


@dataclass(frozen=True, kw_only=True)
class Config:
    """One evaluation. Volumes are written file.h5:dataset, file.tif or synthetic:..."""

    segmentation: str | None = None
    """A finished segment folder, or a volume of ids."""

    labels: str | None = None
    """The ground truth; without it segments are counted and drawn, not scored."""

    raw: str | None = None
    """The raw volume, for the pictures; a rollout's crops come from it."""

    affinities: str | None = None
    """A predict folder or file.h5:dataset, for the pictures."""

    sections: tuple[int, int] | None = None
    """Only these sections, as 150:250 (the end is excluded), counted in the source volume."""

    ignore_label: int | None = 0
    """Ground-truth id that does not count; none counts all."""

    ignore_segment: int | None = None
    """Segment id that does not count. None, as published scores have it, treats background in the
    segmentation as one more segment; 0 scores only what was segmented."""

    rollout: Path | None = None
    """A pretraining run or an export of one, in place of a segmentation: patches are predicted from
    its own output, one after another and all at once, and their errors compared."""

    crops: int = 8
    """Crops of a rollout."""

    prefix: float = 0.25
    """Share of a crop's patches that a rollout shows."""

    every: int = 1
    """Patches that a rollout predicts in each forward pass."""

    crop: Triple | None = None
    """Size (z, y, x) in voxels of a rollout's crop; by default the training crop's."""

    patch: Triple | None = None
    """Size (z, y, x) in voxels of a rollout's patch; it, path and fill are by default the run's.
    An export does not know its run's: say the patch, and what is not raster and noise."""

    path: str | None = None
    """Order of a rollout's patches."""

    fill: Literal["noise", "zero", "mean"] | None = None
    """What stands for what a rollout hides."""

    seed: int = 0
    """Of a rollout's places and noise."""

    out: Path = Path("runs/evaluate")
    """The run folder; result.json and sections.png and errors.png, or rollout.png and rollout.csv,
    are written there."""

    def __post_init__(self) -> None:
        """Refuse what is no evaluation, or two."""
        if (self.segmentation is None) == (self.rollout is None):
            raise ValueError("give --segmentation, or --rollout with --raw, and not both")
        if self.rollout is not None and self.raw is None:
            raise ValueError("--rollout needs --raw, the volume that its crops come from")
        if self.crops < 1 or self.every < 1 or not 0 < self.prefix < 1:
            raise ValueError(
                f"crops and every must be >= 1 and prefix in (0, 1), got {self.crops}, "
                f"{self.every} and {self.prefix}"
            )


def plan(config: Config) -> dict[str, Any]:
    """What would be scored: the box in source voxels; or what a rollout would be.

    Raises:
        ConfigError: the sections are not in the segmentation, the rollout cannot be.
        DataError: an input is missing or does not fit.
    """
    if config.rollout is not None:
        return _study(config).plan()
    with _open_segmentation(config.segmentation) as volume:
        part = part_of(volume, sections=config.sections)
        for spec in (config.labels, config.raw):
            if spec is not None:
                with open_volume(spec) as other:
                    place(other, volume, part)
    start, stop = list(part.box.start), list(part.box.stop)
    return {"start": start, "stop": stop, "scored": config.labels is not None}


def run(config: Config) -> dict[str, Any]:
    """Score, draw, and write result.json.

    Returns:
        What result.json holds; ``metrics`` has the scores where labels were given.

    Raises:
        ConfigError: the sections are not in the segmentation, the rollout cannot be.
        DataError: an input is missing, does not fit, or holds nothing to score.
    """
    if config.rollout is not None:
        study = _study(config)
        folder = RunFolder.create(config.out, verb="evaluate", config=to_dict(config))
        return folder.finish(**study.run(folder.path))
    with _open_segmentation(config.segmentation) as volume:
        part = part_of(volume, sections=config.sections)
        segmentation = volume.read(part.box.shift(tuple(-o for o in part.origin)))
        labels = _read(config.labels, volume, part)
        voxel_size = volume.voxel_size
        sections = _sections(config, volume, part, segmentation, labels)
    for spec in (config.raw, config.labels):
        if voxel_size is None and spec is not None:
            with open_volume(spec) as other:
                voxel_size = other.voxel_size
    ids = np.unique(segmentation)
    metrics: dict[str, Any] = {
        "segments": int(np.count_nonzero(ids)),
        "background_fraction": float(np.mean(segmentation == 0)),
    }
    title, matches = f"{metrics['segments']} segments", None
    if labels is not None:
        overlaps = Overlaps.of(
            segmentation,
            labels,
            ignore_label=config.ignore_label,
            ignore_segment=config.ignore_segment,
        )
        score = overlaps.score()
        matches = Matches.of(overlaps)
        metrics = {**score.to_dict(), **metrics, "objects": int(matches.objects.size)}
        title = (
            f"VOI {score.voi:.3f} bits = split {score.voi_split:.3f} + merge "
            f"{score.voi_merge:.3f},  ARAND {score.arand:.3f}"
        )
    folder = RunFolder.create(config.out, verb="evaluate", config=to_dict(config))
    picture = {"title": title, "matches": matches, "voxel_size": voxel_size}
    draw_sections(folder.path / "sections.png", sections, **picture)
    if labels is not None:
        draw_errors(folder.path / "errors.png", sections, **picture)
    return folder.finish(
        metrics=metrics,
        segmentation=config.segmentation,
        labels=config.labels,
        start=list(part.box.start),
        stop=list(part.box.stop),
        voxel_size=voxel_size and list(voxel_size),
    )


def _study(config: Config) -> "Study":
    """The rollout that is asked for."""
    # Not above: what a network needs takes seconds to load, and a score needs none of it.
    from tokenunify_scale.objectives.rollout_setup import open_study

    asked = ("crops", "prefix", "every", "crop", "patch", "path", "fill", "seed", "sections")
    settings = {name: getattr(config, name) for name in asked}
    return open_study(config.rollout, config.raw, **settings)


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


def _sections(
    config: Config,
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
            raw=_read(config.raw, volume, part, z=z),
            affinities=_read_affinities(config.affinities, part, z),
            labels=None if labels is None else labels[z],
        )
        for z in chosen
    ]


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
