import json

import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models.emmamba import SIZES, SMALL_SIZES
from tokenunify_scale.train.strategy import (
    MICRO,
    NEVER_IN_A_FILE,
    ds_config,
    load_strategy,
    offload_of,
    state_bytes,
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


@pytest.mark.parametrize("size", [*SMALL_SIZES, *SIZES, "huge_offload"])
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


@pytest.mark.parametrize(
    "stage, bytes_a_parameter",
    [(0, (4, 4, 8)), (1, (4, 4, 1)), (2, (4, 0.5, 1)), (3, (0.5, 0.5, 1))],
)
def test_each_stage_shares_one_more_kind_of_state(stage, bytes_a_parameter):
    found = state_bytes(1000, stage=stage, world=8)
    assert list(found) == ["parameters", "gradients", "optimizer"]
    assert list(found.values()) == [1000 * size for size in bytes_a_parameter]
    assert sum(state_bytes(1000, stage=stage, world=1).values()) == 16000


def test_offload_is_named_by_the_slowest_place():
    def zero(**parts):
        return {"zero_optimization": {f"offload_{k}": {"device": v} for k, v in parts.items()}}

    assert offload_of(zero()) == "none"
    assert offload_of(zero(optimizer="cpu")) == "cpu"
    assert offload_of(zero(optimizer="cpu", param="nvme")) == "nvme"
    assert offload_of(zero(param="none")) == "none"
    assert offload_of(load_strategy("huge_offload")) == "cpu"
