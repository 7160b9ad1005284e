"""A training job whole: run folder, engine, loop, weights, result."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from tokenunify_scale.config import to_dict
from tokenunify_scale.train.best import Best, Ship
from tokenunify_scale.train.checkpoint import Description, save_weights
from tokenunify_scale.train.distributed import World, barrier
from tokenunify_scale.train.engine import Engine
from tokenunify_scale.train.held_out import Measure
from tokenunify_scale.train.loop import Batches, train
from tokenunify_scale.train.runlog import RunFolder
from tokenunify_scale.train.telemetry import Facts, Telemetry
from tokenunify_scale.train.training import Training
from tokenunify_scale.train.watch import Watch

# What a run that goes on may be given anew: how often it writes, and how it is sharded.
CHANGEABLE = ("telemetry", "recompute", "log_every", "save_every", "strategy", "zero", "out")
CHANGEABLE += ("held_out", "held_out_every", "held_out_crops", "saves", "guard", "hang_after")
CHANGEABLE += ("expect_world", "hostfile")


def run_job(
    objective: nn.Module,
    open_batches: Callable[..., Batches],
    *,
    verb: str,
    config: Training,
    settings: dict[str, Any],
    world: World,
    about: Description,
    environment: dict[str, Any],
    facts: dict[str, Any],
    watched: Facts,
    held_out: Measure | None = None,
    judged_by: str | None = None,
    ship: Ship = dict,
    given: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Train an objective to the end and leave a finished run folder at ``config.out``.

    Args:
        objective: owns ``backbone``, whose weights are what the run is for; on the meta device.
        open_batches: as ``train`` takes it.
        verb: whose run this is.
        config: the verb's config; it also has ``out``.
        settings: DeepSpeed's config, as ``ds_config`` returned it.
        world: this process's place, as ``join`` returned it.
        about: what the weights are, for their header.
        environment: what the verb knows of the host beyond versions.
        facts: what the verb adds to result.json.
        watched: what the rates are reckoned from.
        held_out: what training does not see, and is measured.
        judged_by: name of a score that it measures: the weights of its lowest value are the run's,
            in place of the last.
        ship: makes the weights of the network from those that were trained.
        given: tensors of the objective by name; the others are drawn from the seed.

    Returns:
        What result.json holds; {} on ranks other than 0.

    Raises:
        ConfigError: the folder holds another run.
        DataError: the run's checkpoint cannot be restored.
        DivergedError: the loss is not finite, and going back did not help; what was saved stays.
        HostError: the disk does not take a checkpoint; those before stay.
        Stopped: a signal asked for it; the run can go on.
    """
    run = RunFolder.create(
        config.out,
        verb=verb,
        config=to_dict(config),
        environment={"world": world.size, "weights": asdict(about), **environment},
        rank=world.rank,
        changeable=CHANGEABLE,
    )
    name = about.model["name"]
    best = Best(run.path, by=judged_by, about=about, ship=ship) if judged_by else None
    telemetry = Telemetry(config.telemetry, run=run, facts=watched, world=world)
    with Watch(config.hang_after, rank=world.rank) as watch, telemetry:
        engine = Engine(
            objective,
            optim=config.optim,
            config=settings,
            world=world,
            seed=config.seed,
            given=given,
        )
        metrics = train(
            engine,
            open_batches,
            training=config,
            run=run,
            telemetry=telemetry,
            description=f"{verb} {name} {about.objective}",
            held_out=held_out,
            best=best,
            watch=watch,
        )
        watch.beat(config.steps, "save")
        engine.forget()
        weights = engine.weights(objective.backbone)
        barrier()  # a rank that leaves while others still listen can make them abort
    engine.close()
    if not world.is_main:
        return {}
    weights = ship(weights)
    if best:
        facts = {**facts, "best": best.finish(weights, step=config.steps)}
    else:
        save_weights(run.path, weights, about)
    names = (name for name, _ in objective.backbone.named_parameters() if name in weights)
    parameters = sum(weights[name].numel() for name in names)
    return run.finish(
        model={"name": name, "parameters": parameters},
        objective=about.objective,
        steps=config.steps,
        seed=config.seed,
        crops_seen=config.steps * config.global_batch,
        world=world.size,
        **facts,
        metrics=metrics,
    )
