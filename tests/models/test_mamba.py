import math

import pytest
import torch
from torch import Tensor, nn

from tokenunify_scale.models.mamba import Direction, MambaLayer, TriOrientedMamba

E, N, K, R = 4, 3, 4, 2  # inner channels, state, taps, rank


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direction(seed: int = 0) -> Direction:
    torch.manual_seed(seed)
    return Direction(E, state=N, kernel=K, rank=R).double()


def layer(channels: int = 2, seed: int = 0) -> TriOrientedMamba:
    torch.manual_seed(seed)
    return TriOrientedMamba(channels, state=N).double()


def silence(scan: Direction) -> None:
    """Let a direction put out zeros: nothing read from the state, nothing passed by."""
    with torch.no_grad():
        scan.x_proj.weight.zero_()
        scan.D.zero_()


def step_by_step(scan: Direction, x: Tensor, z: Tensor) -> Tensor:
    """The recurrence of one direction, token by token and channel by channel."""
    weights = {name: p.detach() for name, p in scan.named_parameters()}
    a = -weights["A_log"].exp()
    out = torch.zeros_like(x)
    for sample in range(len(x)):
        state = torch.zeros(E, N, dtype=x.dtype)
        for t in range(x.shape[1]):
            u = weights["conv1d_bias"].clone()
            for tap in range(K):
                if t - tap >= 0:
                    u = u + weights["conv1d"][:, K - 1 - tap] * x[sample, t - tap]
            u = u * torch.sigmoid(u)
            dt, b, c = (weights["x_proj.weight"] @ u).split([R, N, N])
            delta = torch.log1p(torch.exp(weights["dt_proj"] @ dt + weights["dt_bias"]))
            for e in range(E):
                state[e] = torch.exp(delta[e] * a[e]) * state[e] + delta[e] * b * u[e]
                y = state[e] @ c + weights["D"][e] * u[e]
                out[sample, t, e] = y * z[sample, t, e] * torch.sigmoid(z[sample, t, e])
    return out


def test_a_direction_is_the_recurrence_written_out():
    x, z, scan = noise(2, 7, E), noise(2, 7, E, seed=1), direction()
    y = scan(x, z, reverse=False, interleave=None)
    torch.testing.assert_close(y, step_by_step(scan, x, z), rtol=1e-6, atol=1e-7)


def test_backward_is_forward_on_the_reversed_sequence():
    x, z, scan = noise(2, 8, E), noise(2, 8, E, seed=1), direction()
    flipped = scan(x.flip(1), z.flip(1), reverse=False, interleave=None).flip(1)
    torch.testing.assert_close(scan(x, z, reverse=True, interleave=None), flipped)


@pytest.mark.parametrize("chunks", [1, 2, 3, 12])
def test_interleaving_visits_one_token_of_each_chunk_in_turn(chunks):
    x, z, scan = noise(2, 12, E), noise(2, 12, E, seed=1), direction()
    size = 12 // chunks
    visits = [chunk * size + k for k in range(size) for chunk in range(chunks)]
    expected = torch.empty_like(x)
    expected[:, visits] = scan(x[:, visits], z[:, visits], reverse=False, interleave=None)
    torch.testing.assert_close(scan(x, z, reverse=False, interleave=chunks), expected)


def test_chunks_that_do_not_divide_the_sequence_are_refused():
    with pytest.raises(ValueError, match="interleave=5 does not divide the length 12"):
        layer()(noise(1, 12, 2), chunks=5)


def test_the_output_has_the_shape_of_the_input():
    assert layer()(noise(3, 12, 2), chunks=3).shape == (3, 12, 2)


@pytest.mark.parametrize("name", ["forward_scan", "backward_scan", "section_scan"])
def test_each_direction_contributes_and_the_three_are_summed(name):
    x, whole = noise(1, 12, 2), layer()
    full = whole(x, chunks=3)
    others = [s for s in ("forward_scan", "backward_scan", "section_scan") if s != name]
    without, alone = layer(), layer()
    silence(getattr(without, name))
    for other in others:
        silence(getattr(alone, other))
    difference = full - without(x, chunks=3)
    assert difference.abs().max() > 1e-6
    torch.testing.assert_close(alone(x, chunks=3), difference)


