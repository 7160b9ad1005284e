import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenunify_scale import finetune, predict, pretrain
from tokenunify_scale.config import build
from tokenunify_scale.models.load import build_chosen
from tokenunify_scale.objectives import build_objective, out_channels
from tokenunify_scale.scaling.costs.counts import (
    objective_of,
    step_of,
    tiling_counts,
    training_counts,
)
from tokenunify_scale.train.strategy import MICRO
from tokenunify_scale.train.training import deepspeed_config
from tokenunify_scale.volumes.geometry import Box

CROP = (1, 16, 32, 32)


def training(objective, **more):
    if objective == "affinity":
        request = {"volume": ["v"], "labels": ["l"], "model": {"name": "emmamba_atto"}, **more}
        return build(finetune.Config, request, where="finetune")
    request = {"model": {"name": "emmamba_atto"}, "objective": {"name": objective}, **more}
    return build(pretrain.Config, request, where="pretrain")


def real_step(config, *, crops):
    """Torch's own count of a step that is computed, on a CPU, by operation."""
    chosen = config.objective
    outputs = out_channels(chosen.name, options=chosen.options)
    network = build_chosen(config.model, in_channels=1, out_channels=outputs)
    objective = build_objective(chosen, backbone=network, seed=config.seed)
    batch = {
        "crops": torch.rand(crops, *CROP),
        "labels": torch.randint(0, 3, (crops, *CROP[1:])),
        "positions": torch.arange(100, 100 + crops),
    }
    with FlopCounterMode(display=False) as counter:
        objective(batch, progress=0.5).loss.backward()
    found = counter.get_flop_counts()["Global"]
    return {str(name): flops / crops for name, flops in found.items()}


@pytest.mark.parametrize("objective", ["affinity", "tokenunify", "byol"])
def test_flops_are_those_that_torch_counts_in_a_real_step(objective):
    config = training(objective)
    foretold, _ = step_of(objective_of(config, channels=1), crop=CROP, micro=2)
    counted = real_step(config, crops=2)
    assert foretold.keys() == counted.keys()
    own = [name for name in counted if name.startswith("aten")]  # convolutions, linear layers
    assert sum(counted[n] for n in own) > 0.5 * sum(counted.values())
    assert sum(foretold[n] for n in own) == pytest.approx(sum(counted[n] for n in own), rel=0.02)
    assert sum(foretold.values()) == pytest.approx(sum(counted.values()), rel=0.02)


def test_a_single_crop_costs_what_one_of_two_costs_as_places_differ():
    objective = objective_of(training("tokenunify"), channels=1)
    one, two = (step_of(objective, crop=CROP, micro=n)[0] for n in (1, 2))
    assert sum(one.values()) == sum(two.values())


def test_what_is_frozen_has_no_gradient_to_compute_and_what_is_recomputed_costs_more():
    plain, head, again = (
        sum(step_of(objective_of(training("affinity", **more), channels=1), crop=CROP, micro=2)[0]
            .values())
        for more in ({}, {"train": ["head"]}, {"recompute": ["all"]})
    )  # fmt: skip
    assert head < 0.5 * plain < plain < again < 4 / 3 * plain


def test_a_training_counts_numbers_and_memory_as_its_dry_run_does():
    config = training("mae", global_batch=2, crop=CROP[1:], shards=["nowhere"])
    settings = deepspeed_config(config, size="atto", world=1)
    objective = objective_of(config, channels=1)
    counts = training_counts(objective, settings, crop=CROP, world=1)
    told = pretrain.plan(config)
    assert counts.memory / 2**30 == pytest.approx(told["memory_per_rank_GiB"]["total"], abs=2e-3)
    assert counts.numbers == sum(p.numel() for p in objective.parameters()) >= counts.trained
    assert settings[MICRO] == 2


def test_a_prediction_costs_its_tiles_and_views():
    model = training("affinity").model
    with torch.device("meta"):
        network = build_chosen(model, in_channels=1, out_channels=3)
    counts = {}
    for tta in ("none", "flips"):
        asked = {"model": "m", "volume": "v", "tile": [16, 32, 32], "overlap": [0, 0, 0]}
        config = build(predict.Config, {**asked, "tta": tta}, where="predict")
        shape = (16, 64, 96)
        counts[tta] = tiling_counts(
            config, network, name=model.name, outputs=3, box=Box.of(shape), shape=shape
        )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build_chosen(model, in_channels=1, out_channels=3)(torch.zeros(1, 1, 16, 32, 32))
    assert counts["none"].flops == pytest.approx(6 * counter.get_total_flops(), rel=0.02)
    assert counts["flips"].flops == 8 * counts["none"].flops
