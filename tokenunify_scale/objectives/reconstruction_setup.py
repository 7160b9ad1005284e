"""Which runs a reconstruction compares, how each hides patches, and whether all fit the crops."""

import math
from collections.abc import Sequence
from pathlib import Path

from tokenunify_scale.config import ConfigError
from tokenunify_scale.objectives import needs_labels
from tokenunify_scale.objectives.hiding import Facts, check_channels, read_facts, settle
from tokenunify_scale.objectives.reconstruction_study import Study, Subject
from tokenunify_scale.objectives.sources import Photos, VolumeCrops
from tokenunify_scale.registry import OBJECTIVES
from tokenunify_scale.tokens.patches import patch_grid
from tokenunify_scale.volumes.geometry import Triple

NO_DECODER = ("byol",)  # objectives that train the encoder alone


def open_comparison(
    models: Sequence[Path],
    *,
    raw: str | None = None,
    images: str | None = None,
    crops: int = 8,
    ratio: float = 0.75,
    prefixes: int = 8,
    crop: Triple | None = None,
    sections: tuple[int, int] | None = None,
    patch: Triple | None = None,
    path: str | None = None,
    fill: str | None = None,
    seed: int = 0,
) -> Study:
    """Find out from runs how they were trained, and check that they can be compared.

    Each run hides patches as in its training unless told otherwise; one that knows of no patches
    does as the first that does. Runs of one patch size and path then see the same masks, and with
    one fill the same inputs; the study's table says where they differ.

    Args:
        models: finished pretraining runs, or exports of them, of any objective.
        raw: the volume that crops come from.
        images: in its place photographs: a folder or a pattern.
        crops: how many are taken from the volume at random.
        ratio: share of the patches hidden at random, in (0, 1).
        prefixes: how many, spread evenly over the path.
        crop: size (z, y, x) in voxels; None: the training crop, which all must share.
        sections: of the volume, where the crops lie; None: anywhere.
        patch: size (z, y, x) in voxels; None, as with ``path`` and ``fill``: what each run says.
        path: order of the patches.
        fill: what stands for hidden voxels.
        seed: of places, masks and noise.

    Raises:
        ConfigError: a run reconstructs nothing, a size is not known, differs or does not fit.
        DataError: a run or the source are missing or damaged; the source is smaller than a crop.
    """
    runs = [read_facts(Path(model)) for model in models]
    names = unique_names([run.folder for run in runs])
    crop = crop or _common_crop(runs)
    source = (
        Photos(spec=images, crop=crop)
        if images is not None
        else VolumeCrops(volume=raw, sections=sections, crop=crop, crops=crops, seed=seed)
    )
    given = {"patch": patch, "path": path, "fill": fill}
    borrowed = next((run.hiding for run in runs if "patch" in run.hiding), {})
    subjects = []
    for name, run in zip(names, runs, strict=True):
        objective = run.description.objective
        if needs_labels(objective):
            raise ConfigError(f"{run.folder} was trained by {objective!r}: it gives back no crops")
        check_channels(run, channels=source.channels, source=source.name)
        known = run.hiding if "patch" in run.hiding else {**borrowed, **run.hiding}
        hidden = settle(run, known=known, given=given)
        _check_grid(run, crop=crop, patch=hidden.patch)
        subjects.append(
            Subject(
                name=name,
                folder=run.folder,
                objective=objective,
                hidden=hidden,
                targets="normalised" if run.normalised else "voxels",
                decodes=objective not in NO_DECODER,
                masked=hasattr(OBJECTIVES.get(objective).config, "patch"),
            )
        )
    source.check()
    return Study(subjects=tuple(subjects), source=source, ratio=ratio, prefixes=prefixes, seed=seed)


def unique_names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with as many of those above as it takes to tell them apart.

    Raises:
        ConfigError: a folder is there twice.
    """
    parts = [folder.absolute().parts for folder in folders]
    for one in parts:
        if parts.count(one) > 1:
            raise ConfigError(f"{Path(*one)} is given twice")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            break
    return names


def _common_crop(runs: Sequence[Facts]) -> Triple:
    """The training crop of all runs that tell it."""
    found: dict[Triple, Path] = {}
    for run in runs:
        try:
            found.setdefault(run.crop, run.folder)
        except ConfigError:
            continue
    if not found:
        return runs[0].crop  # which says what is wrong
    if len(found) > 1:
        (one, first), (other, second), *_ = found.items()
        raise ConfigError(
            f"{first} was trained on crops of {one}, {second} on {other} (zyx voxels): give --crop"
        )
    return next(iter(found))


def _check_grid(run: Facts, *, crop: Triple, patch: Triple) -> None:
    """Refuse patches that do not tile the crop, and one that is all of it."""
    try:
        count = math.prod(patch_grid(crop, patch=patch))
    except ValueError as error:
        raise ConfigError(f"reconstruction by {run.folder}: {error}") from None
    if count < 2:
        raise ConfigError(f"crop {crop} is one patch of {patch} (zyx voxels): need 2")
