import pytest
import torch

from tokenunify_scale.ops import conv_cpu, kernels


def inputs(batch=3, channels=40, length=200, taps=4):
    draw = torch.Generator().manual_seed(0)
    shapes = ((batch, length, channels), (channels, taps), (channels,))
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in shapes)
    return x.transpose(1, 2), weight, bias


def test_results_lie_in_memory_as_the_network_wants_them():
    given = inputs()
    y = conv_cpu.forward(*given, silu=True, chunks=1)
    dx, dweight, dbias = conv_cpu.backward(y, *given, silu=True, chunks=1)
    assert y.transpose(1, 2).is_contiguous() and dx.transpose(1, 2).is_contiguous()
    assert [dweight.shape, dbias.shape] == [t.shape for t in given[1:]]


def test_no_bias_has_an_empty_gradient():
    x, weight, _ = inputs()
    _, _, dbias = conv_cpu.backward(x, x, weight, None, silu=False, chunks=1)
    assert dbias.numel() == 0


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(monkeypatch, threads):
    given = inputs()
    alone = [conv_cpu.forward(*given, silu=True, chunks=2),
             *conv_cpu.backward(given[0], *given, silu=True, chunks=2)]
    monkeypatch.setattr(kernels, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(kernels.torch, "get_num_threads", lambda: threads)
    together = [conv_cpu.forward(*given, silu=True, chunks=2),
                *conv_cpu.backward(given[0], *given, silu=True, chunks=2)]
    for result, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(result, expected)


def test_fewer_steps_than_taps_is_no_special_case():
    x, weight, bias = inputs(length=2, taps=5)
    y = conv_cpu.forward(x, weight, bias, silu=False, chunks=1)
    torch.testing.assert_close(y[..., 0], x[..., 0] * weight[:, 4] + bias)
    torch.testing.assert_close(
        y[..., 1], x[..., 0] * weight[:, 3] + x[..., 1] * weight[:, 4] + bias)
