import math

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tokenunify_scale.ops.tri_mamba import _mix, tri_mamba


def inputs(batch=2, length=66, channels=20, states=5, rank=3, taps=4, dtype=torch.float64):
    """xz, then the stacked weights; A negative, products of moderate size."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    return [normal(batch, length, 2 * channels).to(dtype), normal(3, channels, taps),
            normal(3, channels), normal(3, rank + 2 * states, channels) / math.sqrt(channels),
            normal(3, channels, rank) / 8, normal(3, channels), -normal(3, channels, states).exp(),
            normal(3, channels)]


def gradients(given, **options):
    """The output and the gradient of every input."""
    leaves = [x.detach().requires_grad_() for x in given]
    y = tri_mamba(*leaves, **options)
    towards = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad(y, leaves, towards)]


def step_by_step(xz: Tensor, conv: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor,
                 dt_bias: Tensor, A: Tensor, D: Tensor, *, visits: list[int],
                 which: int) -> Tensor:
    """One direction of one sample, token by token in the order of ``visits``."""
    x, z = xz[0].chunk(2, -1)
    states, rank, out = A.shape[2], dt_proj.shape[2], torch.zeros_like(x)
    state = torch.zeros_like(A[which])
    for t, place in enumerate(visits):
        u = conv_bias[which].clone()
        for tap in range(min(conv.shape[2], t + 1)):
            u = u + conv[which][:, -1 - tap] * x[visits[t - tap]]
        u = u * torch.sigmoid(u)
        dt, b, c = (x_proj[which] @ u).split([rank, states, states])
        delta = torch.log1p(torch.exp(dt_proj[which] @ dt + dt_bias[which]))
        state = torch.exp(delta[:, None] * A[which]) * state + (delta * u)[:, None] * b
        y = state @ c + D[which] * u
        out[place] = y * z[place] * torch.sigmoid(z[place])
    return out


@pytest.mark.parametrize("backend", ["cpu", "chunked", "reference"])
@pytest.mark.parametrize("chunks", [1, 2, 3, 12])
def test_the_mixer_is_three_recurrences_written_out(backend, chunks):
    given = inputs(batch=1, length=12, channels=4, states=3, rank=2)
    size = 12 // chunks
    orders = [list(range(12)), list(range(11, -1, -1)),
              [chunk * size + k for k in range(size) for chunk in range(chunks)]]
    expected = sum(step_by_step(*given, visits=visits, which=i) for i, visits in enumerate(orders))
    y = tri_mamba(*given, chunks=chunks, backend=backend)
    torch.testing.assert_close(y[0], expected)


@pytest.mark.parametrize("dtype, tolerance", [
    (torch.float64, 1e-12), (torch.float32, 2e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("shape", [
    {}, {"batch": 1, "length": 1}, {"length": 100, "channels": 64, "states": 16, "rank": 2},
    {"channels": 3, "taps": 6}])
def test_one_operation_equals_its_parts(dtype, tolerance, shape):
    given = inputs(**shape, dtype=dtype)
    if dtype != torch.float64:
        given[1:] = [x.float() for x in given[1:]]
    fused = gradients(given, chunks=1)
    parts = gradients([x.double() for x in given], chunks=1, backend="reference")
    assert fused[0].dtype == dtype
    for result, expected in zip(fused, parts, strict=True):
        assert (result - expected).abs().max() <= tolerance * expected.abs().max()


def test_any_strides_are_taken():
    given = inputs()
    strided = [given[0].transpose(1, 2).contiguous().transpose(1, 2), *given[1:]]
    assert not strided[0].is_contiguous()
    for result, expected in zip(gradients(strided, chunks=3), gradients(given, chunks=3),
                                strict=True):
        torch.testing.assert_close(result, expected)


def test_threads_change_nothing_but_rounding(monkeypatch):
    given = inputs(channels=64)
    alone = gradients(given, chunks=3)
    monkeypatch.setattr("tokenunify_scale.ops.kernels.WORTH_A_THREAD", 1)
    monkeypatch.setattr("tokenunify_scale.ops.kernels.torch.get_num_threads", lambda: 5)
    for result, expected in zip(gradients(given, chunks=3), alone, strict=True):
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("which", range(8))
def test_nan_in_any_input_reaches_the_output(which):
    given = inputs(dtype=torch.float32)
    given[which].view(-1)[0] = torch.nan
    assert tri_mamba(*given, chunks=6).isnan().any()


@pytest.mark.parametrize("backend", ["cpu", "chunked", "reference"])
def test_shapes_alone_are_enough_to_plan(monkeypatch, backend):
    monkeypatch.setenv("TOKENUNIFY_SCAN_BACKEND", backend)
    given = [x.to("meta").requires_grad_() for x in inputs()]
    y = tri_mamba(*given, chunks=6)
    assert y.shape == (2, 66, 20) and y.is_meta
    y.sum().backward()
    assert all(x.grad.shape == x.shape for x in given)


def test_wrong_shapes_are_refused_by_name():
    given = inputs()
    with pytest.raises(ValueError, match=r"interleave=5 does not divide the length 66"):
        tri_mamba(*given, chunks=5)
    with pytest.raises(ValueError, match=r"D must be \[3, 20\] for xz \[2, 66, 40\], got \[20\]"):
        tri_mamba(*given[:-1], given[-1][0], chunks=6)
    with pytest.raises(ValueError, match=r"xz must be \[B, L, 2 E\], got \[66, 40\]"):
        tri_mamba(given[0][0], *given[1:], chunks=6)


def test_the_operation_is_registered_as_torch_wants_it():
    given = [x.requires_grad_() for x in inputs(length=40, dtype=torch.float32)]
    torch.library.opcheck(_mix, (*given, 5, True))


def test_gradients_are_those_of_differences():
    given = [x.requires_grad_() for x in inputs(1, 6, 2, 2, 1)]
    assert torch.autograd.gradcheck(lambda *x: tri_mamba(*x, chunks=3), given)


def test_a_compiled_graph_has_no_break():
    given = inputs()

    def mix(*x):
        return tri_mamba(*x, chunks=6)

    compiled = torch.compile(mix, fullgraph=True, backend="aot_eager")
    leaves = [x.clone().requires_grad_() for x in given]
    towards = torch.ones(2, 66, 20, dtype=torch.float64)
    found = torch.autograd.grad(compiled(*leaves), leaves, towards)
    expected = torch.autograd.grad(mix(*leaves), leaves, towards)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_nothing(reentrant):
    leaves = [x.requires_grad_() for x in inputs()]

    def mix(*x):
        return tri_mamba(*x, chunks=6)

    expected = torch.autograd.grad(mix(*leaves).sum(), leaves)
    checkpoint(mix, *leaves, use_reentrant=reentrant).sum().backward()
    torch.testing.assert_close(tuple(x.grad for x in leaves), expected)


def test_inference_keeps_nothing():
    with torch.no_grad():
        y, *kept = _mix(*inputs(), 6, False)
    assert y.shape == (2, 66, 20)
    assert all(x.numel() == 0 for x in kept)


def test_linear_maps_convolutions_and_scans_are_counted():
    given = [x.requires_grad_() for x in inputs()]
    with FlopCounterMode(display=False) as counter:
        tri_mamba(*given, chunks=6).sum().backward()
    tokens, channels, states, taps = 2 * 66, 20, 5, 4
    linear = 2 * (given[3].numel() + given[4].numel())
    forward = tokens * (linear + 3 * channels * (2 * taps + 9 * states + 2))
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_the_stock_kernels_agree_with_the_reference(dtype, tolerance):
    given = inputs(length=96, channels=64, states=16, rank=2, dtype=dtype)
    given[1:] = [x.float() for x in given[1:]]
    expected = gradients([x.double() for x in given], chunks=8, backend="reference")
    found = gradients([x.cuda() for x in given], chunks=8, backend="cuda")
    for result, oracle in zip(found, expected, strict=True):
        assert (result.cpu() - oracle).abs().max() <= tolerance * oracle.abs().max()
