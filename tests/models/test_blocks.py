import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenunify_scale.models import blocks
from tokenunify_scale.models.blocks import (
    Conv3d,
    Double,
    GatedSpatialConv,
    LateralMLP,
    Residual,
    Up,
    probability,
)


def normed(x: Tensor) -> Tensor:
    """Instance norm without weights, eps 1e-5, written out."""
    mean, var = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), keepdim=True, unbiased=False)
    return (x - mean) / (var + 1e-5).sqrt()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def crops(channels: int, *sides: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, *sides, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("c", [2, 5])
def test_parameter_counts_follow_the_closed_forms(c):
    assert count(GatedSpatialConv(c)) == 2 * (27 * c * c + c) + 2 * (c * c + c)
    assert count(LateralMLP(c)) == 4 * c * c + 3 * c
    assert count(Residual(c, c)) == 25 * (c * c + c * c)
    assert count(Residual(3, c)) == 25 * (3 * c + c * c) + 3 * c
    assert count(Up(3, c)) == 8 * 3 * c + 25 * (2 * c * c + c * c) + 2 * c * c


def test_gated_spatial_convolution_is_two_branches_and_the_input():
    block, x = GatedSpatialConv(3).double(), crops(3, 2, 4, 5)
    spatial = torch.relu(normed(block.proj(x)))
    spatial = torch.relu(normed(block.proj2(spatial)))
    pointwise = torch.relu(normed(block.proj3(x)))
    mixed = torch.relu(normed(block.proj4(spatial + pointwise)))
    torch.testing.assert_close(block(x), mixed + x)


def test_the_lateral_mlp_norms_first_and_uses_the_exact_gelu():
    block, x = LateralMLP(3).double(), crops(3, 2, 4, 5)
    wide = block.fc1(normed(x))
    wide = wide * 0.5 * (1 + torch.erf(wide / 2**0.5))
    torch.testing.assert_close(block(x), block.fc2(wide))


@pytest.mark.parametrize("inputs", [3, 4])
def test_a_residual_adds_its_shortcut_before_the_last_activation(inputs):
    block, x = Residual(inputs, 4).double(), crops(inputs, 2, 6, 7)
    shortcut = x if inputs == 4 else normed(block.conv3(x))
    y = functional.leaky_relu(normed(block.conv1(x)), 0.01)
    y = normed(block.conv2(y)) + shortcut
    torch.testing.assert_close(block(x), torch.where(y > 0, y, 0.01 * y))


def test_residual_convolutions_stay_in_the_plane():
    block = Residual(1, 2).double()
    x = crops(1, 3, 6, 6)
    other = x.clone()
    other[:, :, 1] = 0
    difference = (block.conv1(x) - block.conv1(other)).abs().amax((0, 1, 3, 4))
    assert (difference > 0).tolist() == [False, True, False]


def test_up_doubles_all_sides_and_joins_the_skip():
    block, x, skip = Up(5, 3).double(), crops(5, 1, 2, 3), crops(3, 2, 4, 6)
    expected = block.conv_block(torch.cat([block.transp_conv(x), skip], 1))
    y = block(x, skip)
    assert y.shape == skip.shape
    torch.testing.assert_close(y, expected)
    assert (block(x, skip + skip.roll(1, 2)) != y).any()


@pytest.mark.parametrize(
    "block, channels", [(GatedSpatialConv(3), 3), (LateralMLP(3), 3), (Residual(3, 3), 3)]
)
def test_blocks_keep_the_shape(block, channels):
    x = torch.rand(2, channels, 3, 5, 7)
    assert block(x).shape == x.shape


def plain(monkeypatch):
    """Take torch's own functions, on contiguous memory."""
    def norm(x, *, activation=None, add=None):
        y = functional.instance_norm(x) + (0 if add is None else add)
        return {None: lambda y: y, "relu": torch.relu,
                "leaky_relu": functional.leaky_relu}[activation](y)

    monkeypatch.setattr(blocks, "instance_norm", norm)
    monkeypatch.setattr(Conv3d, "forward", nn.Conv3d.forward)
    monkeypatch.setattr(Double, "forward", nn.ConvTranspose3d.forward)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 2e-5)])
@pytest.mark.parametrize("build, shapes", [
    (lambda: GatedSpatialConv(6), [(1, 6, 4, 8, 8)]),
    (lambda: LateralMLP(6), [(2, 6, 3, 4, 8)]),
    (lambda: Residual(1, 8), [(1, 1, 4, 8, 8)]),
    (lambda: Residual(8, 8), [(2, 8, 4, 8, 8)]),
    (lambda: Residual(8, 40), [(1, 8, 1, 4, 3)]),
    (lambda: Up(8, 4), [(1, 8, 2, 4, 6), (1, 4, 4, 8, 12)]),
])
def test_blocks_are_torchs_own_in_value_and_every_gradient(monkeypatch, build, shapes, dtype,
                                                           tolerance):
    torch.manual_seed(0)
    block = build().double()
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    wanted = [*given, *block.parameters()]

    def value_and_gradients():
        y = block(*given)
        wave = torch.arange(y.numel()).to(y.dtype).sin().reshape(y.shape)
        return [y.detach(), *torch.autograd.grad(y, wanted, wave)]

    with monkeypatch.context() as patch:
        plain(patch)
        expected = value_and_gradients()
    block.to(dtype)
    given = [t.detach().to(dtype).requires_grad_() for t in given]
    wanted = [*given, *block.parameters()]
    largest = max(value.abs().max() for value in expected[1:])
    for result, value in zip(value_and_gradients(), expected, strict=True):
        # A bias before a norm has no effect: its gradient is rounding.
        assert (result - value).abs().max() <= tolerance * max(value.abs().max(), largest / 100)


def test_convolutions_have_the_parameters_of_torchs():
    ours, theirs = Conv3d(3, 4, (1, 5, 5), bias=False), nn.Conv3d(3, 4, (1, 5, 5), bias=False)
    ours.load_state_dict(theirs.state_dict())
    ours, theirs = Double(3, 4), nn.ConvTranspose3d(3, 4, 2, stride=2, bias=False)
    ours.load_state_dict(theirs.state_dict())


def test_memory_has_channels_last_from_the_first_convolution_on():
    residual, up, gsc = Residual(1, 4), Up(8, 4), GatedSpatialConv(8)
    skip = residual(torch.rand(1, 1, 4, 8, 8))
    y = up(gsc(torch.rand(1, 8, 2, 4, 4)), skip)
    assert skip.is_contiguous(memory_format=torch.channels_last_3d)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


def test_under_autocast_a_block_stays_in_bfloat16():
    with torch.autocast("cpu", torch.bfloat16):
        y = Up(8, 4)(torch.rand(1, 8, 2, 4, 6), torch.rand(1, 4, 4, 8, 12).bfloat16())
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("block, channels", [(GatedSpatialConv(4), 4), (Residual(4, 6), 4)])
def test_compiling_a_block_makes_no_graph_break(block, channels):
    x = torch.rand(1, channels, 4, 6, 8).contiguous(memory_format=torch.channels_last_3d)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), block(x))


def test_a_sure_answer_in_16_bits_can_still_be_unlearned():
    logits = torch.full((3,), 8.0, dtype=torch.bfloat16, requires_grad=True)
    assert torch.sigmoid(logits).max() == 1
    found = probability(logits)
    found.sum().backward()
    assert found.dtype == torch.float32 and found.max() < 1 and logits.grad.min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wider_types_keep_their_type(dtype):
    logits = torch.linspace(-3, 3, 5, dtype=dtype)
    assert torch.equal(probability(logits), torch.sigmoid(logits))
