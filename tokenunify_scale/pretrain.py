"""Pretrain a network on unlabelled crops: shards in, a run folder out."""

import math
import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from tokenunify_scale.config import ConfigError, DataError, Named, to_dict
from tokenunify_scale.data.augment import AugmentConfig, unchanged
from tokenunify_scale.data.stream import Stream, StreamConfig, batches
from tokenunify_scale.models.count import cost
from tokenunify_scale.models.emmamba import SIZES
from tokenunify_scale.models.load import (
    build_chosen,
    describe,
    parameters_of,
    start_from,
    strategy_of,
)
from tokenunify_scale.models.published import CROP
from tokenunify_scale.models.recompute import recompute
from tokenunify_scale.objectives import build_objective, needs_labels
from tokenunify_scale.objectives.schedule import schedule_text
from tokenunify_scale.objectives.tokenunify import TokenUnifyConfig
from tokenunify_scale.ops import backend
from tokenunify_scale.registry import MODELS, OBJECTIVES
from tokenunify_scale.tokens.patches import patch_grid
from tokenunify_scale.train.checkpoint import read_weights
from tokenunify_scale.train.door import join, require
from tokenunify_scale.train.held_out import HeldOut, micro_batch
from tokenunify_scale.train.job import run_job
from tokenunify_scale.train.peaks import device_peak
from tokenunify_scale.train.plan import job_size, training_plan
from tokenunify_scale.train.ranks import seat_of, world_size
from tokenunify_scale.train.telemetry import Facts
from tokenunify_scale.train.training import Training, deepspeed_config
from tokenunify_scale.volumes.geometry import Triple

GREY = 1  # channels, where no shards say otherwise


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

    init: str = "random"
    """Where its weights start: random, or the folder of a run, an export or an import."""

    objective: Annotated[Named, OBJECTIVES] = field(
        default_factory=lambda: Named("tokenunify", TokenUnifyConfig())
    )
    """What is learned: tokenunify, or mae, autoregressive, dbmim, byol, ms_con_em."""

    crop: tuple[int, int, int] | None = None
    """Size (z, y, x) of a training crop in voxels; a random part of the stored one."""

    held_out: tuple[str, ...] = ()
    """Shards that training does not see: the loss on their crops is measured and logged too."""

    held_out_every: int = 100
    """Steps between two such measurements; one before the first step, one after the last."""

    held_out_crops: int = 32
    """Crops of one: the first of the shuffled stream, the same each time."""

    data: StreamConfig = field(default_factory=StreamConfig)
    """Mixture, shuffling, damaged samples, cache and loading ahead."""

    augment: AugmentConfig = field(default_factory=unchanged)
    """Random changes of the crops; none unless named: --set augment.flip.p=0.5."""

    def __post_init__(self) -> None:
        """Refuse counts below 1, and to hold out what is trained on."""
        super().__post_init__()
        if min(self.held_out_every, self.held_out_crops) < 1:
            raise ValueError(
                f"held_out_every and held_out_crops must be >= 1, got {self.held_out_every} and "
                f"{self.held_out_crops}"
            )
        if both := {*map(os.path.abspath, self.shards)} & {*map(os.path.abspath, self.held_out)}:
            raise ValueError(f"shards and held_out both name {', '.join(sorted(both))}")


def plan(config: Config) -> dict[str, Any]:
    """What a run would be: parameters, weights, DeepSpeed's config, memory per rank, work.

    Raises:
        ConfigError: the batch, the strategy, the crop or the objective cannot be, or the initial
            weights are of another network.
        DataError: the initial weights are missing or damaged.
    """
    crop, channels, state = _known(config)
    world, hosts = job_size(
        config.hostfile, expected=config.expect_world, started=seat_of(os.environ).size
    )
    settings, objective = _check(config, crop=crop, channels=channels, world=world)
    given, start = _start(config, objective)
    with torch.device("meta"):
        deployed = build_chosen(config.model, in_channels=channels, out_channels=3)
    counted = cost(objective.backbone, crop=crop, in_channels=channels)
    options = config.objective.options
    curriculum = getattr(options, "curriculum", None)
    lines = curriculum and schedule_text(
        curriculum, steps=config.steps, seed=config.seed, terms=options.terms
    )
    trained = parameters_of(objective, trained=True)
    return {
        "model": config.model.name,
        "parameters_with_3_output_channels": f"{parameters_of(deployed):,}",
        "parameters_of_the_objective": f"{parameters_of(objective):,}, trained: {trained:,}",
        "init": f"{config.init} ({start}), {len(given)} tensors" if start else "random",
        "crop": list(crop),
        "data": state,
        "GMAC_per_crop": round(counted.gmac, 1),
        **training_plan(
            settings,
            objective=objective,
            crop=(channels, *crop),
            world=world,
            hosts=hosts,
            steps=config.steps,
            parameters=counted.parameters,
            gmac=counted.gmac,
        ),
        **({"schedule": lines} if lines else {}),
        "deepspeed": settings,
    }


