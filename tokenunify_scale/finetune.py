"""Fine-tune a network to affinities on a labelled volume, pretrained or from scratch."""

import logging
import math
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch

from tokenunify_scale.config import ConfigError, DataError, Named, to_dict
from tokenunify_scale.data.augment import AugmentConfig
from tokenunify_scale.data.crops import LabelledCrops
from tokenunify_scale.data.labelled import LabelledMix
from tokenunify_scale.data.stream import batches
from tokenunify_scale.models.count import cost
from tokenunify_scale.models.groups import GROUPS, HEAD, check_groups
from tokenunify_scale.models.load import (
    Transfer,
    build_chosen,
    choice,
    describe,
    parameters_of,
    strategy_of,
)
from tokenunify_scale.models.lora import LoraConfig, merged
from tokenunify_scale.models.published import published
from tokenunify_scale.models.recompute import recompute
from tokenunify_scale.models.tiling import windows
from tokenunify_scale.models.tuning import doubts, share, tune
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
from tokenunify_scale.validation import JUDGE, Region, Validation, ValidationConfig, region_of
from tokenunify_scale.volumes.geometry import Box, Triple
from tokenunify_scale.volumes.volume import open_volume, sections_box

CHANNELS = 1
LOOKED_AT = 8  # crops that are read before any device is asked for
VALIDATIONS = 10  # of a run, unless it is said how often
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    """One fine-tuning run."""

    volume: tuple[str, ...]
    """The raw volumes, as file.h5:dataset, file.tif or synthetic:...; crops come from each by its
    size."""

    labels: tuple[str, ...]
    """Their instance labels, in the same order and of the same shapes; 0 is background."""

    sections: tuple[int, int] | None = None
    """Train on these sections of each only, as 0:150 (the end is excluded)."""

    init: str = "random"
    """A finished run, export or import folder to start from, or ``random``."""

    load: tuple[str, ...] = GROUPS
    """Parts of the network that start from ``init``: mamba, encoder, decoder; the rest is drawn."""

    train: tuple[str, ...] = ()
    """Parts that are trained: mamba, encoder, decoder, head (the last layer); by default all, with
    ``lora`` none but what it adds. What ``load`` asked for and did not find always is, and so is a
    head that is not loaded."""

    lora: LoraConfig = field(default_factory=LoraConfig)
    """Train thin matrices beside frozen ones, as --set lora.rank=8; the weights that are written
    have them added in."""

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

    validate: tuple[int, int] | None = None
    """Sections of the first volume that are segmented and scored now and then, as 120:150; the
    weights of the lowest variation of information are the run's."""

    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Which volume, how often, at which thresholds."""

    def __post_init__(self) -> None:
        """Refuse unknown groups, and to adapt what is random."""
        super().__post_init__()
        if not self.volume or len(self.volume) != len(self.labels):
            raise ValueError(
                f"{len(self.volume)} volumes and {len(self.labels)} of labels: each volume needs "
                "its labels, in the same order"
            )
        check_groups(self.load, key="load")
        check_groups(self.train, key="train", valid=(*GROUPS, HEAD))
        if not self.load:
            raise ValueError("load is empty: to start from nothing, init is random")
        if self.lora.rank and self.init == "random":
            raise ValueError(f"lora.rank is {self.lora.rank}, and init random: nothing to adapt")


def plan(config: Config) -> dict[str, Any]:
    """What a run would be: data, parameters, memory per rank, work per step.

    Raises:
        ConfigError: the request cannot be.
        DataError: volumes or initial weights are missing, damaged, or of different shapes.
    """
    model, initial, start = _start(config)
    network, crop = _shape(config, model)
    crops = _crops(config, crop=crop, network=network)
    region = _region(config)
    world, hosts = job_size(
        config.hostfile, expected=config.expect_world, started=seat_of(os.environ).size
    )
    settings = _settings(config, model, world=world)
    objective, transfer = _objective(config, model, initial if start else None)
    counted = cost(network, crop=crop, in_channels=CHANNELS)
    return {
        "model": model.name,
        "init": f"{config.init} ({start.objective})" if start else "random",
        **({"tensors": transfer.counts(), "refused": transfer.refused} if transfer else {}),
        "trained": share(objective.backbone),
        "data": [_place(each.name, each.box) for each in crops.sources],
        "validated_on": _place(region.raw.path, region.box) if region else "nothing",
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
    }  # fmt: skip


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
    crops = _crops(config, crop=crop, network=network)
    objective, transfer = _objective(config, model, initial if start else None)
    require(_settings(config, model, world=size), network)
    _look_at(crops)
    validation = _validation(config, network, crop=crop)
    world = join()
    settings = _settings(config, model, world=world.size)
    if world.is_main:
        _tell(config, objective.backbone, transfer)
    trained = parameters_of(objective.backbone, trained=True)
    facts: dict[str, Any] = {
        "init": start.objective if start else "random",
        "volume": list(config.volume),
        "labels": list(config.labels),
        "sections": config.sections,
        "trained_parameters": trained,
        "trained_share": trained / parameters_of(objective.backbone),
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
            out_channels=_outputs(config),
            objective=config.objective.name,
            offsets=config.objective.options.edges,
        ),
        environment={"scan": backend.describe(world.device.type)},
        facts=facts,
        given={f"backbone.{n}": initial[n] for n in transfer.loaded} if transfer else None,
        held_out=validation,
        judged_by=JUDGE if validation else None,
        ship=partial(merged, config=config.lora),
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
        predicted = network(torch.empty(1, CHANNELS, *crop)).shape[2:]
    for offset in config.objective.options.edges:
        if any(abs(step) >= side for step, side in zip(offset, predicted, strict=True)):
            raise ConfigError(
                f"offset {offset} is longer than the {tuple(predicted)} voxels that are predicted "
                f"of a crop: no edge of it could be learned"
            )
    return network, crop


def _objective(
    config: Config, model: Named, initial: dict[str, torch.Tensor] | None
) -> tuple[torch.nn.Module, Transfer | None]:
    """The objective without memory, adapted and frozen as asked, and what of it is loaded."""
    with torch.device("meta"):
        backbone = _network(model, config)
        objective = build_objective(config.objective, backbone=backbone, seed=config.seed)
    transfer = tune(backbone, initial, load=config.load, train=config.train, lora=config.lora)
    return objective, transfer


def _tell(config: Config, network: torch.nn.Module, transfer: Transfer | None) -> None:
    """Say what was loaded and what is trained, and what of it may be a mistake."""
    if transfer:
        log.info("%s:\n%s", config.init, transfer.table())
    log.info("trained: %s", share(network))
    for line in doubts(network, transfer):
        log.warning("%s: %s", config.init, line)


def _place(path: str, box: Box) -> str:
    return f"{path}, voxels {box.start} to {box.stop}"


def _crops(config: Config, *, crop: Triple, network: torch.nn.Module) -> LabelledMix:
    sources = []
    for spec, labels in zip(config.volume, config.labels, strict=True):
        raw = open_volume(spec)
        sources.append(
            LabelledCrops(
                raw,
                open_volume(labels),
                box=sections_box(raw, config.sections),
                crop=crop,
                seed=config.seed,
                margin=network.margin,
                augment=config.augment,
            )
        )
    return LabelledMix(sources, seed=config.seed)


def _look_at(crops: LabelledMix) -> None:
    """Read some crops of each volume before anything is started.

    Raises:
        DataError: labels are negative, or there are none where one looks.
    """
    for each in crops.sources:
        if not each.batch(0, LOOKED_AT)["labels"].any():
            raise DataError(f"{each.labels}: no labels, all 0, in {LOOKED_AT} crops of {each.box}")


def _region(config: Config) -> Region | None:
    return region_of(
        config.validation,
        config.validate,
        volume=config.volume,
        labels=config.labels,
        trained=config.sections,
    )


def _validation(config: Config, network: torch.nn.Module, *, crop: Triple) -> Validation | None:
    """What is measured beside training: tiles of the training crop's size."""
    if (region := _region(config)) is None:
        return None
    return Validation(
        region,
        look=windows(network, tile=crop, overlap=None, shape=region.box.shape),
        every=config.validation.every or max(1, config.steps // VALIDATIONS),
        judge=config.validation,
        config=config.objective.options,
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


def _outputs(config: Config) -> int:
    return out_channels(config.objective.name, options=config.objective.options)


def _network(model: Named, config: Config) -> torch.nn.Module:
    network = build_chosen(model, in_channels=CHANNELS, out_channels=_outputs(config))
    recompute(network, config.recompute)
    return network


def _settings(config: Config, model: Named, *, world: int) -> dict[str, Any]:
    return deepspeed_config(config, size=strategy_of(model.name), world=world)
