import pytest
import torch
from torch import nn
from torch.nn import functional

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models.mala import MALA, MALAConfig, Spread
from tokenunify_scale.models.padding import middle
from tokenunify_scale.registry import MODELS

TOTAL = 84_020_475
SMALLEST = (29, 214, 214)


def network(widths=(2, 3, 4, 5), **options) -> MALA:
    torch.manual_seed(0)
    return MALA(MALAConfig(widths=widths), **options).eval()


def noise(*sides: int) -> torch.Tensor:
    return torch.rand(1, 1, *sides, generator=torch.Generator().manual_seed(1))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_those_of_the_published_code_and_building_on_meta_allocates_nothing():
    entry = MODELS.get("mala")
    with torch.device("meta"):
        model = entry.factory(entry.config)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert count(model) == TOTAL and entry.source == "Table 1"
    deepest = model.down[3]
    assert count(deepest) == 27 * 1500 * (300 + 1500) + 2 * 1500
    assert count(model.up[0].spread) == 9 * 1500
    assert count(model.up[0].narrow) == 1500 * 300 + 300


def test_the_published_crop_gives_the_published_output():
    with torch.device("meta"):
        model = MALA(MALAConfig(), out_channels=2)
        crop = torch.empty(1, 1, 53, 268, 268)
        assert model(crop).shape == (1, 2, 25, 56, 56)
        shapes = [tuple(feature.shape[1:]) for feature in model.features(crop)]
    assert shapes == [(12, 49, 264, 264), (60, 45, 84, 84), (300, 41, 24, 24), (1500, 37, 4, 4)]


@pytest.mark.parametrize("steps", range(6))
def test_at_every_legal_size_all_levels_fit_and_the_margin_is_what_it_says(steps, monkeypatch):
    cuts = []

    def noted(skip, sides):
        cuts.append(tuple(a - b for a, b in zip(skip.shape[2:], sides, strict=True)))
        return middle(skip, sides)  # refuses odd differences

    monkeypatch.setattr("tokenunify_scale.models.mala.middle", noted)
    sides = (29 + steps, 214 + 27 * steps, 214 + 27 * (steps % 2))
    with torch.device("meta"):
        model, crop = MALA(MALAConfig(widths=(1, 1, 1, 1))), torch.empty(1, 1, *sides)
        pooled = [tuple(feature.shape[3:]) for feature in model.features(crop)[:3]]
        output = model(crop)
    assert all(side % 3 == 0 for level in pooled for side in level)  # pooling drops nothing
    assert cuts == [(4, 12, 12), (12, 60, 60), (20, 204, 204)]
    assert tuple(output.shape[2:]) == tuple(
        side - 2 * cut for side, cut in zip(sides, MALA.margin, strict=True)
    )


@pytest.mark.parametrize(
    "sides, legal",
    [
        ((1, 1, 1), SMALLEST),
        (SMALLEST, SMALLEST),
        ((30, 215, 241), (30, 241, 241)),
        ((53, 268, 269), (53, 268, 295)),
        ((18, 160, 160), SMALLEST),
    ],
)
def test_legal_is_the_next_size_up(sides, legal):
    assert network().legal(sides) == legal


@pytest.mark.parametrize(
    "sides, nearest",
    [
        ((16, 160, 160), ["(29, 214, 214) with an output of (1, 2, 2)"]),
        (
            (53, 269, 268),
            [
                "(53, 268, 268) with an output of (25, 56, 56)",
                "(53, 295, 268) with an output of (25, 83, 56)",
            ],
        ),
        ((28, 300, 268), ["(29, 322, 268) with an output of (1, 110, 56)"]),
    ],
)
def test_other_crops_are_refused_with_the_nearest_sizes_and_their_outputs(sides, nearest):
    model, crop = network(), torch.empty(1, 1, *sides)
    for call in (model, model.features):
        with pytest.raises(ConfigError) as caught:
            call(crop)
        message = str(caught.value)
        assert message.startswith(f"crop {sides}: ")
        assert message.split("nearest: ")[1] == ", ".join(nearest)


