import pytest
import torch

from tokenunify_scale.hub.parts import kernels
from tokenunify_scale.ops.causal_conv1d import causal_conv1d
from tokenunify_scale.ops.instance_norm import instance_norm
from tokenunify_scale.ops.selective_scan import selective_scan


def drawn(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=torch.float64) / 3 for s in shapes]


def value_and_gradients(function, tensors, **options):
    given = [tensor.clone().requires_grad_() for tensor in tensors]
    y = function(*given, **options)
    dy = torch.linspace(0, 1, y[0].numel(), dtype=y.dtype).view(y[0].shape)
    return [y, *torch.autograd.grad((y * dy).sum(), given)]


@pytest.mark.parametrize("order", [{}, {"reverse": True}, {"interleave": 5}])
def test_scan_and_convolution_are_those_at_home(order):
    scanned = drawn((2, 3, 50), (2, 3, 50), (3, 4), (2, 4, 50), (2, 4, 50), (3,), (2, 3, 50), (3,))
    for one, other, tensors, options in (
        (kernels.selective_scan, selective_scan, scanned, {"delta_softplus": True}),
        (kernels.causal_conv1d, causal_conv1d, drawn((2, 3, 50), (3, 4), (3,)),
         {"activation": "silu"}),
    ):  # fmt: skip
        found = value_and_gradients(one, tensors, **options, **order)
        expected = value_and_gradients(other, tensors, **options, **order, backend="reference")
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
def test_the_norm_is_that_at_home(activation):
    tensors = drawn((1, 3, 2, 4, 4), (1, 3, 2, 4, 4))

    def call(function):
        return value_and_gradients(
            lambda x, add: function(x, activation=activation, add=add), tensors
        )

    for a, b in zip(call(kernels.instance_norm), call(instance_norm), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="more than one value a channel"):
        kernels.instance_norm(torch.zeros(1, 3, 1, 1, 1))


def test_nothing_is_kept_where_no_gradient_is_asked_for(monkeypatch):
    asked = []
    real = kernels.scan_forward

    def forward(*words, keep, **options):
        asked.append(keep)
        return real(*words, keep=keep, **options)

    monkeypatch.setattr(kernels, "scan_forward", forward)
    u, A, B = drawn((1, 2, 9), (2, 3), (1, 3, 9))
    given = (u.requires_grad_(), u, A, B, B, None, None, None)
    kernels.selective_scan(*given, delta_softplus=False)
    with torch.no_grad():
        kernels.selective_scan(*given, delta_softplus=False)
    assert asked == [True, False]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_stock_kernels_give_the_same():
    x = torch.randn(1, 4, 40, device="cuda")
    assert kernels.has_stock(x) and not kernels.has_stock(x.double())
    weight = torch.randn(4, 4, device="cuda")
    found = kernels.causal_conv1d(x, weight, None, "silu")
    expected = causal_conv1d(x.cpu(), weight.cpu(), None, "silu", backend="reference")
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)
    A, B = -torch.rand(4, 8, device="cuda"), torch.randn(1, 8, 40, device="cuda")
    given = (x, torch.rand_like(x), A, B, B, None, x, None)
    found = kernels.selective_scan(*given, delta_softplus=True, reverse=True)
    given = [None if tensor is None else tensor.cpu() for tensor in given]
    expected = selective_scan(*given, delta_softplus=True, reverse=True, backend="reference")
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)
