import json

import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models.emmamba import SIZES, SMALL_SIZES
from tokenunify_scale.train.strategy import (
    MICRO,
    NEVER_IN_A_FILE,
    computed_in,
    ds_config,
    is_narrow,
    load_strategy,
    offload_of,
    strategies,
    with_stage,
)

STRATEGY = {MICRO: 4, "zero_optimization": {"stage": 1, "overlap_comm": True}}


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("fits", [1, 2, 4, 5, 32])
def test_the_batch_is_shared_in_the_largest_micro_batches_that_fit(fits, world):
    for share in range(1, 25):
        config = ds_config(
            {**STRATEGY, MICRO: fits}, global_batch=share * world, clip=1, world=world
        )
        micro, rounds = config[MICRO], config["gradient_accumulation_steps"]
        assert micro * rounds * world == config["train_batch_size"] == share * world
        assert micro <= fits
        assert not any(share % larger == 0 for larger in range(micro + 1, min(fits, share) + 1))


def test_what_is_derived_is_added_and_the_strategy_stays_as_it_was():
    before = json.dumps(STRATEGY)
    config = ds_config(STRATEGY, global_batch=6, clip=2, world=1)
    assert config == {
        MICRO: 3,
        "zero_optimization": {"stage": 1, "overlap_comm": True},
        "train_batch_size": 6,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 2.0,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    assert json.dumps(STRATEGY) == before and "auto" not in json.dumps(config)


@pytest.mark.parametrize("global_batch, world", [(0, 1), (-2, 2), (3, 2), (1, 8)])
def test_a_batch_that_the_ranks_cannot_share_is_refused(global_batch, world):
    message = f"global_batch {global_batch} is not a multiple of {world} ranks"
    with pytest.raises(ConfigError, match=message):
        ds_config(STRATEGY, global_batch=global_batch, clip=1.0, world=world)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_another_stage_leaves_the_rest_of_the_strategy(stage):
    changed = with_stage(STRATEGY, stage)
    assert changed["zero_optimization"] == {"stage": stage, "overlap_comm": True}
    assert changed[MICRO] == 4 and STRATEGY["zero_optimization"]["stage"] == 1
    assert with_stage(STRATEGY, None) == STRATEGY


@pytest.mark.parametrize("stage", [4, -1])
def test_a_stage_that_does_not_exist_is_refused(stage):
    with pytest.raises(ConfigError, match=f"zero is {stage}, valid: 0, 1, 2, 3"):
        with_stage(STRATEGY, stage)


@pytest.mark.parametrize("size", [*SMALL_SIZES, *SIZES, "huge_offload", "huge_cpu"])
def test_every_size_has_a_strategy_with_a_stage_and_a_micro_batch(size):
    strategy = load_strategy(size)
    assert strategy[MICRO] >= 1 and strategy["zero_optimization"]["stage"] in (0, 1, 2, 3)
    assert not set(strategy) & set(NEVER_IN_A_FILE)
    ds_config(strategy, global_batch=64, clip=1.0, world=8)


def test_a_strategy_may_be_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(STRATEGY))
    assert load_strategy(str(path)) == STRATEGY
    assert load_strategy(str(strategies() / "huge.json")) == load_strategy("huge")


@pytest.mark.parametrize("key", NEVER_IN_A_FILE)
def test_a_file_that_holds_what_is_derived_is_refused(tmp_path, key):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**STRATEGY, key: 1}))
    with pytest.raises(ConfigError, match=f"mine.json holds {key}: these are derived"):
        load_strategy(str(path))


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "not valid JSON"),
        (json.dumps({"zero_optimization": {"stage": 0}}), f"{MICRO} is None"),
        (json.dumps({MICRO: "auto", "zero_optimization": {"stage": 0}}), f"{MICRO} is 'auto'"),
        (json.dumps({MICRO: 1}), "must hold a stage"),
    ],
)
def test_a_file_that_is_no_strategy_is_refused(tmp_path, text, words):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_strategy(str(path))


def test_an_unknown_strategy_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'huge'"):
        load_strategy("hgue")
    with pytest.raises(ConfigError, match="no file nowhere.json"):
        load_strategy("nowhere.json")


NARROW, ON = {"bf16": {"enabled": True}}, {"enabled": True}
CPU, DISK = {"device": "cpu"}, {"device": "nvme", "nvme_path": "/disk"}


@pytest.mark.parametrize(
    "stage, zero, rest, words",
    [
        (1, {}, {"fp16": ON}, "fp16 overflows: take bf16 or torch_autocast"),
        (1, {}, {**NARROW, "torch_autocast": ON}, "two ways to the same: take one"),
        (0, {}, NARROW, "at ZeRO stage 0: bf16 needs ZeRO stage 1, 2 or 3"),
        (1, {}, {**NARROW, "data_types": {"grad_accum_dtype": "fp32"}}, "needs stage 2 or 3"),
        (0, {"offload_optimizer": CPU}, {}, "offload_optimizer needs ZeRO stage 1, 2 or 3"),
        (2, {"offload_optimizer": DISK}, {}, "offload_optimizer to nvme needs ZeRO stage 3"),
        (2, {"offload_param": CPU}, {}, "at ZeRO stage 2: offload_param needs ZeRO stage 3"),
        (3, {"offload_param": {"device": "nvme"}}, {}, "offload to nvme needs nvme_path"),
    ],
)
def test_what_does_not_go_together_is_refused(stage, zero, rest, words):
    strategy = {MICRO: 1, "zero_optimization": {"stage": stage, **zero}, **rest}
    with pytest.raises(ConfigError, match=words):
        ds_config(strategy, global_batch=1, clip=1.0, world=1)


@pytest.mark.parametrize(
    "stage, zero, rest",
    [
        (1, {"offload_optimizer": CPU}, NARROW),
        (2, {"offload_optimizer": CPU}, {**NARROW, "data_types": {"grad_accum_dtype": "fp32"}}),
        (3, {"offload_optimizer": DISK, "offload_param": DISK}, {"torch_autocast": ON}),
        (0, {"offload_param": {"device": "none"}}, {"bf16": {"enabled": False}}),
    ],
)
def test_what_goes_together_is_not_refused(stage, zero, rest):
    strategy = {MICRO: 1, "zero_optimization": {"stage": stage, **zero}, **rest}
    config = ds_config(strategy, global_batch=1, clip=1.0, world=1)
    assert config["zero_optimization"] == strategy["zero_optimization"]


@pytest.mark.parametrize(
    "config, narrow, number",
    [
        ({}, False, "float32"),
        (NARROW, True, "bfloat16"),
        ({"bf16": {"enabled": False}}, False, "float32"),
        ({"torch_autocast": ON}, False, "bfloat16"),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, False, "float16"),
        ({"torch_autocast": {"enabled": False, "dtype": "bfloat16"}}, False, "float32"),
    ],
)
def test_a_strategy_says_what_numbers_it_computes_with(config, narrow, number):
    assert is_narrow(config) is narrow and computed_in(config) == number


def test_offload_is_named_by_the_slowest_place():
    def zero(**parts):
        return {"zero_optimization": {f"offload_{k}": {"device": v} for k, v in parts.items()}}

    assert offload_of(zero()) == "none"
    assert offload_of(zero(optimizer="cpu")) == "cpu"
    assert offload_of(zero(optimizer="cpu", param="nvme")) == "nvme"
    assert offload_of(zero(param="none")) == "none"
    assert offload_of(load_strategy("huge_offload")) == "cpu"
