"""What each job of a study will cost: parameters, FLOPs, memory of a rank, disk; nothing is run."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tokenunify_scale.config import ConfigError, DataError, Named, build, to_dict
from tokenunify_scale.data.stream import Stream
from tokenunify_scale.finetune import CHANNELS
from tokenunify_scale.finetune import Config as Finetune
from tokenunify_scale.inference.request import parse_box
from tokenunify_scale.models.load import build_chosen, parameters_of, strategy_of
from tokenunify_scale.models.published import CROP, published
from tokenunify_scale.objectives import out_channels
from tokenunify_scale.predict import Config as Predict
from tokenunify_scale.prepare import Config as Prepare
from tokenunify_scale.prepare import plan as plan_of_data
from tokenunify_scale.pretrain import Config as Pretrain
from tokenunify_scale.scaling.costs.counts import (
    GREY,
    Counts,
    objective_of,
    tiling_counts,
    training_counts,
)
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.train.training import Training, deepspeed_config
from tokenunify_scale.volumes.geometry import Box, Triple
from tokenunify_scale.volumes.volume import open_volume

RGB = 3  # channels of photographs
AFFINITIES = 3
WEIGHT = 4  # bytes of a number in weights, labels and segmentations
SAVED = 12  # bytes that a checkpoint holds of a trained number: itself and AdamW's two moments
NUMBERS = {"float32": 4, "float16": 2, "uint8": 1}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one job. What cannot be known before its data are there is None."""

    kind: str
    """Jobs of one kind take time alike: a verb, with the objective of a pretraining."""

    parameters: int | None = None
    """Of the network that gives affinities."""

    steps: int | None = None
    work: float | None = None
    """What its time is reckoned from: FLOPs of a step of a training, FLOPs of a prediction, voxels
    of a segmentation and of its scores, bytes of prepared data."""

    memory: float | None = None
    """Bytes of a rank at its peak."""

    disk: float = 0.0
    """Bytes that stay: checkpoints and weights, data before compression."""

    @property
    def flops(self) -> float | None:
        """Of the whole job; None of what is no network's."""
        if self.kind == "predict" or self.work is None:
            return self.work if self.kind == "predict" else None
        return None if self.steps is None else self.work * self.steps


def costs(jobs: Sequence[Job], *, world: int = 1) -> dict[str, Cost]:
    """What each job will cost, by name.

    Args:
        jobs: of a study, each after those it needs.
        world: ranks that share a training.

    Raises:
        ConfigError: jobs that cannot be, as their verbs would say it, a line each.
    """
    book, found, reasons = _Book(jobs, world=world), {}, {}
    for job in jobs:
        try:
            found[job.name] = book.cost(job)
        except ConfigError as error:
            reasons.setdefault(str(error), job.name)  # others fail alike
    if reasons:
        told = (
            reason if reason.startswith(name) else f"{name}: {reason}"
            for reason, name in reasons.items()
        )
        raise ConfigError("\n".join(told))
    return found


@cache
def parameters(model: Named) -> int:
    """Parameters of a chosen model that gives affinities, counted without allocating them."""
    with torch.device("meta"):
        return parameters_of(build_chosen(model, in_channels=GREY, out_channels=AFFINITIES))


