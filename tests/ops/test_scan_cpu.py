import pytest
import torch

from tokenunify_scale.ops import scan_cpu
from tokenunify_scale.ops.order import STEPS


def inputs(length=100):
    draw = torch.Generator().manual_seed(0)
    u, delta, B, C = (torch.randn(2, length, n, generator=draw).transpose(1, 2)
                      for n in (24, 24, 4, 4))
    return u, delta, -torch.ones(24, 4), B, C, None, None, None


@pytest.mark.parametrize("length", [1, STEPS, STEPS + 1])
def test_one_state_is_kept_before_each_piece_and_the_first_is_zero(length):
    given = inputs(length)
    y, states = scan_cpu.forward(*given, softplus=True, chunks=1, keep=True)
    assert states.shape == (2, -(-length // STEPS), 4, 24)
    assert (states[:, 0] == 0).all()
    without, nothing = scan_cpu.forward(*given, softplus=True, chunks=1, keep=False)
    assert torch.equal(without, y) and nothing.numel() == 0


def test_what_is_kept_is_a_fraction_of_the_input():
    u, *_ = given = inputs(length=50 * STEPS)
    _, states = scan_cpu.forward(*given, softplus=True, chunks=1, keep=True)
    assert states.numel() == u.numel() * 4 / STEPS


def test_gradients_of_what_was_not_given_are_empty():
    given = inputs()
    y, states = scan_cpu.forward(*given, softplus=True, chunks=1, keep=True)
    gradients = scan_cpu.backward(torch.ones_like(y), *given, states, softplus=True, chunks=1)
    for gradient, tensor in zip(gradients, given, strict=True):
        assert gradient.shape == (torch.Size([0]) if tensor is None else tensor.shape)