def run(config: Config) -> dict[str, Any]:
    """Pretrain, or go on where the run folder's newest checkpoint stands.

    Returns:
        What result.json holds.

    Raises:
        ConfigError: the request cannot be, or the initial weights are of another network.
        DataError: shards, initial weights or checkpoint are missing or damaged.
        DivergedError: the loss is not finite.
        HostError: the job has other than the promised number of ranks.
    """
    size = world_size(config.expect_world)
    stream = _stream(config)
    facts = {"crop": stream.crop, "channels": stream.channels}
    require(*_check(config, **facts, world=size))
    held_out = _held_out(config, stream)
    world = join()
    settings, objective = _check(config, **facts, world=world.size)
    given, start = _start(config, objective)
    return run_job(
        objective,
        partial(batches, stream, workers=config.data.workers, prefetch=config.data.prefetch),
        verb="pretrain",
        config=config,
        settings=settings,
        world=world,
        about=describe(
            config.model,
            in_channels=stream.channels,
            out_channels=stream.channels,
            objective=config.objective.name,
        ),
        environment={"scan": backend.describe(world.device.type)},
        facts={"shards": list(config.shards), **({"init": start} if start else {})},
        given=given,
        held_out=held_out,
        watched=_watched(config, objective.backbone, settings, stream=stream, device=world.device),
    )


def _watched(
    config: Config,
    network: nn.Module,
    settings: dict[str, Any],
    *,
    stream: Stream,
    device: torch.device,
) -> Facts:
    """What the rates of a run are reckoned from."""
    patch = getattr(config.objective.options, "patch", None)
    return Facts(
        steps=config.steps,
        global_batch=config.global_batch,
        voxels=math.prod(stream.crop),
        tokens=patch and math.prod(patch_grid(stream.crop, patch=patch)),
        gmac=cost(network, crop=stream.crop, in_channels=stream.channels).gmac,
        peak_tflops=device_peak(device, settings),
        name=config.out.name,
        config=to_dict(config),
    )


def _start(config: Config, objective: nn.Module) -> tuple[dict[str, torch.Tensor], str | None]:
    """Tensors of the objective that are given, and by what they were learned; {} and None."""
    if config.init == "random":
        return {}, None
    initial, about = read_weights(config.init)
    if about.model["name"] != config.model.name:
        raise ConfigError(
            f"init {config.init} holds {about.model['name']}, the network asked for is "
            f"{config.model.name}: --set model.name={about.model['name']}"
        )
    transfer = start_from(objective.backbone, initial)
    return {f"backbone.{name}": initial[name] for name in transfer.loaded}, about.objective


def _stream(config: Config) -> Stream:
    return Stream(
        config.shards,
        seed=config.seed,
        crop=config.crop,
        config=config.data,
        augment=config.augment,
    )


def _held_out(config: Config, trained_on: Stream) -> HeldOut | None:
    """What is measured beside training: crops as they are, cut to the training crop's size."""
    if not config.held_out:
        return None
    data = replace(config.data, weights=None, prefetch=1, workers=min(1, config.data.workers))
    stream = Stream(config.held_out, seed=config.seed, crop=trained_on.crop, config=data)
    if stream.channels != trained_on.channels:
        raise ConfigError(
            f"held_out has crops of {stream.channels} channels, shards of {trained_on.channels}"
        )
    return HeldOut(
        open_batches=partial(batches, stream, workers=data.workers, prefetch=data.prefetch),
        crops=config.held_out_crops,
        every=config.held_out_every,
    )


def _known(config: Config) -> tuple[Triple, int, str]:
    """Crop and channels of a run, and what can be said of its data before it starts."""
    try:
        stream = _stream(config)
        _held_out(config, stream)
    except DataError as error:
        return config.crop or CROP, GREY, f"not there yet ({error})"
    data = f"{sum(stream.counts)} crops in {len(stream.counts)} folders"
    return stream.crop, stream.channels, data


def _network(config: Config, *, channels: int) -> nn.Module:
    """A network of as many channels out as in."""
    network = build_chosen(config.model, in_channels=channels, out_channels=channels)
    recompute(network, config.recompute)
    return network


def _check(
    config: Config, *, crop: Triple, channels: int, world: int
) -> tuple[dict[str, Any], nn.Module]:
    """Refuse what cannot run, before any device is asked for.

    Returns:
        DeepSpeed's config, and the objective on the meta device.
    """
    name, options = config.objective.name, config.objective.options
    if needs_labels(name):
        raise ConfigError(f"objective {name!r} needs labels: use finetune")
    with torch.device("meta"), torch.no_grad():
        network = _network(config, channels=channels)
        if any(network.margin):
            raise ConfigError(
                f"{config.model.name} predicts {network.margin} voxels less than it sees on either "
                "side: it has no output for the patches there, so it can only be fine-tuned"
            )
        network(torch.empty(1, channels, *crop))
        objective = build_objective(
            config.objective, backbone=network, seed=config.seed, channels=channels
        )
    if (patch := getattr(options, "patch", None)) is not None:
        _check_patches(options, name=name, crop=crop, patch=patch)
    if config.held_out:
        micro_batch(config.held_out_crops, world=world, most=1)
    size = strategy_of(config.model.name)
    return deepspeed_config(config, size=size, world=world), objective


def _check_patches(options: Any, *, name: str, crop: Triple, patch: Triple) -> None:
    """Refuse patches that do not tile the crop, and more prefixes than it has."""
    try:
        count = math.prod(patch_grid(crop, patch=patch))
        if count < 2:
            raise ValueError(f"crop {crop} is one patch of {patch}: need 2 or more")
        if (prefixes := getattr(options, "prefixes_per_crop", 1)) >= count:
            raise ValueError(f"crop {crop} has {count - 1} prefixes, not {prefixes} different ones")
    except ValueError as error:
        flat = crop[0] == 1 < patch[0]
        hint = "; of photographs take --recipe pretrain_photographs" if flat else ""
        raise ConfigError(f"objective {name!r}: {error}{hint}") from None
