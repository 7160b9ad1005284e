import copy

import pytest
import torch
from torch import nn

from tokenunify_scale.config import ConfigError, Named
from tokenunify_scale.models import build_model
from tokenunify_scale.models.load import build_chosen
from tokenunify_scale.models.lora import LoraConfig, adapt, merged, thin
from tokenunify_scale.models.mamba import TriOrientedMamba
from tokenunify_scale.models.unetr import UNETRConfig
from tokenunify_scale.train.construct import materialise

UNETR = Named("unetr", UNETRConfig(features=4, hidden=24, mlp=32, layers=3, heads=2, head=12))
CROP = torch.rand(1, 1, 4, 16, 32, generator=torch.Generator().manual_seed(0))


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "layer":
        return Layer()
    if kind == "unetr":
        return build_chosen(UNETR, in_channels=1, out_channels=3)
    return build_model(kind)


def stir(module: nn.Module) -> None:
    """Fill the matrices that begin as zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("_lora_up"):
                parameter.normal_(0, 0.3, generator=generator)


class Layer(nn.Module):
    """One Mamba layer over a short sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mamba = TriOrientedMamba(6)

    def forward(self, crop):
        return self.mamba(crop[0, 0, :, :6, :6].reshape(1, 24, 6), chunks=4)


@pytest.mark.parametrize(
    "kind, backend", [("emmamba_atto", "cpu"), ("unetr", "cpu"), ("layer", "chunked"),
                      ("layer", "reference")],
)  # fmt: skip
def test_a_network_computes_what_it_computed_and_merged_what_it_has_learned(
    kind, backend, monkeypatch
):
    monkeypatch.setenv("TOKENUNIFY_SCAN_BACKEND", backend)
    plain, model, config = network(kind), network(kind), LoraConfig(rank=2, alpha=3)
    adapted = adapt(model, config)
    with torch.inference_mode():
        before = plain(CROP)
        assert torch.equal(model(CROP), before)
        stir(model)
        after = model(CROP)
        assert (after - before).abs().max() > 1e-4
        plain.load_state_dict(merged(model.state_dict(), config=config))
        assert torch.equal(plain(CROP), after)
    assert adapted <= plain.state_dict().keys()


def test_the_sum_is_the_product_of_the_thin_matrices_times_alpha_over_rank():
    model, config = network("emmamba_atto"), LoraConfig(rank=2, alpha=3)
    adapt(model, config)
    stir(model)
    state = model.state_dict()
    whole, name = merged(state, config=config), "stages.3.0.mamba.x_proj"
    for direction in range(3):
        up, down = state[name + "_lora_up"][direction], state[name + "_lora_down"][direction]
        expected = state[name][direction] + 1.5 * up @ down
        torch.testing.assert_close(whole[name][direction], expected)
    assert not any(map(thin, whole)) and any(map(thin, state))


@pytest.mark.parametrize("backend", ["cpu", "chunked", "reference"])
def test_each_thin_matrix_gets_a_gradient(backend, monkeypatch):
    monkeypatch.setenv("TOKENUNIFY_SCAN_BACKEND", backend)
    model = Layer()
    adapt(model, LoraConfig(rank=2))
    stir(model)
    model(CROP).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if thin(name)}
    kinds = {name.rpartition("mamba.")[2].split("_lora")[0] for name in grads}
    assert kinds == {"in_proj.weight", "out_proj.weight", "x_proj", "dt_proj"}
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads.values())


def test_the_kernels_and_the_definition_agree_on_gradients(monkeypatch):
    found = {}
    for backend in ("cpu", "reference"):
        monkeypatch.setenv("TOKENUNIFY_SCAN_BACKEND", backend)
        model = Layer()
        adapt(model, LoraConfig(rank=2))
        stir(model)
        model(CROP).square().sum().backward()
        found[backend] = {n: p.grad for n, p in model.named_parameters() if thin(n)}
    for name, grad in found["cpu"].items():
        torch.testing.assert_close(grad, found["reference"][name], rtol=1e-4, atol=1e-5)


def test_what_is_drawn_later_is_a_function_of_the_seed_and_leaves_the_rest_as_it_was():
    def drawn(seed: int, rank: int) -> dict:
        with torch.device("meta"):
            model = build_model("emmamba_atto")
            if rank:
                adapt(model, LoraConfig(rank=rank))
        materialise(model, seed=seed)
        return copy.deepcopy(model.state_dict())

    plain, one, same, other = drawn(1, 0), drawn(1, 2), drawn(1, 2), drawn(2, 2)
    assert all(torch.equal(plain[name], one[name]) for name in plain)
    thins = [name for name in one if thin(name)]
    for name in thins:
        assert torch.equal(one[name], same[name])
        assert name.endswith("_up") != bool(one[name].any())
    downs = [name for name in thins if name.endswith("_down")]
    assert not any(torch.equal(one[name], other[name]) for name in downs)


def test_a_matrix_with_a_side_shorter_than_the_rank_takes_that():
    model = network("emmamba_atto")
    adapt(model, LoraConfig(rank=8))
    layer = model.stages[0][0].mamba
    assert layer.dt_proj.shape[-1] == 1 == layer.dt_proj_lora_down.shape[1]
    assert layer.in_proj.weight_lora_down.shape == (4, 4)  # of four channels


@pytest.mark.parametrize(
    "kind, targets", [("superhuman", ("mamba", "linear")), ("emmamba_atto", ("linear",)),
                      ("unetr", ("mamba",)), ("mala", ("mamba", "linear"))],
)  # fmt: skip
def test_a_network_without_such_layers_is_refused(kind, targets):
    with torch.device("meta"):
        model = network(kind)
    with pytest.raises(ConfigError, match="lora.rank is 4: .* has no layers of"):
        adapt(model, LoraConfig(rank=4, targets=targets))


@pytest.mark.parametrize("wrong", [{"rank": -1}, {"alpha": 0.0}, {"targets": ()}])
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="rank must be >= 0, alpha > 0"):
        LoraConfig(**wrong)
