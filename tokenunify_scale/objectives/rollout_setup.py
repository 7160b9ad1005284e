"""What a rollout must know of the run it measures: patches, path, fill and training crop."""

import math
from pathlib import Path
from typing import Any, Literal, get_args

from tokenunify_scale.config import (
    ConfigError,
    DataError,
    build_named,
    did_you_mean,
    load_yaml,
)
from tokenunify_scale.data.shards.reader import open_shards
from tokenunify_scale.objectives.rollout_study import Hidden, Study
from tokenunify_scale.registry import OBJECTIVES
from tokenunify_scale.tokens.order import Path as Order
from tokenunify_scale.tokens.patches import patch_grid
from tokenunify_scale.train.checkpoint import read_description
from tokenunify_scale.volumes.geometry import Triple
from tokenunify_scale.volumes.volume import Volume, open_volume, sections_box

Fill = Literal["noise", "zero", "mean"]


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
    description = read_description(model)
    told = _told(model)
    given = {"patch": patch, "path": path, "fill": fill}
    hidden = _hidden(model, description.objective, told, given)
    crop = crop or _crop(model, told)
    with open_volume(volume) as raw:
        _check_fits(raw, sections, crop)
    try:
        count = math.prod(patch_grid(crop, patch=hidden.patch))
    except ValueError as error:
        raise ConfigError(f"rollout of {model}: {error}") from None
    if count < 2:
        raise ConfigError(f"crop {crop} is one patch of {hidden.patch} (zyx voxels): need 2")
    return Study(
        model=model,
        objective=description.objective,
        volume=volume,
        sections=sections,
        crop=crop,
        crops=crops,
        visible=min(max(round(prefix * count), 1), count - 1),
        every=every,
        seed=seed,
        hidden=hidden,
    )


def _told(model: Path) -> dict[str, Any]:
    """The config that a run left; an export's says nothing of training."""
    file = model / "config.yaml"
    return load_yaml(file) if file.is_file() else {}


def _hidden(model: Path, objective: str, told: dict[str, Any], given: dict[str, Any]) -> Hidden:
    """How to hide: as the run did, but for what is given."""
    known: dict[str, Any] = {}
    if "objective" in told:
        options = build_named(told["objective"], OBJECTIVES, where=f"{model}/config.yaml").options
        known = {key: getattr(options, key) for key in given if hasattr(options, key)}
        if getattr(options, "targets", "voxels") == "normalised":
            raise ConfigError(f"{model} predicts normalised patches, which have no gray values")
        if "patch" not in known:
            raise ConfigError(f"{model} was trained by {objective!r}, which predicts no patches")
    hidden = {**known, **{key: value for key, value in given.items() if value is not None}}
    if "patch" not in hidden:
        raise ConfigError(f"{model} does not say its patch size: give --patch, as 4,16,16")
    if hidden.get("fill") == "learned":
        raise ConfigError(f"the learned fill is not among {model}'s weights: give --fill, as mean")
    order = hidden.get("path", "raster")
    if order not in get_args(Order):
        raise ConfigError(f"unknown path {order!r}: {did_you_mean(order, get_args(Order))}")
    return Hidden(**hidden)


def _crop(model: Path, told: dict[str, Any]) -> Triple:
    """The training crop: as the run was asked to cut it, or as its shards store it."""
    if told.get("crop"):
        return tuple(told["crop"])
    try:
        return open_shards(told["shards"][0]).index.crop
    except (KeyError, ValueError):
        raise ConfigError(f"{model} does not say its crop: give --crop, as 16,160,160") from None


def _check_fits(volume: Volume, sections: tuple[int, int] | None, crop: Triple) -> None:
    shape = sections_box(volume, sections).shape
    if any(c > side for c, side in zip(crop, shape, strict=True)):
        raise DataError(f"{volume.path}: a crop of {crop} does not fit into {shape} (zyx voxels)")
