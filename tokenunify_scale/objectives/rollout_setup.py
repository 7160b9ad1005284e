"""What a rollout must know of the run it measures, and whether it can be."""

import math
from pathlib import Path

from tokenunify_scale.config import ConfigError
from tokenunify_scale.objectives.hiding import Fill, check_channels, read_facts, settle
from tokenunify_scale.objectives.rollout_study import Study
from tokenunify_scale.objectives.sources import VolumeCrops
from tokenunify_scale.tokens.patches import patch_grid
from tokenunify_scale.volumes.geometry import Triple


def open_study(
    model: Path,
    volume: str,
    *,
    crops: int,
    prefix: float,
    every: int = 1,
    crop: Triple | None = None,
    sections: tuple[int, int] | None = None,
    patch: Triple | None = None,
    path: str | None = None,
    fill: Fill | None = None,
    seed: int = 0,
) -> Study:
    """Find out from a run how it was trained, and check that its rollout can be.

    Args:
        model: a finished pretraining run, or an export of one.
        volume: the raw volume.
        crops: how many are taken from it at random.
        prefix: share of a crop's patches that is shown, in (0, 1).
        every: patches predicted a step.
        crop: size (z, y, x) in voxels; None: the training crop's.
        sections: where the crops lie; None: anywhere.
        patch: size (z, y, x) in voxels; None, as with ``path`` and ``fill``: what the run says.
        path: order of the patches.
        fill: what stands for hidden voxels.
        seed: of places, noise and random paths.

    Raises:
        ConfigError: the model reconstructs nothing, a size is not known or does not fit.
        DataError: model or volume are missing or damaged; the volume is smaller than a crop.
    """
    facts = read_facts(model)
    objective = facts.description.objective
    if facts.normalised:
        raise ConfigError(f"{model} predicts normalised patches, which have no gray values")
    if facts.options is not None and "patch" not in facts.hiding:
        raise ConfigError(f"{model} was trained by {objective!r}, which predicts no patches")
    check_channels(facts, channels=VolumeCrops.channels, source=volume)
    given = {"patch": patch, "path": path, "fill": fill}
    hidden = settle(facts, known=facts.hiding, given=given)
    source = VolumeCrops(
        volume=volume, sections=sections, crop=crop or facts.crop, crops=crops, seed=seed
    )
    source.check()
    try:
        count = math.prod(patch_grid(source.crop, patch=hidden.patch))
    except ValueError as error:
        raise ConfigError(f"rollout of {model}: {error}") from None
    if count < 2:
        raise ConfigError(f"crop {source.crop} is one patch of {hidden.patch} (zyx voxels): need 2")
    return Study(
        model=model,
        objective=objective,
        source=source,
        visible=min(max(round(prefix * count), 1), count - 1),
        every=every,
        hidden=hidden,
    )
