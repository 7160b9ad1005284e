"""Fine-tune a network to affinities on a labelled volume, pretrained or from scratch."""

import logging
import math
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch

from tokenunify_scale.config import ConfigError, Named, to_dict
from tokenunify_scale.data.augment import AugmentConfig
from tokenunify_scale.data.crops import LabelledCrops
from tokenunify_scale.data.stream import batches
from tokenunify_scale.models.count import cost
from tokenunify_scale.models.load import (
    build_chosen,
    choice,
    describe,
    start_from,
    strategy_of,
)
from tokenunify_scale.models.published import published
from tokenunify_scale.models.recompute import recompute
from tokenunify_scale.objectives import build_objective, needs_labels, out_channels
from tokenunify_scale.objectives.affinity import AffinityConfig
from tokenunify_scale.ops import backend
from tokenunify_scale.registry import MODELS, OBJECTIVES
from tokenunify_scale.train.checkpoint import Description, read_weights
from tokenunify_scale.train.door import join, require
from tokenunify_scale.train.job import run_job
from tokenunify_scale.train.peaks import device_peak
from tokenunify_scale.train.plan import job_size, training_plan
from tokenunify_scale.train.ranks import seat_of, world_size
from tokenunify_scale.train.telemetry import Facts
from tokenunify_scale.train.training import Training, deepspeed_config
from tokenunify_scale.volumes.geometry import Triple
from tokenunify_scale.volumes.volume import open_volume, sections_box

CHANNELS = 1
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    """One fine-tuning run."""

    volume: str
    """The raw volume, as file.h5:dataset, file.tif or synthetic:..."""

    labels: str
    """Its instance labels, of the same shape; 0 is background."""

    sections: tuple[int, int] | None = None
    """Train on these sections only, as 0:150 (the end is excluded)."""

    init: str = "random"
    """A finished run or export folder to start from, or ``random``."""

    model: Annotated[Named, MODELS] | None = None
    """The network; by default the one that ``init`` holds."""

    objective: Annotated[Named, OBJECTIVES] = field(
        default_factory=lambda: Named("affinity", AffinityConfig())
    )
    """What is learned."""

    out: Path = Path("runs/finetune")
    """The run folder; a run that was stopped there goes on."""

    crop: tuple[int, int, int] | None = None
    """Size (z, y, x) of a training crop in voxels; by default the one the network was published
    with, 16x160x160 for emmamba."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of the crops."""


def plan(config: Config) -> dict[str, Any]:
    """What a run would be: data, parameters, memory per rank, work per step.

    Raises:
        ConfigError: the request cannot be.
        DataError: volumes or initial weights are missing, damaged, or of different shapes.
    """
    model, _, start = _start(config)
    network, crop = _shape(config, model)
    crops = _crops(config, crop=crop, margin=network.margin)
    world, hosts = job_size(
        config.hostfile, expected=config.expect_world, started=seat_of(os.environ).size
    )
    settings = _settings(config, model, world=world)
    with torch.device("meta"):
        objective = build_objective(config.objective, backbone=network, seed=config.seed)
    counted = cost(network, crop=crop, in_channels=CHANNELS)
    return {
        "model": model.name,
        "init": f"{config.init} ({start.objective})" if start else "random",
        "data": f"{config.volume}, voxels {crops.box.start} to {crops.box.stop}",
        "crop": list(crop),
        "predicted_of_a_crop": list(crops.inner),
        "GMAC_per_crop": round(counted.gmac, 1),
        **training_plan(
            settings,
            objective=objective,
            crop=(CHANNELS, *crop),
            world=world,
            hosts=hosts,
            steps=config.steps,
            parameters=counted.parameters,
            gmac=counted.gmac,
        ),
        "deepspeed": settings,
    }


def run(config: Config) -> dict[str, Any]:
    """Fine-tune, or go on where the run folder's newest checkpoint stands.

    Returns:
        What result.json holds.

    Raises:
        ConfigError: the request cannot be, or no initial tensor fits.
        DataError: volumes, initial weights or checkpoint are missing or damaged.
        DivergedError: the loss is not finite.
        HostError: the job has other than the promised number of ranks.
    """
    size = world_size(config.expect_world)
    model, initial, start = _start(config)
    network, crop = _shape(config, model)
    crops = _crops(config, crop=crop, margin=network.margin)
    require(_settings(config, model, world=size), network)
    world = join()
    settings = _settings(config, model, world=world.size)
    with torch.device("meta"):
        backbone = _network(model, config)
        objective = build_objective(config.objective, backbone=backbone, seed=config.seed)
    transfer = start_from(backbone, initial) if start else None
    given = {f"backbone.{n}": initial[n] for n in transfer.loaded} if transfer else None
    if transfer and world.is_main:
        log.info("%s:\n%s", config.init, transfer.table())
    facts: dict[str, Any] = {
        "init": start.objective if start else "random",
        "volume": config.volume,
        "labels": config.labels,
        "sections": config.sections,
    }
    if transfer:
        facts.update(
            loaded=len(transfer.loaded), new=list(transfer.new), refused=list(transfer.refused)
        )
    return run_job(
        objective,
        partial(batches, crops),
        verb="finetune",
        config=config,
        settings=settings,
        world=world,
        about=describe(
            model,
            in_channels=CHANNELS,
            out_channels=out_channels(config.objective.name),
            objective=config.objective.name,
        ),
        environment={"scan": backend.describe(world.device.type)},
        facts=facts,
        given=given,
        watched=Facts(
            steps=config.steps,
            global_batch=config.global_batch,
            voxels=math.prod(crop),
            gmac=cost(network, crop=crop, in_channels=CHANNELS).gmac,
            peak_tflops=device_peak(world.device, settings),
            name=config.out.name,
            config=to_dict(config),
        ),
    )


def _shape(config: Config, model: Named) -> tuple[torch.nn.Module, Triple]:
    """The network without memory, and the crop, once it is known that one takes the other."""
    crop = config.crop or published(model.name).crop
    with torch.device("meta"), torch.no_grad():
        network = _network(model, config)
        build_objective(config.objective, backbone=network, seed=config.seed)
        network(torch.empty(1, CHANNELS, *crop))
    return network, crop


def _crops(config: Config, *, crop: Triple, margin: Triple) -> LabelledCrops:
    raw, labels = open_volume(config.volume), open_volume(config.labels)
    return LabelledCrops(
        raw,
        labels,
        box=sections_box(raw, config.sections),
        crop=crop,
        seed=config.seed,
        margin=margin,
        augment=config.augment,
    )


def _start(config: Config) -> tuple[Named, dict[str, torch.Tensor], Description | None]:
    """The network to train, and the weights it starts from, if any."""
    if not needs_labels(config.objective.name):
        raise ConfigError(f"objective {config.objective.name!r} needs no labels: use pretrain")
    if config.init == "random":
        if config.model is None:
            raise ConfigError("init is random, so the network must be named: --size or --set model")
        return config.model, {}, None
    weights, description = read_weights(config.init)
    return config.model or choice(description), weights, description


def _network(model: Named, config: Config) -> torch.nn.Module:
    outputs = out_channels(config.objective.name)
    network = build_chosen(model, in_channels=CHANNELS, out_channels=outputs)
    recompute(network, config.recompute)
    return network


def _settings(config: Config, model: Named, *, world: int) -> dict[str, Any]:
    return deepspeed_config(config, size=strategy_of(model.name), world=world)
