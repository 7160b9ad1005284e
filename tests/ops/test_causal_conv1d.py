import sys
import types

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tokenunify_scale.ops.causal_conv1d import _conv, _stock, causal_conv1d

ORDERS = ({}, {"reverse": True}, {"interleave": 5})


def inputs(batch=2, channels=20, length=40, taps=4, *, dtype=torch.float64, bias=True):
    """Random x [B, E, L], a transposed view of contiguous [B, L, E], with weight and bias."""
    draw = torch.Generator().manual_seed(length)
    shapes = [(batch, length, channels), (channels, taps)] + [(channels,)] * bias
    x, *rest = (torch.randn(s, generator=draw, dtype=torch.float64).to(dtype) for s in shapes)
    return [t.requires_grad_() for t in (x.transpose(1, 2), *rest)]


def value_and_gradients(given, **options):
    y = causal_conv1d(*given, **options)
    wave = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, given, wave)]


def assert_close(results, oracle, *, tolerance):
    for result, expected in zip(results, oracle, strict=True):
        off = (result.to(expected.dtype) - expected).abs().max()
        assert off <= tolerance * expected.abs().max()


def test_each_channel_is_filtered_by_its_own_taps_and_the_last_meets_the_present():
    x = torch.tensor([[[1.0, 2.0, 3.0]]])
    assert causal_conv1d(x, torch.tensor([[10.0, 1.0]])).tolist() == [[[1, 12, 23]]]
    assert causal_conv1d(x, torch.tensor([[10.0, 1.0]]), reverse=True).tolist() == [[[21, 32, 3]]]


@pytest.mark.parametrize("backend", ["chunked", "reference"])
@pytest.mark.parametrize("options", [{}, {"bias": True}], ids=str)
def test_plain_torch_is_its_convolution_cut_to_the_past(options, backend):
    x, weight, *bias = inputs(bias="bias" in options)
    padded = torch.nn.functional.conv1d(x, weight[:, None], *bias, padding=3, groups=20)
    torch.testing.assert_close(causal_conv1d(x, weight, *bias, backend=backend), padded[..., :40])


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("length", [1, 2, 7, 100, 400])
def test_cpu_equals_the_reference_in_value_and_every_gradient(length, order, activation):
    if "interleave" in order and length % 5:
        pytest.skip("the chunks do not divide the length")
    options = {"activation": activation, **order}
    given = inputs(length=length)
    oracle = value_and_gradients(given, backend="reference", **options)
    assert_close(value_and_gradients(given, backend="cpu", **options), oracle, tolerance=1e-12)
    single = [t.detach().float().requires_grad_() for t in given]
    assert_close(value_and_gradients(single, backend="cpu", **options), oracle, tolerance=3e-6)


@pytest.mark.parametrize("channels, taps, bias", [(1, 1, True), (33, 2, False), (64, 7, True)])
def test_any_number_of_channels_and_taps(channels, taps, bias):
    given = inputs(channels=channels, taps=taps, bias=bias)
    oracle = value_and_gradients(given, activation="silu", backend="reference")
    results = value_and_gradients(given, activation="silu", backend="cpu")
    assert_close(results, oracle, tolerance=1e-12)


@pytest.mark.parametrize("order", [{}, {"reverse": True}, {"interleave": 16}], ids=str)
def test_a_long_sequence_in_float32_equals_the_float64_reference(order):
    given = inputs(1, length=25600, dtype=torch.float32)
    wide = [t.detach().double().requires_grad_() for t in given]
    oracle = value_and_gradients(wide, activation="silu", backend="reference", **order)
    results = value_and_gradients(given, activation="silu", backend="cpu", **order)
    assert_close(results, oracle, tolerance=1e-5)


