import pytest

from tokenunify_scale.train.memory import Inventory
from tokenunify_scale.train.strategy import MICRO, ds_config
from tokenunify_scale.train.traffic import traffic

COUNTED = Inventory(trained=1000, frozen=0, largest=100, small=0, buffers=0)


def sent(*, stage, world, share=1, counted=COUNTED):
    strategy = {MICRO: 1, "zero_optimization": {"stage": stage}}
    config = ds_config(strategy, global_batch=share * world, clip=1.0, world=world)
    return traffic(config, counted=counted, world=world)


@pytest.mark.parametrize("stage, times", [(0, 2), (1, 2), (2, 2), (3, 3)])
def test_twice_the_parameters_up_to_stage_2_and_three_times_in_stage_3(stage, times):
    found = sum(sent(stage=stage, world=1000).values())
    assert found == pytest.approx(times * 4 * 1000, rel=2e-3)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_one_rank_sends_nothing_and_two_half_of_what_many_do(stage):
    assert sum(sent(stage=stage, world=1).values()) == 0
    many = sum(sent(stage=stage, world=10**6).values())
    assert sum(sent(stage=stage, world=2).values()) == pytest.approx(many / 2, rel=1e-4)


@pytest.mark.parametrize("stage, times", [(0, 2), (1, 2), (2, 5), (3, 12)])
def test_accumulation_costs_nothing_before_stage_2(stage, times):
    assert sum(sent(stage=stage, world=2, share=4).values()) == times * 4 * 1000 / 2


def test_small_parameters_are_not_gathered_but_renewed_and_frozen_ones_are_not_reduced():
    counted = Inventory(trained=1000, frozen=500, largest=100, small=300, buffers=0)
    found = sent(stage=3, world=2, counted=counted)
    assert found["reduce_scatter"] == 4 * 1000 / 2
    assert found["all_gather"] == (2 * 4 * 1200 + 4 * 300) / 2
