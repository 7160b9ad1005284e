"""Score a segmentation and draw it, roll a model out, or compare what runs reconstruct."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenunify_scale.config import to_dict
from tokenunify_scale.measure.report import table
from tokenunify_scale.train.runlog import RunFolder
from tokenunify_scale.volumes.geometry import Triple

if TYPE_CHECKING:
    from tokenunify_scale.objectives import reconstruction_study, rollout_study
    from tokenunify_scale.scoring import Choice, Scoring

    Study = Choice | Scoring | rollout_study.Study | reconstruction_study.Study

KINDS = ("segmentation", "rollout", "reconstruct")  # of evaluations
SCORED = ("segmentation", "labels", "raw", "affinities", "sections", "ignore_label")
SCORED += ("ignore_segment", "border", "border_voxels", "units", "worst", "neurons", "viewer")
SCORED += ("neuroglancer",)
HIDDEN = ("crops", "crop", "patch", "path", "fill", "seed", "sections")  # of the other two


@dataclass(frozen=True, kw_only=True)
class Config:
    """One evaluation. Volumes are written file.h5:dataset, file.tif or synthetic:..."""

    segmentation: str | None = None
    """A finished segment folder, or a volume of ids."""

    labels: str | None = None
    """The ground truth; without it segments are counted and drawn, not scored."""

    raw: str | None = None
    """The raw volume, for the pictures; crops of a rollout or a reconstruction come from it."""

    affinities: str | None = None
    """A predict folder or file.h5:dataset, for the pictures."""

    sections: tuple[int, int] | None = None
    """Only these sections, as 150:250 (the end is excluded), counted in the source volume."""

    choose: tuple[int, int] | None = None
    """Of a segment folder with several thresholds, score the one that is best on these sections,
    as 130:150, which must not be among those that are scored."""

    ignore_label: int | None = 0
    """Ground-truth id that does not count; none counts all."""

    ignore_segment: int | None = None
    """Segment id that does not count. None, as published scores have it, treats background in the
    segmentation as one more segment; 0 scores only what was segmented."""

    # Paper: it does not say whether its scores are of widened labels; they differ by 0.1 bits.
    border: Literal["original", "widened"] = "original"
    """Score all labelled voxels, or none within border_voxels of another object in the plane, as
    in the labels of a training; result.json says which."""

    border_voxels: int = 1
    """With widened borders: how far the background reaches into each of two objects."""

    units: Literal["bits", "nats"] = "bits"
    """Of variation of information; the CREMI score always takes bits."""

    worst: int = 20
    """Objects that are split most, and segments that merge most, listed in errors.csv with places;
    0 lists none."""

    neurons: Literal["auto", "off"] | tuple[int, ...] = "auto"
    """Segments to draw in 3-D, as 12,57, or off; auto draws the worst and the largest ones."""

    viewer: Literal["auto", "on", "off"] = "auto"
    """Whether to write viewer.html: auto does up to 2**25 voxels; on shows, of a larger volume, a
    crop around the worst mistake."""

    neuroglancer: str | None = None
    """Print a Neuroglancer link to a segment folder written with --format zarr: the URL under which
    that folder is served, as by python -m tokenunify_scale.viewer.serve."""

    rollout: Path | None = None
    """A pretraining run or an export of one, in place of a segmentation: patches are predicted from
    its own output, one after another and all at once, and their errors compared."""

    reconstruct: tuple[Path, ...] = ()
    """Pretraining runs of any objective, in place of a segmentation: each gives back what is hidden
    of the same held-out crops, at random places and behind prefixes, and all are compared."""

    images: str | None = None
    """Photographs that runs of photographs reconstruct, in place of --raw: a folder or a pattern.
    Each is cut into as many whole crops as fit around its middle."""

    crops: int = 8
    """Crops of the volume, of a rollout or a reconstruction."""

    prefix: float = 0.25
    """Share of a crop's patches that a rollout shows."""

    every: int = 1
    """Patches that a rollout predicts in each forward pass."""

    ratio: float = 0.75
    """Share of a crop's patches that a reconstruction hides at random."""

    prefixes: int = 8
    """Prefixes of a crop behind which a reconstruction predicts, spread evenly over the path."""

    crop: Triple | None = None
    """Size (z, y, x) in voxels of a crop; by default the training crop's."""

    patch: Triple | None = None
    """Size (z, y, x) in voxels of a patch; it, path and fill are by default the run's. An export
    does not know its run's: say the patch, and what is not raster and noise."""

    path: str | None = None
    """Order of the patches."""

    fill: Literal["noise", "zero", "mean"] | None = None
    """What stands for what is hidden."""

    seed: int = 0
    """Of places, masks and noise."""

    out: Path = Path("runs/evaluate")
    """The run folder, with result.json, and sections.png, errors.png, errors.csv, errors.md,
    neurons.png and viewer.html, or rollout.png and rollout.csv, or reconstruct.png,
    reconstruct.csv and, of photographs, psnr.png."""

    def __post_init__(self) -> None:
        """Refuse what is no evaluation, or two."""
        asked = [kind for kind in KINDS if getattr(self, kind)]
        if len(asked) != 1:
            raise ValueError(
                "give --segmentation, or --rollout or --reconstruct with --raw, and one of them "
                f"only; got {', '.join(asked) or 'none'}"
            )
        if self.rollout is not None and self.raw is None:
            raise ValueError("--rollout needs --raw, the volume that its crops come from")
        if self.reconstruct and (self.raw is None) == (self.images is None):
            raise ValueError("--reconstruct needs --raw, a volume, or --images, and not both")
        if self.images is not None and (not self.reconstruct or self.sections is not None):
            raise ValueError("--images goes with --reconstruct, and has no --sections")
        if min(self.crops, self.every, self.prefixes) < 1:
            raise ValueError(
                f"crops, every and prefixes must be >= 1, got {self.crops}, {self.every} and "
                f"{self.prefixes}"
            )
        if self.border == "widened" and (self.border_voxels < 1 or self.ignore_label != 0):
            raise ValueError(
                "border widened turns voxels of labels into background: it needs border_voxels "
                f">= 1 and ignore_label 0, got {self.border_voxels} and {self.ignore_label}"
            )
        if self.worst < 0:
            raise ValueError(f"worst must be >= 0, got {self.worst}")
        if not (0 < self.prefix < 1 and 0 < self.ratio < 1):
            raise ValueError(
                f"prefix and ratio must be in (0, 1), got {self.prefix} and {self.ratio}"
            )


