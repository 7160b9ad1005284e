import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tokenunify_scale.ops import scan_chunked
from tokenunify_scale.ops.order import STEPS


def counting(length, *, dtype=torch.float64):
    """A scan of two channels and states that counts its steps: no decay, and ones."""
    ones, column = torch.ones(1, 2, length, dtype=dtype), torch.ones(1, 2, length, dtype=dtype)
    return ones, ones, torch.zeros(2, 2, dtype=dtype), column, column, None, None, None


def random(length, batch=2, channels=5, states=3):
    draw = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    u, delta, z = (normal(batch, channels, length) for _ in range(3))
    B, C = (normal(batch, states, length) for _ in range(2))
    return u, delta, -normal(channels, states).exp(), B, C, normal(channels), z, normal(channels)


def value_and_gradients(given, **options):
    y, states = scan_chunked.forward(*given, keep=True, **options)
    return y, states, *scan_chunked.backward(y.cos(), *given, states, **options)


@pytest.mark.parametrize("length", [1, STEPS, STEPS + 1, 3 * STEPS])
def test_one_state_is_kept_before_each_piece(length):
    given = counting(length)
    y, states = scan_chunked.forward(*given, softplus=False, chunks=1, keep=True)
    assert states.tolist() == [[[[k, k]] * 2 for k in range(0, length, STEPS)]]
    assert y.tolist() == [[list(range(2, 2 * length + 1, 2))] * 2]
    without, nothing = scan_chunked.forward(*given, softplus=False, chunks=1, keep=False)
    assert torch.equal(without, y) and nothing.shape == (1, 0, 2, 2)


def test_without_decay_a_gradient_counts_the_steps_that_follow():
    length = 2 * STEPS + 3
    given = counting(length)
    y, states = scan_chunked.forward(*given, softplus=False, chunks=1, keep=True)
    du, _, _, dB, dC, *_ = scan_chunked.backward(torch.ones_like(y), *given, states,
                                                 softplus=False, chunks=1)
    following = list(range(2 * length, 0, -2))
    assert du[0].tolist() == dB[0].tolist() == [following] * 2
    assert dC[0].tolist() == [following[::-1]] * 2


@pytest.mark.parametrize("length, chunks", [(2 * STEPS, 1), (1, 1), (105, -1), (105, 7)])
def test_groups_visit_every_position_once_in_order(monkeypatch, length, chunks):
    monkeypatch.setattr(scan_chunked, "TOGETHER", 2 * 2 * 15)
    given = scan_chunked._arguments(*random(length))
    visited = []
    for first, places in scan_chunked._groups(given, chunks):
        assert len(visited) == first * STEPS
        assert places.shape[1] <= 2
        visited += places.t().flatten().tolist()
    assert visited == scan_chunked.visit(torch.arange(length), chunks).tolist()


@pytest.mark.parametrize("numbers", [1, 2 * 2 * 15, 3 * 2 * 15])
@pytest.mark.parametrize("length, chunks", [(7, 1), (5 * STEPS, -1), (5 * STEPS + 12, 6)])
def test_how_many_pieces_step_together_changes_nothing(monkeypatch, length, chunks, numbers):
    given, options = random(length), {"softplus": True, "chunks": chunks}
    expected = value_and_gradients(given, **options)
    monkeypatch.setattr(scan_chunked, "TOGETHER", numbers)
    for result, value in zip(value_and_gradients(given, **options), expected, strict=True):
        torch.testing.assert_close(result, value, rtol=1e-12, atol=1e-12)


class _Largest(TorchDispatchMode):
    """Remembers the most numbers that a tensor made under it has room for."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.untyped_storage().nbytes() // out.itemsize)
        return out


def test_nothing_is_larger_than_the_input_in_a_long_sequence(monkeypatch):
    monkeypatch.setattr(scan_chunked, "TOGETHER", 2 * 2 * 15)
    given = random(100 * STEPS)
    with _Largest() as largest:
        value_and_gradients(given, softplus=True, chunks=1)
    assert largest.numbers == given[0].numel()


def test_results_lie_in_memory_as_the_network_wants_them():
    y, states, du, ddelta, _, dB, dC, _, dz, _ = value_and_gradients(random(40), softplus=True,
                                                                     chunks=1)
    assert states.is_contiguous()
    assert all(x.transpose(1, 2).is_contiguous() for x in (y, du, ddelta, dB, dC, dz))


def test_gradients_of_what_was_not_given_are_empty():
    given = (*random(40)[:5], None, None, None)
    *_, dC, dD, dz, dbias = value_and_gradients(given, softplus=True, chunks=1)
    assert dC.shape == (2, 3, 40) and [x.numel() for x in (dD, dz, dbias)] == [0, 0, 0]
