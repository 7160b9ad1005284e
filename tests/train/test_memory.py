import pytest
from torch import nn

from tokenunify_scale.train.allocator import KEPT
from tokenunify_scale.train.live import Peak
from tokenunify_scale.train.memory import (
    GIB,
    PROCESS,
    SLACK,
    Inventory,
    inventory,
    memory_of_rank,
)
from tokenunify_scale.train.strategy import MICRO, ds_config

P = 1000.0
COUNTED = Inventory(trained=1000, frozen=0, largest=100, small=0, buffers=0)
ACTIVE = Peak(1e6, 1e6 + 400)  # above all else: the backward pass is the moment


def held(*, stage, world=1, peak=ACTIVE, counted=COUNTED, device="cpu", share=1, **zero):
    strategy = {MICRO: 1, "zero_optimization": {"stage": stage, **zero}}
    config = ds_config(strategy, global_batch=share * world, clip=1.0, world=world)
    return memory_of_rank(config, counted=counted, peak=peak, world=world, device=device)


def test_an_inventory_tells_what_is_trained_and_what_stays_whole():
    module = nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20))
    module[0].weight.requires_grad_(False)
    found = inventory(module, {"zero_optimization": {"stage3_param_persistence_threshold": 20}})
    assert found == Inventory(trained=60, frozen=200, largest=20, small=60, buffers=41)


@pytest.mark.parametrize("stage, world, parameters, gradients, optimizer", [
    (0, 1, 4, 0.4, 8), (0, 4, 4, 0.4, 8),  # gradients: those there are amid the pass
    (1, 4, 4, 4, 3), (2, 4, 4, 1, 3), (3, 1, 4, 4, 12), (3, 4, 1, 1, 3),
])  # fmt: skip
def test_states_are_zeros_with_deepspeeds_master_copy(
    stage, world, parameters, gradients, optimizer
):
    memory = held(stage=stage, world=world)
    found = [memory.rows[name] / P for name in ("parameters", "gradients", "optimizer")]
    assert memory.moment == "backward pass" and found == [parameters, gradients, optimizer]
    assert memory.rows["activations"] == 1e6
    assert memory.total == sum(memory.rows.values())


def test_accumulated_gradients_are_there_from_the_beginning():
    assert held(stage=0, share=2).rows["gradients"] == 4 * P


def test_a_small_step_holds_most_when_it_reduces_or_steps():
    none = Peak(0, 0)
    plain = held(stage=0, peak=none)
    assert plain.moment == "reduction" and plain.rows["buckets"] == 4 * P
    sharded = held(stage=3, peak=none)
    assert sharded.moment == "optimizer" and sharded.rows["temporaries"] == 12 * P
    parts = held(stage=3, peak=none, sub_group_size=100)
    assert parts.moment == "reduction" and parts.rows["temporaries"] == 4 * P


def test_zero_3_gathers_all_but_what_is_small_up_to_its_limit():
    counted = Inventory(trained=1000, frozen=1000, largest=100, small=200, buffers=0)
    memory = held(stage=3, world=2, counted=counted)
    assert memory.rows["parameters"] == 4 * (2000 / 2 + 200)
    assert memory.rows["gathered"] == 4 * 1800
    limited = held(stage=3, world=2, counted=counted, stage3_max_live_parameters=500)
    assert limited.rows["gathered"] == 4 * 500
    assert held(stage=3, world=1, counted=counted).rows["gathered"] == 0


def test_a_cpu_has_no_pages_of_a_bucket_that_nobody_fills():
    options = {"reduce_bucket_size": 5000, "overlap_comm": True}
    assert held(stage=3, **options).rows["buckets"] == 4 * 1000
    assert held(stage=3, device="cuda", **options).rows["buckets"] == 4 * 5000
    assert held(stage=2, device="cuda", **options).rows["buckets"] == 8 * 5000


def test_what_is_offloaded_is_told_apart_where_it_is_elsewhere():
    options = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    here = held(stage=3, **options)
    assert here.offloaded == 0 and here.rows["optimizer"] == 12 * P
    gpu = held(stage=3, device="cuda", **options)
    assert gpu.offloaded == 16 * P and gpu.rows["optimizer"] == gpu.rows["parameters"] == 0


def test_process_and_slack_come_on_top():
    memory = held(stage=0)
    assert memory.rows["process"] == PROCESS["cpu"] < held(stage=1).rows["process"] < GIB
    assert memory.rows["slack"] == SLACK["cpu"] * 1e6


def test_weights_of_16_bits_have_a_master_copy_beside_them():
    strategy = {MICRO: 1, "zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}
    config = ds_config(strategy, global_batch=1, clip=1.0, world=1)
    rows = memory_of_rank(config, counted=COUNTED, peak=ACTIVE, world=1, device="cpu").rows
    assert rows["parameters"] == 2 * P and rows["optimizer"] == 12 * P


def test_on_a_cpu_large_temporaries_come_beside_what_the_backward_pass_left():
    counted = Inventory(trained=KEPT // 4, frozen=0, largest=KEPT // 8, small=0, buffers=0)
    peak = Peak(100 * KEPT, 100 * KEPT)
    plain = held(stage=0, counted=counted, peak=peak)
    assert plain.rows["temporaries"] == KEPT  # all gradients in one block; a weight's are half that
    assert held(stage=3, counted=counted, peak=peak).rows["temporaries"] == 3 * KEPT
    # Half of it a rank: what is sent is as large as before, what is stepped is not.
    assert held(stage=3, world=2, counted=counted, peak=peak).rows["temporaries"] == KEPT
    assert held(stage=3, device="cuda", counted=counted, peak=peak).rows["temporaries"] == 0


def test_16_bits_take_more_of_a_cpu_process():
    strategy = {MICRO: 1, "zero_optimization": {"stage": 0}}
    strategy["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    config = ds_config(strategy, global_batch=1, clip=1.0, world=1)
    memory = memory_of_rank(config, counted=COUNTED, peak=ACTIVE, world=1, device="cpu")
    assert memory.rows["process"] > held(stage=0).rows["process"]
