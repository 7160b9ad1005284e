import pytest

from tokenunify_scale.train.plan import training_plan
from tokenunify_scale.train.strategy import MICRO, ds_config

GIB = 1 << 30


def planned(*, stage: int = 0, world: int = 1, parameters: int = GIB, steps: int = 100):
    strategy = {MICRO: 2, "zero_optimization": {"stage": stage}}
    config = ds_config(strategy, global_batch=8 * world, clip=1.0, world=world)
    return training_plan(
        config,
        world=world,
        steps=steps,
        parameters=parameters,
        gmac=500.0,
        activation_bytes=GIB,
    )


def test_memory_is_states_and_the_activations_of_a_micro_batch():
    memory = planned()["memory_per_rank_GiB"]
    assert memory == {
        "parameters": 4.0,
        "gradients": 4.0,
        "optimizer": 8.0,
        "activations": 2.0,
        "total": 18.0,
    }


def test_stage_3_shares_all_states_and_no_activations():
    memory = planned(stage=3, world=8)["memory_per_rank_GiB"]
    assert memory["parameters"] == memory["gradients"] == 0.5 and memory["optimizer"] == 1.0
    assert memory["activations"] == 2.0 and memory["total"] == 4.0


@pytest.mark.parametrize(
    "stage, sizes", [(0, [16.0, 16.0, 16.0]), (1, [16.0, 9.0, 8.12]), (3, [16.0, 2.0, 0.25])]
)
def test_states_are_shown_for_other_numbers_of_ranks(stage, sizes):
    found = planned(stage=stage)["states_per_rank_GiB_by_ranks"]
    assert list(found) == ["1", "8", "64"] and list(found.values()) == sizes


def test_work_is_three_forward_passes_of_the_global_batch():
    plan = planned()
    assert plan["TFLOP_per_step"] == 2 * 500e9 * 3 * 8 / 1e12 == 24.0
    assert planned(world=4)["TFLOP_per_step"] == 96.0


def test_the_time_estimate_says_what_it_assumes():
    estimate = planned(steps=15_000)["time_estimate"]
    assert estimate.startswith("0.24 s a step, 1 h in all")
    assert "100 TFLOP/s (assumed, not measured)" in estimate
    assert planned(world=4)["time_estimate"].startswith("0.24 s a step")


def test_counts_are_readable():
    plan = planned(parameters=1_008_908_931)
    assert plan["parameters"] == "1,008,908,931" and plan["ranks"] == 1
