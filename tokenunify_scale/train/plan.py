"""What a training will need, from numbers alone: memory a rank, work a step."""

from typing import Any

from tokenunify_scale.train.strategy import MICRO, state_bytes

GIB = 1 << 30
BACKWARD = 3  # a training step computes about three forward passes
ASSUMED_TFLOPS = 100.0  # sustained by one GPU; for the estimate only, and said so
WORLDS = (1, 8, 64)


def training_plan(
    config: dict[str, Any],
    *,
    world: int,
    steps: int,
    parameters: int,
    gmac: float,
    activation_bytes: int,
) -> dict[str, Any]:
    """Memory per rank and work per step of a run.

    Args:
        config: what ``ds_config`` returned.
        world: number of ranks it was made for.
        steps: optimizer steps of the run.
        parameters: of the network.
        gmac: multiply-accumulates of one crop's forward pass, in 1e9.
        activation_bytes: what one crop's backward pass keeps.

    Returns:
        Plain data for the screen. Memory is states and activations in fp32; buckets and the
        allocator's slack come on top.
    """
    stage = config["zero_optimization"]["stage"]
    states = state_bytes(parameters, stage=stage, world=world)
    activations = activation_bytes * config[MICRO]
    teraflop = 2e-3 * gmac * BACKWARD * config["train_batch_size"]
    seconds = teraflop / (ASSUMED_TFLOPS * world)
    return {
        "parameters": f"{parameters:,}",
        "ranks": world,
        "memory_per_rank_GiB": {
            **{name: round(size / GIB, 2) for name, size in states.items()},
            "activations": round(activations / GIB, 2),
            "total": round((sum(states.values()) + activations) / GIB, 2),
        },
        "states_per_rank_GiB_by_ranks": {
            str(n): round(sum(state_bytes(parameters, stage=stage, world=n).values()) / GIB, 2)
            for n in WORLDS
        },
        "TFLOP_per_step": round(teraflop, 4),
        "time_estimate": f"{seconds:.3g} s a step, {seconds * steps / 3600:.3g} h in all, "
        f"if a rank sustains {ASSUMED_TFLOPS:g} TFLOP/s (assumed, not measured)",
    }
