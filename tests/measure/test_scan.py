import sys
import types

import pytest
import torch

from tokenunify_scale import build_model
from tokenunify_scale.config import ConfigError
from tokenunify_scale.measure import clock, scan
from tokenunify_scale.measure.scan import Shape, forward_backward, tensors
from tokenunify_scale.ops.causal_conv1d import causal_conv1d
from tokenunify_scale.ops.selective_scan import selective_scan

SHAPE = Shape(channels=4, length=12)


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(clock, "TURN", 0.0)


def test_a_scans_inputs_lie_as_the_network_makes_them():
    given = tensors(channels=4, length=12, states=3)
    assert given["u"].shape == (1, 4, 12) and given["B"].shape == (1, 3, 12)
    assert all(given[name].transpose(1, 2).is_contiguous() for name in "uzBC")
    assert all(tensor.is_leaf and tensor.requires_grad for tensor in given.values())
    steps = torch.nn.functional.softplus(given["delta_bias"])
    torch.testing.assert_close(steps, torch.full((4,), scan.SLOPE))


def test_the_three_orders_are_possible_at_any_length():
    assert Shape(1, 24).orders == {
        "forward": {},
        "reverse": {"reverse": True},
        "interleaved": {"interleave": 8},
    }
    assert Shape(1, 100).orders["interleaved"] == {"interleave": 4}
    assert Shape(1, 7).orders["interleaved"] == {"interleave": 1}


def test_forward_and_backward_return_the_output_and_every_gradient():
    given = tensors(channels=4, length=12, states=3)
    y, *gradients = forward_backward(selective_scan, given, **scan.SOFTPLUS)()
    assert y.shape == given["u"].shape
    assert [g.shape for g in gradients] == [t.shape for t in given.values()]
    assert all(g.isfinite().all() and g.any() for g in gradients)


def test_a_scan_is_timed_in_all_orders_beside_its_floor():
    row = scan.beside_floor(SHAPE, states=3, repeats=1)
    assert (row["channels"], row["length"]) == SHAPE
    assert list(row["seconds"]) == ["forward", "reverse", "interleaved"]
    assert 0 < row["floor"] < min(row["seconds"].values())
    assert min(row["rates"].values()) > 0 and 0 < row["roofline"]


def test_a_scan_is_timed_beside_the_baselines_that_are_named():
    row = scan.beside_baselines(SHAPE, ["parallel scan"], states=3, repeats=1)
    assert list(row["seconds"]) == ["ours", "parallel scan"]
    row = scan.beside_baselines(SHAPE, ["per-step loop", "parallel scan"], states=3, repeats=1)
    assert list(row["seconds"]) == ["ours", "per-step loop", "parallel scan"]


def test_torchs_convolution_is_the_same_one(monkeypatch):
    results = {}

    def compute(works, *, repeats):
        results.update({name: work() for name, work in works.items()})
        return dict.fromkeys(works, 1.0)

    monkeypatch.setattr(scan, "medians", compute)
    row = scan.beside_torch_convolution(SHAPE, repeats=1)
    assert row == {"channels": 4, "length": 12, "seconds": {"ours": 1.0, "torch": 1.0}}
    y, other = results["ours"][0], results["torch"][0]
    torch.testing.assert_close(y, other)
    assert y.stride() == other.stride()


def test_on_a_gpu_ours_and_the_stock_kernel_get_the_same_inputs(monkeypatch):
    """Without a GPU: the tensors stay here, and our scan plays the stock kernel."""
    here = scan.tensors
    monkeypatch.setattr(scan, "tensors", lambda *, device, **sizes: here(**sizes))
    seen = []

    def stock(u, *others, **options):
        seen.append(u.is_contiguous())
        return selective_scan(u, *others, **options)

    module = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = stock
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row = scan.beside_stock(SHAPE, states=3, repeats=1)
    assert list(row["seconds"]) == ["ours", "mamba-ssm"] and set(seen) == {True}
    assert row["flop"] == 2 * 14 * 4 * 12 * 3


def test_the_convolutions_gradients_are_asked_for_too():
    given = {
        "x": torch.rand(1, 4, 6, requires_grad=True),
        "weight": torch.rand(4, 3, requires_grad=True),
    }
    y, dx, dweight = forward_backward(causal_conv1d, given)()
    assert y.shape == dx.shape == (1, 4, 6) and dweight.shape == (4, 3)


def test_a_networks_scans_are_found_without_computing_them():
    with torch.device("meta"):
        network = build_model("emmamba_atto", out_channels=1)
        shapes = scan.shapes_of(network, torch.empty(1, 1, 16, 16, 32))
        assert shapes == [(8, 1024), (16, 128), (32, 16), (64, 2)]
        with pytest.raises(ConfigError, match="Conv3d has no Mamba layer"):
            scan.shapes_of(torch.nn.Conv3d(1, 1, 1), torch.empty(1, 1, 4, 4, 4))


def test_the_loop_runs_at_few_steps_alone():
    found = scan.compare([SHAPE, Shape(8, 6)], short=5, states=3, repeats=1)
    assert [row["length"] for row in found["floors"]] == [12, 6, 5]
    assert [list(row["seconds"]) for row in found["baselines"]] == [
        ["ours", "per-step loop", "parallel scan"], ["ours", "parallel scan"]]  # fmt: skip