@pytest.mark.parametrize(
    "name, visits",
    [
        ("forward_scan", list(range(12))),
        ("backward_scan", list(range(11, -1, -1))),
        ("section_scan", [chunk * 4 + k for k in range(4) for chunk in range(3)]),
    ],
)
def test_a_token_reaches_only_the_tokens_that_its_direction_visits_later(name, visits):
    alone, x = layer(), noise(1, 12, 2)
    for other in {"forward_scan", "backward_scan", "section_scan"} - {name}:
        silence(getattr(alone, other))
    for token in (0, 5, 11):
        changed = x.clone()
        changed[0, token] += 1
        moved = (alone(changed, chunks=3) - alone(x, chunks=3))[0].abs().amax(-1) > 0
        reached = visits[visits.index(token) :]
        assert moved.nonzero().flatten().tolist() == sorted(reached)


def test_swapping_forward_and_backward_reverses_what_a_reversed_sequence_gives():
    mixer, swapped, x = layer(), layer(), noise(1, 12, 2)
    for module in (mixer, swapped):
        silence(module.section_scan)
    swapped.forward_scan, swapped.backward_scan = swapped.backward_scan, swapped.forward_scan
    reversed_twice = swapped(x.flip(1), chunks=3).flip(1)
    torch.testing.assert_close(mixer(x, chunks=3), reversed_twice)


def test_a_sample_does_not_depend_on_its_batch():
    mixer, x = layer(), noise(3, 12, 2)
    torch.testing.assert_close(mixer(x, chunks=3)[1:2], mixer(x[1:2], chunks=3))


def test_every_parameter_gets_a_gradient():
    mixer = MambaLayer(2, state=N, kernel=K).double()
    (mixer(noise(1, 2, 2, 2, 3), chunks=2, residual=True) ** 2).sum().backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("c", [2, 16, 40])
def test_parameter_count_follows_the_closed_form(c):
    e, n, k, r = 2 * c, 16, 4, math.ceil(c / 16)
    scans = 3 * (e * k + e + e * (r + 2 * n) + r * e + e + e * n + e)
    found = sum(p.numel() for p in MambaLayer(c, state=n, kernel=k).parameters())
    assert found == 3 * e * c + scans + 2 * c


def test_fresh_state_matrices_and_steps_are_mambas():
    torch.manual_seed(0)
    scan = Direction(64, state=16, kernel=4, rank=2)
    torch.testing.assert_close(scan.A_log.exp(), torch.arange(1.0, 17).expand(64, 16))
    assert scan.D.eq(1).all()
    steps = nn.functional.softplus(scan.dt_bias)
    assert 0.999e-3 < steps.min() < 5e-3 and 2e-2 < steps.max() < 1.001e-1
    assert 0.6 < scan.dt_proj.abs().max() <= 2**-0.5
    before = scan.dt_bias.clone()
    scan.reset_parameters()
    assert not torch.equal(scan.dt_bias, before)


def test_a_volume_is_read_with_x_fastest_and_the_residual_is_the_input():
    module, x = MambaLayer(2, state=N, kernel=K).double(), noise(1, 2, 2, 3, 4)
    tokens = [x[0, :, z, y, w] for z in range(2) for y in range(3) for w in range(4)]
    mixed = module.mamba(module.norm(torch.stack(tokens)[None]), chunks=2)[0]
    plain = module(x, chunks=2, residual=False)
    for i, (z, y, w) in enumerate((z, y, w) for z in range(2) for y in range(3) for w in range(4)):
        torch.testing.assert_close(plain[0, :, z, y, w], mixed[i])
    torch.testing.assert_close(module(x, chunks=2, residual=True), plain + x)
