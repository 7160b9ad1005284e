"""Pretrain a network on unlabelled crops: shards in, a run folder out."""

import math
import os
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch

from tokenunify_scale.config import ConfigError, DataError, Named
from tokenunify_scale.data.augment import AugmentConfig, unchanged
from tokenunify_scale.data.stream import Stream, StreamConfig, batches
from tokenunify_scale.models.count import cost
from tokenunify_scale.models.emmamba import SIZES
from tokenunify_scale.models.load import build_chosen, describe, parameters_of, strategy_of
from tokenunify_scale.models.published import CROP
from tokenunify_scale.objectives import build_objective, out_channels
from tokenunify_scale.objectives.schedule import schedule_text
from tokenunify_scale.objectives.tokenunify import TokenUnifyConfig
from tokenunify_scale.ops import backend
from tokenunify_scale.registry import MODELS, OBJECTIVES
from tokenunify_scale.tokens.patches import patch_grid
from tokenunify_scale.train.engine import join
from tokenunify_scale.train.job import run_job
from tokenunify_scale.train.loop import Training, deepspeed_config
from tokenunify_scale.train.plan import training_plan
from tokenunify_scale.volumes.geometry import Triple

CHANNELS = 1  # in and out: grey crops, reconstructed


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    """One pretraining run."""

    shards: tuple[str, ...] = ("shards",)
    """Folders that prepare wrote, or their URLs; each is a data set, by default all equally
    probable."""

    out: Path = Path("runs/pretrain")
    """The run folder; a run that was stopped there goes on."""

    model: Annotated[Named, MODELS] = field(
        default_factory=lambda: Named("emmamba_tiny", SIZES["tiny"])
    )
    """The network; --size tiny is short for --set model.name=emmamba_tiny."""

    objective: Annotated[Named, OBJECTIVES] = field(
        default_factory=lambda: Named("tokenunify", TokenUnifyConfig())
    )
    """What is learned: tokenunify, or mae, autoregressive, dbmim, byol, ms_con_em."""

    crop: tuple[int, int, int] | None = None
    """Size (z, y, x) of a training crop in voxels; a random part of the stored one."""

    data: StreamConfig = field(default_factory=StreamConfig)
    """Mixture, shuffling, damaged samples, cache and loading ahead."""

    augment: AugmentConfig = field(default_factory=unchanged)
    """Random changes of the crops; none unless named: --set augment.flip.p=0.5."""


def plan(config: Config) -> dict[str, Any]:
    """What a run would be: parameters, weights, DeepSpeed's config, memory per rank, work.

    Raises:
        ConfigError: the batch, the strategy, the crop or the objective cannot be.
    """
    crop, state = _crop(config)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    settings = _check(config, crop=crop, world=world)
    with torch.device("meta"):
        model = build_chosen(config.model, in_channels=CHANNELS, out_channels=CHANNELS)
        deployed = build_chosen(config.model, in_channels=CHANNELS, out_channels=3)
    counted = cost(model, crop=crop, in_channels=CHANNELS)
    curriculum = getattr(config.objective.options, "curriculum", None)
    lines = curriculum and schedule_text(curriculum, steps=config.steps, seed=config.seed)
    return {
        "model": config.model.name,
        "parameters_with_3_output_channels": f"{parameters_of(deployed):,}",
        "crop": list(crop),
        "data": state,
        "GMAC_per_crop": round(counted.gmac, 1),
        **training_plan(
            settings,
            world=world,
            steps=config.steps,
            **asdict(counted),
        ),
        **({"schedule": lines} if lines else {}),
        "deepspeed": settings,
    }


def run(config: Config) -> dict[str, Any]:
    """Pretrain, or go on where the run folder's newest checkpoint stands.

    Returns:
        What result.json holds.

    Raises:
        ConfigError: the request cannot be.
        DataError: shards or checkpoint are missing or damaged.
        DivergedError: the loss is not finite.
    """
    stream = _stream(config)
    _check(config, crop=stream.crop, world=int(os.environ.get("WORLD_SIZE", "1")))
    world = join()
    settings = _check(config, crop=stream.crop, world=world.size)
    torch.manual_seed(config.seed)
    backbone = build_chosen(config.model, in_channels=CHANNELS, out_channels=CHANNELS)
    return run_job(
        build_objective(config.objective, backbone=backbone, seed=config.seed),
        partial(
            batches, stream, workers=config.data.workers, prefetch=config.data.prefetch
        ),
        verb="pretrain",
        config=config,
        settings=settings,
        world=world,
        about=describe(
            config.model,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            objective=config.objective.name,
        ),
        environment={"scan": backend.describe(world.device.type)},
        facts={"shards": list(config.shards)},
    )


def _stream(config: Config) -> Stream:
    return Stream(
        config.shards,
        seed=config.seed,
        crop=config.crop,
        config=config.data,
        augment=config.augment,
    )


def _crop(config: Config) -> tuple[tuple[int, int, int], str]:
    """The crop a run would use, and what can be said of its data before it starts."""
    try:
        stream = _stream(config)
    except DataError as error:
        return config.crop or CROP, f"not there yet ({error})"
    return stream.crop, f"{sum(stream.counts)} crops in {len(stream.counts)} folders"


def _check(config: Config, *, crop: tuple[int, int, int], world: int) -> dict[str, Any]:
    """Refuse what cannot run, before any device is asked for; DeepSpeed's config if it can."""
    name, options = config.objective.name, config.objective.options
    if out_channels(name) != CHANNELS:
        raise ConfigError(f"objective {name!r} needs labels: use finetune")
    with torch.device("meta"), torch.no_grad():
        network = build_chosen(config.model, in_channels=CHANNELS, out_channels=CHANNELS)
        if any(network.margin):
            raise ConfigError(
                f"{config.model.name} predicts {network.margin} voxels less than it sees on either "
                "side: it has no output for the patches there, so it can only be fine-tuned"
            )
        network(torch.empty(1, CHANNELS, *crop))
        build_objective(config.objective, backbone=network, seed=config.seed)
    if (patch := getattr(options, "patch", None)) is not None:
        _check_patches(options, name=name, crop=crop, patch=patch)
    return deepspeed_config(config, size=strategy_of(config.model.name), world=world)


def _check_patches(options: Any, *, name: str, crop: Triple, patch: Triple) -> None:
    """Refuse patches that do not tile the crop, and more prefixes than it has."""
    try:
        count = math.prod(patch_grid(crop, patch=patch))
        if count < 2:
            raise ValueError(f"crop {crop} is one patch of {patch}: need 2 or more")
        if (prefixes := getattr(options, "prefixes_per_crop", 1)) >= count:
            raise ValueError(f"crop {crop} has {count - 1} prefixes, not {prefixes} different ones")
    except ValueError as error:
        raise ConfigError(f"objective {name!r}: {error}") from None