def plan(config: Config) -> dict[str, Any]:
    """What would be scored: the box in source voxels; or what a rollout or a comparison would be.

    Raises:
        ConfigError: the sections are not in the segmentation, the study cannot be.
        DataError: an input is missing or does not fit.
    """
    return _study(config).plan()


def run(config: Config) -> dict[str, Any]:
    """Score or measure, draw, and write result.json; a comparison's table is printed.

    Returns:
        What result.json holds; ``metrics`` has the scores where labels were given.

    Raises:
        ConfigError: the sections are not in the segmentation, the study cannot be.
        DataError: an input is missing, does not fit, or holds nothing to score.
    """
    study = _study(config)
    study.plan()  # what is refused leaves no folder
    folder = RunFolder.create(config.out, verb="evaluate", config=to_dict(config))
    result = folder.finish(**study.run(folder.path))
    if config.reconstruct:
        from tokenunify_scale.objectives.reconstruction_table import summary

        print(f"{table(*summary(result))}\n")
    return result


def _study(config: Config) -> "Study":
    """What is asked for."""
    # Not above: what a network needs takes seconds to load, and a score needs none of it.
    if config.rollout is not None:
        from tokenunify_scale.objectives.rollout_setup import open_study

        settings = _some(config, *HIDDEN, "prefix", "every")
        return open_study(config.rollout, config.raw, **settings)
    if config.reconstruct:
        from tokenunify_scale.objectives.reconstruction_setup import open_comparison

        settings = _some(config, *HIDDEN, "raw", "images", "ratio", "prefixes")
        return open_comparison(config.reconstruct, **settings)
    from tokenunify_scale.scoring import Choice, Scoring

    scoring = Scoring(**_some(config, *SCORED))
    return Choice(scoring=scoring, sections=config.choose) if config.choose else scoring


def _some(config: Config, *names: str) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}
