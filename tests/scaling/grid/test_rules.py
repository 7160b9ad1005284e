import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models import build_model
from tokenunify_scale.scaling.grid.rules import Budget, LrRule, gmac, parameters, ruled

ATTO, NANO = "emmamba_atto", "emmamba_nano"
SETTINGS = {"global_batch": 4, "crop": [16, 64, 64]}


def test_the_rule_gives_its_own_size_its_own_rate_and_wider_ones_less():
    rule = LrRule(lr=5e-3, size="nano")
    sizes = ("atto", "femto", "pico", "nano", "tiny")
    rates = [rule.rate(f"emmamba_{size}", reference=NANO) for size in sizes]
    assert rates[3] == 5e-3 and rates == sorted(rates, reverse=True)
    # Parameters grow as the square of the width: four times as wide, half the rate.
    assert rates[0] == pytest.approx(1e-2, rel=0.05)


def test_without_power_all_sizes_have_one_rate():
    rule = LrRule(lr=2e-3, size="nano", power=0)
    assert rule.rate(ATTO, reference=NANO) == 2e-3


def test_a_rule_sets_the_rate_of_its_stages_and_keeps_what_stands_beside_it():
    rule, names = LrRule(lr=1e-3, size="nano", stages=("finetune",)), {"reference": NANO}
    told = {"optim": {"clip": 2}}
    found = ruled(told, rule, stage="finetune", model=NANO, **names)
    assert found == {"optim": {"clip": 2, "lr": 1e-3}} and told == {"optim": {"clip": 2}}
    assert ruled(told, rule, stage="pretrain", model=NANO, **names) == told
    with pytest.raises(ConfigError, match="finetune.optim.lr is decided by lr"):
        ruled({"optim": {"lr": 1}}, rule, stage="finetune", model=NANO, **names)


@pytest.mark.parametrize("wrong", [{"lr": 0}, {"stages": ("predict",)}, {"stages": ()}])
def test_a_rule_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError):
        LrRule(**{"lr": 1e-3, "size": "nano", **wrong})


@pytest.mark.parametrize(
    "amount, steps",
    [
        ({"crops": 100}, 25),
        ({"voxels": 100 * 16 * 64 * 64}, 25),
        ({"tokens": 100 * 64}, 25),  # 4 x 4 x 4 patches of 4 x 16 x 16 voxels
        ({"crops": 1}, 1),
    ],
)
def test_steps_use_up_the_budget(amount, steps):
    assert Budget(**amount).steps(SETTINGS, model=ATTO, stage="pretrain") == steps


def test_tokens_are_the_objectives_own_patches():
    settings = {**SETTINGS, "objective": {"patch": [8, 16, 16]}}
    assert Budget(tokens=3200).steps(settings, model=ATTO, stage="pretrain") == 25


def test_a_budget_of_operations_is_counted_as_torch_counts_them():
    with torch.device("meta"):
        model, crop = build_model(ATTO), torch.empty(1, 1, 16, 64, 64)
    with FlopCounterMode(display=False) as counter:
        model(crop)
    forward = counter.get_total_flops()
    assert 2e9 * gmac(ATTO, (16, 64, 64)) == pytest.approx(forward)
    budget = Budget(pflop=3 * forward * 4 * 50 / 1e15)
    assert budget.steps(SETTINGS, model=ATTO, stage="finetune") == 50


def test_of_an_equal_budget_of_operations_larger_networks_take_fewer_steps():
    few, many = (Budget(pflop=0.1).steps(SETTINGS, model=m, stage="finetune") for m in (NANO, ATTO))
    assert few < many / 4


@pytest.mark.parametrize("wrong", [{}, {"crops": 0}, {"crops": 1, "tokens": 2}])
def test_a_budget_is_one_positive_amount(wrong):
    with pytest.raises(ValueError, match="one of crops, tokens, voxels and pflop"):
        Budget(**wrong)


def test_a_budget_needs_crop_and_batch_and_decides_the_steps():
    budget = Budget(crops=10)
    with pytest.raises(ConfigError, match="budget.finetune needs finetune.crop"):
        budget.steps({"global_batch": 1}, model=ATTO, stage="finetune")
    with pytest.raises(ConfigError, match="finetune.steps is decided by budget.finetune"):
        budget.steps({**SETTINGS, "steps": 3}, model=ATTO, stage="finetune")


def test_parameters_are_the_paper_s():
    assert parameters("emmamba_tiny") == 28_296_131  # Table 6: 28.30 M
