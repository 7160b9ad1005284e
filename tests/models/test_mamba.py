import math

import pytest
import torch
from torch import Tensor, nn

from tokenunify_scale.models.mamba import MambaLayer, TriOrientedMamba

N, K = 3, 4  # state, taps
DIRECTIONS = ["forward", "backward", "section"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(channels: int = 2, seed: int = 0) -> TriOrientedMamba:
    torch.manual_seed(seed)
    return TriOrientedMamba(channels, state=N).double()


def silence(mixer: TriOrientedMamba, name: str) -> None:
    """Let a direction put out zeros: nothing read from the state, nothing passed by."""
    with torch.no_grad():
        mixer.x_proj[DIRECTIONS.index(name)].zero_()
        mixer.D[DIRECTIONS.index(name)].zero_()


def test_chunks_that_do_not_divide_the_sequence_are_refused():
    with pytest.raises(ValueError, match="interleave=5 does not divide the length 12"):
        layer()(noise(1, 12, 2), chunks=5)


def test_the_output_has_the_shape_of_the_input():
    assert layer()(noise(3, 12, 2), chunks=3).shape == (3, 12, 2)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_each_direction_contributes_and_the_three_are_summed(name):
    x, whole = noise(1, 12, 2), layer()
    full = whole(x, chunks=3)
    without, alone = layer(), layer()
    silence(without, name)
    for other in {*DIRECTIONS} - {name}:
        silence(alone, other)
    difference = full - without(x, chunks=3)
    assert difference.abs().max() > 1e-6
    torch.testing.assert_close(alone(x, chunks=3), difference)


@pytest.mark.parametrize(
    "name, visits",
    [
        ("forward", list(range(12))),
        ("backward", list(range(11, -1, -1))),
        ("section", [chunk * 4 + k for k in range(4) for chunk in range(3)]),
    ],
)
def test_a_token_reaches_only_the_tokens_that_its_direction_visits_later(name, visits):
    alone, x = layer(), noise(1, 12, 2)
    for other in {*DIRECTIONS} - {name}:
        silence(alone, other)
    for token in (0, 5, 11):
        changed = x.clone()
        changed[0, token] += 1
        moved = (alone(changed, chunks=3) - alone(x, chunks=3))[0].abs().amax(-1) > 0
        reached = visits[visits.index(token) :]
        assert moved.nonzero().flatten().tolist() == sorted(reached)


def test_swapping_forward_and_backward_reverses_what_a_reversed_sequence_gives():
    mixer, swapped, x = layer(), layer(), noise(1, 12, 2)
    for module in (mixer, swapped):
        silence(module, "section")
    with torch.no_grad():
        for name, parameter in swapped.named_parameters(recurse=False):
            parameter.copy_(getattr(mixer, name)[[1, 0, 2]])
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
    mixer = TriOrientedMamba(32)
    torch.testing.assert_close(mixer.A_log.exp(), torch.arange(1.0, 17).expand(3, 64, 16))
    assert mixer.D.eq(1).all()
    steps = nn.functional.softplus(mixer.dt_bias)
    assert 0.999e-3 < steps.min() < 5e-3 and 2e-2 < steps.max() < 1.001e-1
    assert 0.6 < mixer.dt_proj.abs().max() <= 2**-0.5
    assert 0.12 < mixer.x_proj.abs().max() <= 0.125
    before = mixer.dt_bias.clone()
    mixer.reset_parameters()
    assert not torch.equal(mixer.dt_bias, before)


def test_a_volume_is_read_with_x_fastest_and_the_residual_is_the_input():
    module, x = MambaLayer(2, state=N, kernel=K).double(), noise(1, 2, 2, 3, 4)
    tokens = [x[0, :, z, y, w] for z in range(2) for y in range(3) for w in range(4)]
    mixed = module.mamba(module.norm(torch.stack(tokens)[None]), chunks=2)[0]
    plain = module(x, chunks=2, residual=False)
    for i, (z, y, w) in enumerate((z, y, w) for z in range(2) for y in range(3) for w in range(4)):
        torch.testing.assert_close(plain[0, :, z, y, w], mixed[i])
    torch.testing.assert_close(module(x, chunks=2, residual=True), plain + x)


def test_memory_with_channels_last_stays_so():
    x = noise(2, 4, 2, 3, 4).to(memory_format=torch.channels_last_3d)
    y = MambaLayer(4, state=N, kernel=K).double()(x, chunks=2, residual=True)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
