import pytest
import torch
from torch import nn

from tokenunify_scale.measure import clock
from tokenunify_scale.measure.calls import Call
from tokenunify_scale.measure.layers import convolution, mamba, products
from tokenunify_scale.models.mamba import MambaLayer


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(clock, "TURN", 0.0)


def mamba_call(count=1):
    layer = MambaLayer(8, state=4, kernel=4)
    x = torch.rand(1, 8, 2, 3, 5, requires_grad=True)
    return Call(layer, x, {"chunks": 2, "residual": True}, count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layers_matrix_products_are_found_in_its_forward_pass(dtype):
    found = products(mamba_call(), dtype=dtype)
    shapes = sorted(tuple(map(tuple, (a, b))) for (a, _), (b, _) in found)
    steps, channels, inner, selected = 30, 8, 16, 9
    each = [((steps, inner), (inner, selected))]
    assert shapes == sorted(
        [((steps, channels), (channels, 2 * inner)), *each * 3, ((steps, inner), (inner, channels))]
    )
    assert {kind for product in found for _, kind in product} == {dtype}


def test_products_with_a_bias_are_found_too():
    call = Call(nn.Linear(3, 2), torch.rand(4, 3))
    assert products(call, dtype=torch.float32) == [
        [([4, 3], torch.float32), ([3, 2], torch.float32)]
    ]


def test_a_mamba_layer_is_its_kernels_and_a_rest():
    row = mamba(mamba_call(count=2), dtype=torch.float32, repeats=1)
    assert row["shape"] == [1, 8, 2, 3, 5] and row["count"] == 2
    assert row["kernels"] > 0 and row["products"] > 0
    assert row["rest"] == row["layer"] - row["kernels"]


@pytest.mark.parametrize(
    "layer, what",
    [
        (nn.Conv3d(2, 4, (1, 5, 5), padding=(0, 2, 2)), "1x5x5, 2 to 4"),
        (nn.ConvTranspose3d(2, 4, 2, stride=2, bias=False), "transposed 2x2x2, 2 to 4"),
    ],
)
def test_a_convolution_runs_as_it_is_and_as_torchs_in_two_layouts(monkeypatch, layer, what):
    seen = []

    class Own(type(layer)):
        def forward(self, x):
            seen.append("ours")
            return super().forward(x)

    layer.__class__ = Own
    plain = {name: getattr(nn.functional, name) for name in ("conv3d", "conv_transpose3d")}
    for name, function in plain.items():

        def watched(x, weight, *args, function=function):
            last = x.is_contiguous(memory_format=torch.channels_last_3d)
            assert last == weight.is_contiguous(memory_format=torch.channels_last_3d)
            seen.append("channels last" if last else "contiguous")
            return function(x, weight, *args)

        monkeypatch.setattr(f"tokenunify_scale.measure.layers.functional.{name}", watched)
    call = Call(layer, torch.rand(1, 2, 4, 6, 6, requires_grad=True))
    row = convolution(call, dtype=torch.float32, repeats=1)
    assert row["what"] == what and row["shape"] == [1, 2, 4, 6, 6]
    assert (
        list(row["seconds"]) == ["ours", "contiguous", "channels last"] == list(dict.fromkeys(seen))
    )
    assert call.x.is_contiguous()
