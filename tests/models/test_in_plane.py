import pytest
import torch

from tokenunify_scale.models.blocks import Double, Up
from tokenunify_scale.models.in_plane import InPlaneDouble, InPlaneUp


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def same(factory, other, *sizes):
    """One of each, with the same weights."""
    first, second = factory(*sizes), other(*sizes)
    second.load_state_dict(first.state_dict())
    return first, second


@pytest.mark.parametrize("sections", [1, 5])
def test_a_section_becomes_the_mean_of_the_two_that_doubling_makes_of_it(sections):
    double, in_plane = same(Double, InPlaneDouble, 3, 4)
    x = noise(2, 3, sections, 4, 5)
    expected = double(x).unflatten(2, (sections, 2)).mean(3)
    found = in_plane(x)
    assert found.shape == (2, 4, sections, 8, 10)
    torch.testing.assert_close(found, expected)


def test_no_section_sees_another():
    in_plane, x = InPlaneDouble(2, 3), noise(1, 2, 4, 3, 3)
    whole = in_plane(x)
    for section in range(4):
        alone = in_plane(x[:, :, section : section + 1])
        torch.testing.assert_close(alone[:, :, 0], whole[:, :, section])


def test_both_halves_of_a_kernel_get_the_same_gradient():
    in_plane = InPlaneDouble(2, 3)
    (in_plane(noise(1, 2, 1, 3, 3)) * noise(1, 3, 1, 6, 6)).sum().backward()
    first, second = in_plane.weight.grad.unbind(2)
    assert torch.equal(first, second) and (first != 0).all()


def test_its_memory_has_channels_last_on_a_cpu():
    assert InPlaneDouble(2, 3)(noise(1, 2, 2, 3, 3)).movedim(1, -1).is_contiguous()


def test_a_step_up_keeps_the_sections_and_has_the_parameters_of_the_other():
    up, in_plane = same(Up, InPlaneUp, 4, 3)
    names = [{name: p.shape for name, p in each.named_parameters()} for each in (up, in_plane)]
    assert names[0] == names[1] and list(names[0]) == list(names[1])
    x, skip = noise(2, 4, 1, 4, 4), noise(2, 3, 1, 8, 8)
    expected = in_plane.conv_block(torch.cat([in_plane.transp_conv(x), skip], 1))
    assert in_plane(x, skip).shape == (2, 3, 1, 8, 8)
    assert torch.equal(in_plane(x, skip), expected)


def test_it_stays_the_same_under_autocast_but_for_rounding():
    in_plane, x = InPlaneDouble(2, 3), noise(1, 2, 2, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = in_plane(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), in_plane(x), rtol=0.05, atol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_computes_what_a_cpu_does():
    in_plane, x = InPlaneDouble(3, 4), noise(2, 3, 2, 4, 5)
    expected = in_plane(x)
    torch.testing.assert_close(in_plane.cuda()(x.cuda()).cpu(), expected, rtol=1e-2, atol=1e-2)
