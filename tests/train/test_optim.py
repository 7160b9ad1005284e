import pytest
import torch
from torch import nn

from tokenunify_scale.models.emmamba import EMmamba, EMmambaConfig
from tokenunify_scale.train.optim import OptimConfig, learning_rate, parameter_groups


def rates(steps: int, **options) -> list[float]:
    config = OptimConfig(lr=1.0, **options)
    return [learning_rate(config, step=step, steps=steps) for step in range(steps)]


def test_the_rate_rises_to_its_peak_and_falls_along_a_cosine():
    found = rates(100, warmup=0.1, final=0.2)
    assert found[:11] == pytest.approx([(step + 1) / 11 for step in range(11)])
    assert found[10] == 1.0 == max(found)
    assert found[55] == pytest.approx(0.6)  # half way between 1 and 0.2
    assert all(a > b for a, b in zip(found[10:], found[11:], strict=False))
    assert 0.2 < found[-1] < 0.201


def test_the_polynomial_falls_faster_at_first_and_ends_where_it_should():
    found = rates(100, warmup=0.1, final=0.2, schedule="poly")
    assert found[10] == 1.0 == max(found)
    assert found[55] == pytest.approx(0.2 + 0.8 * 0.5**0.9)
    assert all(a > b for a, b in zip(found[10:], found[11:], strict=False))
    config = OptimConfig(lr=1.0, schedule="poly", final=0.2)
    assert learning_rate(config, step=100, steps=100) == pytest.approx(0.2)


def test_a_constant_schedule_stays_at_its_peak():
    found = rates(100, warmup=0.1, schedule="constant")
    assert found[9] < 1 and found[10:] == [1.0] * 90


def test_without_warm_up_the_first_step_has_the_peak_rate():
    assert rates(10, warmup=0.0)[0] == 1.0


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_have_positive_rates(steps):
    assert all(0 < rate <= 1 for rate in rates(steps))


def test_the_rate_is_a_function_of_the_step_alone_and_stays_at_the_end():
    config = OptimConfig(lr=2.0, final=0.5)
    assert learning_rate(config, step=100, steps=100) == pytest.approx(1.0)
    assert learning_rate(config, step=1000, steps=100) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"lr": 0.0}, "lr must be > 0"),
        ({"weight_decay": -1.0}, "weight_decay and clip >= 0"),
        ({"clip": -1.0}, "clip >= 0"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\)"),
        ({"final": 1.5}, r"final in \[0, 1\]"),
    ],
)
def test_values_outside_their_ranges_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        OptimConfig(**options)


def test_state_matrices_norms_and_biases_have_no_weight_decay():
    network = EMmamba(EMmambaConfig(features=(2, 3, 4, 5), hidden=6))
    decayed, plain = parameter_groups(network, OptimConfig(weight_decay=0.1))
    assert decayed["weight_decay"] == 0.1 and plain["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    exempt = {names[id(parameter)] for parameter in plain["params"]}
    matrices = {names[id(parameter)] for parameter in decayed["params"]}
    assert exempt | matrices == set(names.values()) and not exempt & matrices
    scan = "stages.0.0.mamba."
    for name in ("A_log", "D", "dt_bias", "conv1d_bias"):
        assert scan + name in exempt
    for name in ("conv1d", "x_proj", "dt_proj"):
        assert scan + name in matrices
    assert {"stages.0.0.norm.weight", "stages.0.0.norm.bias", "out.bias"} <= exempt
    assert {"downsample.0.weight", "decoder5.transp_conv.weight", "out.weight"} <= matrices
    for name in matrices:
        assert not name.endswith(("bias", "A_log", "D")), name


def test_frozen_parameters_and_empty_groups_are_left_out():
    linear = nn.Linear(2, 2)
    linear.weight.requires_grad_(False)
    (group,) = parameter_groups(linear, OptimConfig())
    assert group["weight_decay"] == 0.0 and group["params"][0] is linear.bias


def test_adamw_takes_the_groups():
    network = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    groups = parameter_groups(network, OptimConfig(lr=0.5, weight_decay=0.25))
    optimizer = torch.optim.AdamW(groups, lr=0.5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.0]
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 3]
