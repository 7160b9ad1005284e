"""One step of an objective or one prediction, counted on tensors without memory.

FLOPs are torch's own count, forward and backward. A multiply-accumulate is two; norms, activations
and pooling count nothing. Fused operations, into which torch cannot see, say their own: their
linear maps and convolutions as torch would count them, and eleven a state of a scan
(``ops.tri_mamba``).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tokenunify_scale.finetune import Config as Finetune
from tokenunify_scale.inference.estimate import PROCESS, SLACK, network_peak, weight_bytes
from tokenunify_scale.inference.lattice import Lattice
from tokenunify_scale.inference.tasks import divide
from tokenunify_scale.inference.views import views
from tokenunify_scale.models.count import cost
from tokenunify_scale.models.load import build_chosen, parameters_of
from tokenunify_scale.models.published import published
from tokenunify_scale.models.recompute import recompute
from tokenunify_scale.models.tiling import windows
from tokenunify_scale.models.tuning import tune
from tokenunify_scale.objectives import build_objective, out_channels
from tokenunify_scale.predict import Config as Predict
from tokenunify_scale.train.live import Peak, peak_of_step
from tokenunify_scale.train.memory import MIB, inventory, memory_of_rank
from tokenunify_scale.train.strategy import MICRO, computed_in
from tokenunify_scale.train.training import Training
from tokenunify_scale.volumes.geometry import Box, Triple

GREY = 1  # channels of crops, where nothing says otherwise


class Counts(NamedTuple):
    """Of a training or a prediction."""

    flops: float
    """Of a crop's step, forward and backward; of a whole prediction."""
    memory: float
    """Bytes of a rank at its peak."""
    trained: int = 0
    """Numbers that are trained."""
    numbers: int = 0
    """Of all the objective."""


def step_of(
    objective: nn.Module, *, crop: tuple[int, ...], micro: int, cast: torch.dtype | None = None
) -> tuple[dict[str, float], Peak]:
    """FLOPs a crop of forward and backward, by operation, and the memory of a micro-batch.

    Args:
        objective: on the meta device; stays as it is.
        crop: (C, D, H, W).
        micro: crops of the micro-batch.
        cast: the type of ``torch.autocast``, None for none.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        peak = peak_of_step(objective, crop=crop, micro=micro, cast=cast)
    crops = micro
    if micro % 2:  # an objective may learn other things from crops at even places than at odd
        counter, crops = FlopCounterMode(display=False), micro + 1
        with counter:
            peak_of_step(objective, crop=crop, micro=crops, cast=cast)
    counted = counter.get_flop_counts().get("Global", {})
    return {str(name): flops / crops for name, flops in counted.items()}, peak


def objective_of(config: Training, *, channels: int) -> nn.Module:
    """The objective of a training, without memory, frozen where it will be.

    Args:
        config: of ``pretrain`` or ``finetune``.
        channels: of the crops.

    Raises:
        ConfigError: the network or the objective cannot be.
    """
    chosen = config.objective
    outputs = out_channels(chosen.name, channels=channels, options=chosen.options)
    with torch.device("meta"):
        network = build_chosen(config.model, in_channels=channels, out_channels=outputs)
        recompute(network, config.recompute)
        objective = build_objective(chosen, backbone=network, seed=config.seed, channels=channels)
    if isinstance(config, Finetune):
        tune(network, None, load=config.load, train=config.train, lora=config.lora)
    return objective


def training_counts(
    objective: nn.Module, settings: Mapping[str, Any], *, crop: tuple[int, ...], world: int
) -> Counts:
    """Count a training.

    Args:
        objective: on the meta device.
        settings: DeepSpeed's config.
        crop: (C, D, H, W).
        world: number of ranks.
    """
    kind = computed_in(settings)
    cast = None if kind == "float32" else getattr(torch, kind)
    flops, peak = step_of(objective, crop=crop, micro=settings[MICRO], cast=cast)
    memory = memory_of_rank(
        settings,
        counted=inventory(objective, settings),
        peak=peak,
        world=world,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    trained, whole = (parameters_of(objective, trained=only) for only in (True, False))
    return Counts(sum(flops.values()), memory.total, trained, whole)


def tiling_counts(
    config: Predict, network: nn.Module, *, name: str, outputs: int, box: Box, shape: Triple
) -> Counts:
    """Count a prediction, as ``predict.plan`` does once its model and its volume are there.

    Args:
        config: of the prediction.
        network: on the meta device.
        name: the registry's, of the network.
        outputs: its channels.
        box: what is predicted.
        shape: of the whole volume.

    Raises:
        ConfigError: the tile, the overlap or the memory cannot be.
    """
    tile = config.tile or published(name).crop
    given = {"overlap": config.overlap, "context": config.context}
    look = windows(network, tile=tile, shape=shape, **given)
    parts = zip(look.tile, look.margin, look.extra, strict=True)
    seen = tuple(side + 2 * margin + extra for side, margin, extra in parts)
    budget = config.memory_MiB * MIB
    division = divide(box, Lattice(shape, look), channels=outputs, budget=budget, world=1)
    tensors = network_peak(network, batch=config.batch, channels=GREY, seen=seen)
    memory = PROCESS + weight_bytes(network) + tensors * (1 + SLACK) + division.held
    tiles = division.tiles * len(views(config.tta))
    return Counts(2e9 * cost(network, crop=seen, in_channels=GREY).gmac * tiles, memory)
