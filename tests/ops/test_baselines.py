import sys
import types

import pytest
import torch

from tokenunify_scale.config import HostError
from tokenunify_scale.ops.baselines import parallel_scan, per_step, stock
from tokenunify_scale.ops.selective_scan import selective_scan


def inputs(length, *, leave_out=()):
    draw = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    given = {
        "u": normal(2, 5, length), "delta": normal(2, 5, length), "A": -normal(5, 3).exp(),
        "B": normal(2, 3, length), "C": normal(2, 3, length), "D": normal(5),
        "z": normal(2, 5, length), "delta_bias": normal(5) - 2,
    }  # fmt: skip
    return {k: v.requires_grad_() for k, v in given.items() if k not in leave_out}


def value_and_gradients(scan, given, **options):
    y = scan(**given, **options)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y, *torch.autograd.grad(y, given.values(), weights)]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 21, 64])
@pytest.mark.parametrize("scan", [per_step, parallel_scan])
def test_a_baseline_equals_the_reference_in_value_and_every_gradient(scan, length):
    given = inputs(length)
    results = value_and_gradients(scan, given, delta_softplus=True)
    oracle = value_and_gradients(selective_scan, given, delta_softplus=True, backend="reference")
    for result, expected in zip(results, oracle, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scan", [per_step, parallel_scan])
def test_a_baseline_does_without_optional_arguments(scan):
    given = inputs(9, leave_out=("D", "z", "delta_bias"))
    results = value_and_gradients(scan, given)
    oracle = value_and_gradients(selective_scan, given, backend="reference")
    for result, expected in zip(results, oracle, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scan", [per_step, parallel_scan])
def test_a_baseline_leaves_its_inputs_alone(scan):
    given = inputs(6)
    before = {name: tensor.detach().clone() for name, tensor in given.items()}
    value_and_gradients(scan, given, delta_softplus=True)
    for name, tensor in given.items():
        assert torch.equal(tensor, before[name]), name


def test_the_stock_kernel_is_called_as_it_is(monkeypatch):
    module = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = selective_scan
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    given = inputs(6)
    expected = selective_scan(**given, delta_softplus=True)
    assert torch.equal(stock(**given, delta_softplus=True), expected)


def test_without_mamba_ssm_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    with pytest.raises(HostError, match=r"mamba-ssm .*tokenunify-scale\[gpu\]"):
        stock(**inputs(2))