class Plain(nn.Module):
    """The network once more, of torch's layers alone."""

    def __init__(self, widths, inputs: int, outputs: int) -> None:
        super().__init__()
        w0, w1, w2, w3 = widths
        pairs = [(inputs, w0), (w0, w1), (w1, w2), (w2, w3), (2 * w2, w2), (2 * w1, w1),
                 (2 * w0, w0)]  # fmt: skip
        self.convs = nn.ModuleList(
            nn.Conv3d(i, o, 3) for first, last in pairs for i, o in ((first, last), (last, last))
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(w, w, (1, 3, 3), stride=(1, 3, 3), groups=w, bias=False)
            for w in (w3, w2, w1)
        )
        self.narrow = nn.ModuleList(nn.Conv3d(i, o, 1) for i, o in ((w3, w2), (w2, w1), (w1, w0)))
        self.head = nn.Conv3d(w0, outputs, 1)

    def pair(self, x, number: int):
        for conv in self.convs[2 * number : 2 * number + 2]:
            x = nn.LeakyReLU(0.005)(conv(x))
        return x

    def forward(self, x):
        skips = []
        for level in range(4):
            x = nn.MaxPool3d((1, 3, 3), stride=(1, 3, 3))(x) if level else x
            x = self.pair(x, level)
            skips.append(x)
        x = skips.pop()
        for step in range(3):
            x = self.narrow[step](self.ups[step](x))
            skip = skips.pop()
            z, y, w = ((a - b) // 2 for a, b in zip(skip.shape[2:], x.shape[2:], strict=True))
            x = torch.cat([x, skip[:, :, z:-z, y:-y, w:-w]], 1)
            x = self.pair(x, 4 + step)
        return torch.sigmoid(self.head(x))


def same_weights(model: MALA, plain: Plain) -> Plain:
    """Copy ours into the oracle, in the order of its layers."""
    pairs = [*model.down, *(rise.pair for rise in model.up)]
    ours = [conv for pair in pairs for conv in (pair.conv1, pair.conv2)]
    ours += [rise.spread for rise in model.up] + [rise.narrow for rise in model.up] + [model.out]
    theirs = [*plain.convs, *plain.ups, *plain.narrow, plain.head]
    for mine, other in zip(ours, theirs, strict=True):
        other.load_state_dict(mine.state_dict())
    return plain


def test_the_network_is_torchs_layers_in_a_row():
    widths, crop = (2, 3, 4, 5), noise(31, 241, 214)
    model = network(widths, out_channels=2)
    plain = same_weights(model, Plain(widths, 1, 2))
    results = []
    for net in (model, plain):
        output = net(crop)
        (output - 0.3).square().mean().backward()
        results.append(output.detach())
    assert results[0].shape == (1, 2, 3, 29, 2)
    torch.testing.assert_close(*results)
    torch.testing.assert_close(model.down[0].conv1.weight.grad, plain.convs[0].weight.grad)
    torch.testing.assert_close(model.up[0].spread.weight.grad, plain.ups[0].weight.grad)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
def test_spread_is_the_transposed_convolution_of_each_channel_by_itself(memory):
    torch.manual_seed(0)
    spread = Spread(5).double()
    x = torch.randn(2, 5, 3, 4, 6, dtype=torch.float64).contiguous(memory_format=memory)
    x.requires_grad_()
    expected = functional.conv_transpose3d(x, spread.weight, stride=(1, 3, 3), groups=5)
    y, wave = spread(x), torch.linspace(-1, 2, expected.numel()).double().view_as(expected)
    assert y.shape == (2, 5, 3, 12, 18) and torch.equal(y, expected)
    assert y.is_contiguous(memory_format=memory)
    for mine, other in zip(
        torch.autograd.grad(y, (x, spread.weight), wave),
        torch.autograd.grad(expected, (x, spread.weight), wave),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@torch.inference_mode()
def test_a_network_that_takes_means_is_symmetric_so_skips_are_cut_alike_on_either_side():
    model = network((1, 1, 2, 2), out_channels=1)
    for name, parameter in model.named_parameters():
        parameter.fill_(1 / parameter[0].numel() if name.endswith("weight") else 0)
    for rise in model.up:
        rise.spread.weight.fill_(1)
    crop = noise(30, 214, 241)
    output = model(crop)
    assert output.std() > 1e-4
    torch.testing.assert_close(model(crop.flip(2, 3, 4)).flip(2, 3, 4), output, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_tiles_that_are_a_multiple_of_27_apart_in_the_plane_meet_without_a_seam():
    model, volume = network(), noise(30, 241, 214)
    whole = model(volume)
    torch.testing.assert_close(whole[:, :, 1:, 27:], model(volume[:, :, 1:, 27:]))
    assert (whole[:, :, :, 1:3] - model(volume[:, :, :, 1:215])).abs().max() > 1e-4


def test_weights_start_as_published():
    model = network((8, 16, 32, 64))
    conv = model.down[3].conv2.requires_grad_(False)
    assert conv.weight.std() == pytest.approx((2 / (1 + 0.005**2) / (27 * 64)) ** 0.5, rel=0.02)
    assert model.up[0].spread.weight.detach().std() == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    assert 0.5 / (27 * 64) ** 0.5 < conv.bias.abs().max() <= 1 / (27 * 64) ** 0.5


def test_groups_partition_the_parameters():
    model = network()
    groups = model.groups()
    assert list(groups) == ["mamba", "encoder", "decoder"] and groups["mamba"] == []
    ids = [id(parameter) for group in groups.values() for parameter in group]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in model.parameters()}
    assert sum(p.numel() for p in groups["encoder"]) == count(model.down)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_gradient_and_autocast_stays_finite(precision):
    model, crop = network(in_channels=2), noise(*SMALLEST).expand(-1, 2, -1, -1, -1)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        output = model(crop)
        assert model.down[0](crop).dtype == precision
    assert output.dtype == torch.float32 and output.shape == (1, 3, 1, 2, 2)
    assert 0 < output.min() and output.max() < 1
    (output - 0.3).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


def test_empty_levels_are_refused():
    with pytest.raises(ValueError, match="widths must be >= 1"):
        MALAConfig(widths=(12, 60, 0, 1500))


def test_it_says_how_wide_its_features_are():
    model = network((2, 3, 4, 5))
    with torch.device("meta"):
        maps = MALA(MALAConfig(widths=(2, 3, 4, 5))).features(torch.empty(1, 1, 29, 214, 214))
    assert tuple(each.shape[1] for each in maps) == model.widths == (2, 3, 4, 5)


def test_weights_are_drawn_so_that_the_variance_stays_and_taps_as_published():
    torch.manual_seed(0)
    model = MALA(MALAConfig(widths=(8, 16, 32, 64)))
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            inputs = module.weight[0].numel()
            expected = (2 / (1 + 0.005**2) / inputs) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.3)
            assert module.bias.abs().max() <= inputs**-0.5  # as torch draws it
        elif isinstance(module, Spread):
            assert module.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.2)