class _Book:
    """Costs that jobs share, counted once."""

    def __init__(self, jobs: Sequence[Job], *, world: int) -> None:
        self._jobs = {str(job.folder): job for job in jobs}
        self._world = world
        self._counted: dict[str, Counts] = {}
        self._prepared: dict[str, dict[str, Any]] = {}

    def cost(self, job: Job) -> Cost:
        """Of one job."""
        if job.verb in ("pretrain", "finetune"):
            return self._training(job)
        ways = {"prepare": self._preparing, "predict": self._predicting}
        try:
            return ways.get(job.verb, self._reading)(job)
        except DataError:  # its data are neither there nor planned
            return Cost(kind=job.verb)

    def _training(self, job: Job) -> Cost:
        asked = Pretrain if job.verb == "pretrain" else Finetune
        config = build(asked, {**job.arguments, "out": str(job.folder)}, where=job.name)
        model, chosen = config.model, config.objective
        settings = deepspeed_config(config, size=strategy_of(model.name), world=self._world)
        crop, channels = self._crop(job, config)
        about = [job.verb, to_dict(model), to_dict(chosen), settings, crop, channels]
        tuned = [to_dict(getattr(config, name, None)) for name in ("load", "train", "lora")]
        key = json.dumps([about, config.recompute, tuned], default=str)
        if key not in self._counted:
            objective = objective_of(config, channels=channels)
            known = {"crop": (channels, *crop), "world": self._world}
            self._counted[key] = training_counts(objective, settings, **known)
        counted = self._counted[key]
        saves = min(-(-config.steps // config.save_every), config.saves.keep)
        saves += config.saves.keep_best
        if config.saves.keep_every:
            saves += config.steps // config.saves.keep_every
        kept = SAVED * counted.trained + WEIGHT * (counted.numbers - counted.trained)
        return Cost(
            kind=f"pretrain {chosen.name}" if job.verb == "pretrain" else job.verb,
            parameters=parameters(model),
            steps=config.steps,
            work=counted.flops * config.global_batch,
            memory=counted.memory,
            disk=WEIGHT * counted.numbers + saves * kept,
        )

    def _crop(self, job: Job, config: Training) -> tuple[Triple, int]:
        """Size and channels of a training crop, from the data or from the plan to prepare them."""
        if job.verb == "finetune":
            return config.crop or published(config.model.name).crop, CHANNELS
        try:
            stream = Stream(config.shards, seed=config.seed, crop=config.crop, config=config.data)
            return stream.crop, stream.channels
        except DataError:  # not there yet
            source = self._jobs.get(config.shards[0])
            if source is None or source.verb != "prepare":
                return config.crop or CROP, GREY
            asked = self._asked(source)
            return config.crop or asked.crop, RGB if asked.images else GREY

    def _asked(self, job: Job) -> Prepare:
        return build(Prepare, {**job.arguments, "out": str(job.folder)}, where=job.name)

    def _preparing(self, job: Job) -> Cost:
        size = self._plan(job).get("bytes")
        return Cost(kind=job.verb, work=size, disk=size or 0.0)

    def _plan(self, job: Job) -> dict[str, Any]:
        if job.name not in self._prepared:
            self._prepared[job.name] = plan_of_data(self._asked(job))
        return self._prepared[job.name]

    def _predicting(self, job: Job) -> Cost:
        config = build(Predict, {**job.arguments, "out": str(job.folder)}, where=job.name)
        tuned = self._jobs[str(config.model)]
        trained = build(Finetune, {**tuned.arguments, "out": str(tuned.folder)}, where=tuned.name)
        outputs = out_channels(trained.objective.name, options=trained.objective.options)
        box, shape = self._box(config)
        key = json.dumps(
            [to_dict(trained.model), outputs, box.shape, shape, to_dict(config)["tile"],
             config.overlap, config.context, config.batch, config.tta, config.memory_MiB],
            default=str,
        )  # fmt: skip
        if key not in self._counted:
            with torch.device("meta"):
                network = build_chosen(trained.model, in_channels=GREY, out_channels=outputs)
            self._counted[key] = tiling_counts(
                config, network, name=trained.model.name, outputs=outputs, box=box, shape=shape
            )
        counted = self._counted[key]
        return Cost(
            kind=job.verb,
            parameters=parameters(trained.model),
            work=counted.flops,
            memory=counted.memory,
            disk=outputs * math.prod(box.shape) * NUMBERS[config.dtype],
        )

    def _box(self, config: Predict) -> tuple[Box, Triple]:
        """What is predicted, and the shape of the volume."""
        shape = self._shape(config.volume)
        box = parse_box(config.box) if config.box else Box.of(shape)
        if config.sections:
            (first, last), (_, *sides) = config.sections, shape
            box = Box((first, 0, 0), (last, *sides))
        return box, shape

    def _shape(self, volume: str) -> Triple:
        """Shape of a volume that is there, or will be prepared."""
        try:
            return tuple(open_volume(volume).shape)
        except DataError:
            source = self._jobs.get(str(Path(volume.partition(":")[0]).parent))
            if source is None or source.verb != "prepare":
                raise
            plan, name = self._plan(source), Path(volume.partition(":")[0]).name
            for file, facts in zip(plan["files"], plan["volumes"], strict=False):
                if Path(file).name == name:
                    first, last = facts.get("box", ([0, 0, 0], facts["shape"]))
                    return tuple(b - a for a, b in zip(first, last, strict=True))
            raise

    def _reading(self, job: Job) -> Cost:
        """Of a segmentation or its scores: by the voxels that were predicted."""
        source = self._jobs.get(str(job.arguments.get("affinities")))
        if source is None:
            return Cost(kind=job.verb)
        config = build(Predict, {**source.arguments, "out": str(source.folder)}, where=source.name)
        voxels = math.prod(self._box(config)[0].shape)
        disk = WEIGHT * voxels if job.verb == "segment" else 0.0
        return Cost(kind=job.verb, work=float(voxels), disk=disk)
