import pytest
import torch
from torch import nn

from tokenunify_scale.models import build_model
from tokenunify_scale.models.groups import GROUPS, check_groups, group_of, head_of, train_only
from tokenunify_scale.registry import MODELS


@pytest.mark.parametrize("name", MODELS.names())
def test_each_tensor_has_a_group_and_the_head_is_in_the_decoder(name):
    with torch.device("meta"):
        network = build_model(name)
    groups = group_of(network)
    assert groups.keys() == network.state_dict().keys() and {*groups.values()} <= {*GROUPS}
    head = head_of(network)
    assert head and {groups[each] for each in head} == {"decoder"}
    for part, parameters in network.groups().items():
        found = {id(p) for n, p in network.named_parameters() if groups[n] == part}
        assert found == {id(p) for p in parameters}


def test_running_statistics_are_in_the_group_of_their_norm():
    groups = group_of(build_model("superhuman"))
    assert any(name.endswith("running_mean") for name in groups)
    for name, part in groups.items():
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert part == groups[name.rpartition(".")[0] + ".weight"]


def test_an_unknown_group_is_refused_with_the_list():
    with pytest.raises(ValueError, match="load: no group 'mamb'.*mamba"):
        check_groups(["encoder", "mamb"], key="load")


def test_what_is_not_trained_gets_no_gradient_and_keeps_its_statistics():
    torch.manual_seed(0)
    network = build_model("superhuman").train()
    groups = group_of(network)
    train_only(network, {name for name, part in groups.items() if part == "decoder"})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    network(torch.rand(1, 1, 2, 32, 32)).sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == (groups[name] == "decoder"), name
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            assert torch.equal(value, before[name]) == (groups[name] == "encoder"), name
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
    assert {norm.training for norm in norms} == {True, False}
    assert not any(norm.training for norm in network.eval().modules())
