from copy import deepcopy

import pytest
import torch
from torch import nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models import build_model
from tokenunify_scale.models.recompute import recompute, recomputed

SMALL = {"features": (2, 2, 4, 4), "hidden": 4}
NETWORKS = {
    "emmamba_atto": SMALL,
    "unetr": {"hidden": 24, "layers": 4, "heads": 2, "head": 12, "features": 2},
}


def network(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, **NETWORKS[name], **options).train()


def gradients(model: nn.Module, *, cast: bool) -> dict[str, torch.Tensor]:
    """Of a loss on output and features, and the loss itself."""
    crops = torch.rand(2, 1, 16, 16, 32, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
        output, maps = model.both(crops)
    loss = (output - 0.3).square().mean() + sum(each.float().square().mean() for each in maps)
    loss.backward()
    return {"": loss.detach()} | {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("names", [["all"], ["decoder", "encoder1"]])
@pytest.mark.parametrize("name", NETWORKS)
def test_losses_and_gradients_are_the_same_bit_for_bit(name, names, cast):
    model = network(name)
    plain = gradients(model, cast=cast)
    recompute(model, names)
    again = gradients(model, cast=cast)
    assert len(recomputed(model)) > 4
    for key, tensor in plain.items():
        assert torch.equal(again[key], tensor), key


@pytest.mark.parametrize("name", NETWORKS)
def test_each_block_runs_again_in_the_backward_pass_and_only_if_it_is_asked_to(name):
    model, calls = network(name), []
    for key, blocks in model.blocks().items():
        for block in blocks:
            leaf = next(m for m in block.modules() if not [*m.children()])
            leaf.register_forward_pre_hook(lambda *_, key=key: calls.append(key))
    first = next(iter(model.blocks()))
    for names, expected in (([], 1), ([first], 2), (["all"], 2), ([], 1)):
        recompute(model, names)
        calls.clear()
        gradients(model, cast=False)
        for key, blocks in model.blocks().items():
            times = expected if key == first or names == ["all"] else 1
            assert calls.count(key) == times * len(blocks), (names, key)
    recompute(model, ["all"])
    calls.clear()
    with torch.no_grad():
        model(torch.rand(1, 1, 16, 16, 32))
    assert len(calls) == sum(map(len, model.blocks().values()))


def test_blocks_cover_all_but_what_is_cheap_to_keep():
    for name in NETWORKS:
        model = network(name)
        inside = [m for blocks in model.blocks().values() for m in blocks]
        assert len({id(m) for m in inside}) == len(inside)
        weights = sum(p.numel() for m in inside for p in m.parameters())
        assert weights > 0.5 * sum(p.numel() for p in model.parameters())


def test_a_kind_names_all_of_its_blocks():
    model = network("emmamba_atto")
    recompute(model, ["mamba", "encoder2"])
    assert recomputed(model) == ["encoder2", "mamba1", "mamba2", "mamba3", "mamba4"]
    recompute(model, ["gsc3"])
    assert recomputed(model) == ["gsc3"]
    recompute(model, [])
    assert recomputed(model) == [] and not any("forward" in vars(m) for m in model.modules())


def test_names_and_state_stay_and_a_copy_computes_again_with_its_own_weights():
    model = network("emmamba_atto")
    names = [*model.state_dict()]
    recompute(model, ["all"])
    assert [*model.state_dict()] == names
    copy = deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    expected = gradients(network("emmamba_atto"), cast=False)
    found = gradients(copy, cast=False)
    assert recomputed(copy) and all(torch.equal(found[key], expected[key]) for key in expected)


def test_blocks_that_are_not_there_are_refused():
    model = network("emmamba_atto")
    with pytest.raises(ConfigError, match="no block 'decodr2': did you mean 'decoder2'"):
        recompute(model, ["decodr2"])
    with pytest.raises(ConfigError, match="Superhuman has no blocks: leave it empty"):
        recompute(build_model("superhuman"), ["all"])
    recompute(build_model("superhuman"), [])
