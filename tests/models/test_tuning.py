import pytest
import torch
from torch import nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models import build_model
from tokenunify_scale.models.groups import group_of, head_of
from tokenunify_scale.models.lora import LoraConfig, thin
from tokenunify_scale.models.tuning import doubts, share, tune

NONE = LoraConfig()


def network(outputs: int = 3) -> nn.Module:
    with torch.device("meta"):
        return build_model("emmamba_atto", out_channels=outputs)


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def weights(outputs: int = 3) -> dict:
    return dict(network(outputs).state_dict())


def test_by_default_all_is_loaded_and_trained():
    model = network()
    transfer = tune(model, weights(), lora=NONE)
    assert {*transfer.loaded} == {*weights()} == trained(model) and not doubts(model, transfer)
    assert share(model).endswith("(100.00%)")


@pytest.mark.parametrize("load", [["mamba"], ["mamba", "encoder"], ["decoder"]])
@pytest.mark.parametrize("train", [["decoder"], ["mamba", "encoder"], ["head"]])
def test_what_is_loaded_and_what_is_trained_are_chosen_apart(load, train):
    model = network()
    transfer = tune(model, weights(), load=load, train=train, lora=NONE)
    groups, head = group_of(model), head_of(model)
    assert {*transfer.loaded} == {name for name, part in groups.items() if part in load}
    expected = {name for name, part in groups.items() if part in train}
    expected |= head if "decoder" not in load or "head" in train else set()
    assert trained(model) == expected


def test_a_head_that_does_not_fit_is_trained_whatever_is_asked():
    model = network(outputs=3)
    tune(model, weights(outputs=1), train=["mamba"], lora=NONE)
    groups = group_of(model)
    assert trained(model) == {n for n in groups if groups[n] == "mamba"} | head_of(model)


def test_what_was_asked_for_and_is_not_there_is_trained_and_so_never_left_at_random():
    model, there = network(), weights()
    del there["encoder3.conv1.weight"]
    transfer = tune(model, there, train=["mamba"], lora=NONE)
    assert "encoder3.conv1.weight" in trained(model) and not doubts(model, transfer)


def test_with_thin_matrices_nothing_else_is_trained_but_what_is_named():
    model = network()
    tune(model, weights(), lora=LoraConfig(rank=2))
    assert trained(model) and all(map(thin, trained(model)))
    model = network()
    tune(model, weights(), train=["mamba"], lora=LoraConfig(rank=2))
    rest = {name for name in trained(model) if not thin(name)}
    assert {name.rpartition(".")[2] for name in rest} == {
        "conv1d", "conv1d_bias", "dt_bias", "A_log", "D", "weight", "bias",
    }  # fmt: skip
    assert not any("proj" in name for name in rest)
    model = network()
    tune(model, weights(outputs=1), lora=LoraConfig(rank=2))
    assert {name for name in trained(model) if not thin(name)} == head_of(model)


def test_random_parts_that_are_not_trained_are_said():
    model = network()
    (line,) = doubts(model, tune(model, None, train=["mamba"], lora=NONE))
    assert "neither loaded nor trained" in line


def test_groups_that_a_network_does_not_have_are_refused():
    with torch.device("meta"):
        model = build_model("superhuman")
    with pytest.raises(ConfigError, match="has no parameters in mamba, it has encoder, decoder"):
        tune(model, None, train=["mamba"], lora=NONE)