def test_every_memory_layout_gives_the_same_result():
    x, weight, bias = inputs()
    expected = causal_conv1d(x, weight, bias)
    torch.testing.assert_close(causal_conv1d(x.contiguous(), weight, bias), expected)
    torch.testing.assert_close(
        causal_conv1d(torch.cat((x, x), 1)[:, :20], weight.t().contiguous().t(), bias), expected)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_nan_reaches_the_steps_that_see_it_and_no_other(backend):
    x, weight, bias = (t.detach() for t in inputs())
    x[0, 3, 10] = torch.nan
    y = causal_conv1d(x, weight, bias, "silu", backend=backend)
    assert y.isnan().nonzero().tolist() == [[0, 3, k] for k in range(10, 14)]


def test_bfloat16_is_computed_in_float32_and_returned_as_it_came():
    given = [t.detach().to(torch.bfloat16).requires_grad_() for t in inputs()]
    results = value_and_gradients(given, activation="silu")
    assert all(t.dtype == torch.bfloat16 for t in results)
    wide = [t.detach().double().requires_grad_() for t in given]
    assert_close(results, value_and_gradients(wide, activation="silu"), tolerance=2**-7)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_gradients_are_the_derivatives(backend):
    assert torch.autograd.gradcheck(
        lambda *args: causal_conv1d(*args, "silu", reverse=True, backend=backend),
        tuple(inputs(1, 2, 6, 3)))


@pytest.mark.parametrize("bias", [True, False])
def test_the_operator_is_registered_correctly(bias):
    given = inputs(1, 3, 8, dtype=torch.float32, bias=bias)
    torch.library.opcheck(_conv, (*given, *[None] * (3 - len(given)), True, 2))


@pytest.mark.parametrize("backend", ["cpu", "chunked"])
def test_compiling_makes_no_graph_break(backend):
    def conv(*args):
        return causal_conv1d(*args, "silu", reverse=True, backend=backend)

    given = inputs(dtype=torch.float32)
    expected = conv(*given)
    y = torch.compile(conv, fullgraph=True, backend="aot_eager")(*given)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), given),
                               torch.autograd.grad(expected.sum(), given))


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_gives_the_same_gradients(reentrant):
    given = inputs(dtype=torch.float32)
    plain = torch.autograd.grad(causal_conv1d(*given, "silu").sum(), given)
    checkpoint(causal_conv1d, *given, "silu", use_reentrant=reentrant).sum().backward()
    for gradient, tensor in zip(plain, given, strict=True):
        assert torch.equal(gradient, tensor.grad)


def test_wrong_requests_are_refused():
    x, weight, bias = inputs()
    with pytest.raises(ValueError, match="activation"):
        causal_conv1d(x, weight, bias, "relu")
    with pytest.raises(ValueError, match=r"weight \[E, K\]"):
        causal_conv1d(x, weight[:3], bias)
    with pytest.raises(ValueError, match=r"bias must be \[20\]"):
        causal_conv1d(x, weight, bias[:3])


@pytest.mark.parametrize("code", [1, -1, 5])
def test_the_stock_kernel_gets_what_it_demands_and_its_result_is_put_back(monkeypatch, code):
    x, weight, bias = inputs(dtype=torch.bfloat16)

    def stock(x, weight, bias=None, *, activation):
        assert x.stride(-1) == 1 and weight.dtype == bias.dtype == x.dtype
        return causal_conv1d(x, weight, bias, activation)

    module = types.ModuleType("causal_conv1d")
    module.causal_conv1d_fn = stock
    monkeypatch.setitem(sys.modules, "causal_conv1d", module)
    order = {1: {}, -1: {"reverse": True}, 5: {"interleave": 5}}[code]
    torch.testing.assert_close(_stock(x, weight, bias, True, code),
                               causal_conv1d(x, weight, bias, "silu", **order))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_cuda_equals_the_reference_in_value_and_every_gradient(order):
    given = inputs(length=400)
    oracle = value_and_gradients(given, activation="silu", backend="reference", **order)
    on_cuda = [t.detach().float().cuda().requires_grad_() for t in given]
    y = causal_conv1d(*on_cuda, "silu", **order)
    wave = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).float().cuda()
    results = [y.cpu(), *(g.cpu() for g in torch.autograd.grad(y, on_cuda, wave))]
    assert_close(results, oracle, tolerance=1e-4)
