import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from tokenunify_scale.models.superhuman import Superhuman, SuperhumanConfig, legal_size
from tokenunify_scale.registry import MODELS

WIDTHS = (2, 3, 4, 5, 6)
CROP = (3, 32, 48)


def network(**options) -> Superhuman:
    torch.manual_seed(0)
    return Superhuman(SuperhumanConfig(widths=WIDTHS), **options)


def noise(*sides: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 1, *sides, generator=torch.Generator().manual_seed(1))


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def scrambled(model: nn.Module) -> nn.Module:
    """Norms and biases away from where they start, so that they matter."""
    generator = torch.Generator().manual_seed(2)
    for name, value in model.state_dict().items():
        if "norm" in name and value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif name.endswith("bias"):
            value.copy_(torch.rand(value.shape, generator=generator) - 0.5)
    return model


def as_published(model: Superhuman, x: torch.Tensor) -> torch.Tensor:
    """The same network in plain torch and in the paper's order, norms as in evaluation."""
    weights = model.state_dict()

    def conv(name, x):
        weight = weights[f"{name}.weight"]
        padding = [side // 2 for side in weight.shape[2:]]
        return functional.conv3d(x, weight, weights.get(f"{name}.bias"), padding=padding)

    def norm(name, x):
        keys = ("running_mean", "running_var", "weight", "bias")
        return functional.elu(functional.batch_norm(x, *(weights[f"{name}.{k}"] for k in keys)))

    def block(name, x):
        residual = norm(f"{name}.norm1", conv(f"{name}.conv1", x))
        y = norm(f"{name}.norm2", conv(f"{name}.conv2", residual))
        return norm(f"{name}.norm3", conv(f"{name}.conv3", y) + residual)

    x = functional.elu(conv("trunk.embed_in", x))
    skips = []
    for level in range(4):
        skips.append(block(f"trunk.encoder.{level}", x))
        x = functional.max_pool3d(skips[-1], (1, 2, 2))
    x = block("trunk.encoder.4", x)
    for level in range(4):
        up = nn.Upsample(scale_factor=(1, 2, 2), mode="trilinear", align_corners=False)(x)
        x = conv(f"trunk.decoder.{level}.conv", up) + skips[3 - level]
        x = block(f"trunk.decoder.{level}.block", norm(f"trunk.decoder.{level}.norm", x))
    return torch.sigmoid(conv("out", functional.elu(conv("trunk.embed_out", x))))


def test_the_registered_network_has_the_published_parameters():
    entry = MODELS.get("superhuman")
    with torch.device("meta"):
        model = entry.factory(entry.config)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert count(model) == 1_477_659
    assert model(torch.empty(1, 1, 18, 160, 160, device="meta")).shape == (1, 3, 18, 160, 160)


@torch.inference_mode()
@pytest.mark.parametrize("sides", [CROP, (1, 16, 32)])
def test_it_computes_what_the_published_network_does(sides):
    model = scrambled(network().eval())
    crops = noise(*sides, batch=2)
    torch.testing.assert_close(model(crops), as_published(model, crops), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_features_are_those_of_the_encoder_halved_in_the_plane():
    found = [tuple(level.shape) for level in network().features(noise(3, 17, 48))]
    assert found == [(1, width, 3, 32 >> i, 48 >> i) for i, width in enumerate(WIDTHS)]


@torch.inference_mode()
def test_the_trunk_gives_a_decoder_map_a_level_fine_to_coarse():
    trunk = network().eval().trunk
    levels = trunk(noise(*CROP))
    found = [tuple(level.shape) for level in levels]
    assert found == [(1, width, 3, 32 >> i, 48 >> i) for i, width in enumerate(WIDTHS)]
    assert torch.equal(levels[-1], trunk.encode(noise(*CROP))[-1])  # the centre


@torch.inference_mode()
@pytest.mark.parametrize("sides", [(1, 1, 1), (2, 33, 47), (5, 16, 7), CROP])
def test_any_crop_will_do_and_the_output_lies_between_0_and_1(sides):
    output = network(out_channels=2).eval()(noise(*sides))
    assert output.shape == (1, 2, *sides)
    assert 0 < output.min() and output.max() < 1


@torch.inference_mode()
def test_padding_reflects_and_is_cut_off_again():
    model = network().eval()
    padded = functional.pad(noise(3, 20, 30), (0, 2, 0, 12, 0, 0), mode="reflect")
    torch.testing.assert_close(model(noise(3, 20, 30)), model(padded)[..., :20, :30])


@pytest.mark.parametrize(
    "sides, legal",
    [
        ((18, 160, 160), (18, 160, 160)),
        ((5, 33, 47), (5, 48, 48)),
        ((1, 1, 1), (1, 16, 32)),
        ((1, 16, 16), (1, 16, 32)),
        ((2, 16, 16), (2, 16, 16)),
        ((1, 32, 16), (1, 32, 16)),
    ],
)
def test_legal_sizes_are_multiples_of_16_with_more_than_one_voxel_at_the_centre(sides, legal):
    assert legal_size(sides) == legal == network().legal(sides)


@pytest.mark.parametrize("sides", [(1, 16, 16), (2, 16, 16)])
def test_the_smallest_crops_train(sides):
    output = network().train()(noise(*sides))
    output.sum().backward()
    assert output.shape == (1, 3, *sides) and output.isfinite().all()


def test_groups_partition_the_parameters():
    model = network()
    groups = model.groups()
    assert list(groups) == ["mamba", "encoder", "decoder"] and groups["mamba"] == []
    ids = [id(parameter) for group in groups.values() for parameter in group]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in model.parameters()}
    encoder = sum(parameter.numel() for parameter in groups["encoder"])
    assert encoder == count(model.trunk.embed_in, model.trunk.encoder)


def test_every_parameter_gets_a_gradient():
    model = network().train()
    (model(noise(*CROP)) - 0.3).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # A bias before a batch norm has no effect in training: its gradient is rounding, or 0.
        if not ("decoder" in name and name.endswith(".conv.bias")):
            assert parameter.grad.abs().max() > 0, name


def test_fresh_weights_are_kaiming_normal_biases_0_and_norms_the_identity():
    torch.manual_seed(0)
    model = Superhuman(SuperhumanConfig())
    for name, value in model.state_dict().items():
        if "norm" in name and value.is_floating_point():
            expected = 1.0 if name.endswith(("weight", "running_var")) else 0.0
            assert (value == expected).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        elif value.ndim == 5:
            std = math.sqrt(2 / value[0].numel())
            assert value.std().item() == pytest.approx(std, rel=5 / math.sqrt(value.numel())), name


@torch.no_grad()
def test_after_some_steps_evaluation_agrees_with_training():
    model, crops = network(), noise(4, 64, 64)
    fresh = model.eval()(crops)
    model.train()
    for _ in range(80):
        trained = model(crops)
    assert (model.eval()(crops) - trained).abs().mean() < 0.1 * (fresh - trained).abs().mean()


@torch.inference_mode()
def test_evaluation_repeats_itself_and_a_crop_does_not_depend_on_its_batch():
    model = network().eval()
    batch = torch.cat([noise(*CROP), 1 - noise(*CROP)])
    assert torch.equal(model(batch), model(batch))
    torch.testing.assert_close(model(batch)[1:], model(batch[1:]), rtol=1e-4, atol=1e-5)


def test_memory_with_channels_last_gives_the_same():
    plain, last = network(in_channels=2), network(in_channels=2)
    last = last.to(memory_format=torch.channels_last_3d)
    crops = torch.rand(2, 2, *CROP)
    outputs = plain(crops), last(crops.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    for output in outputs:
        output.square().sum().backward()
    for a, b in zip(plain.trunk.encoder.parameters(), last.trunk.encoder.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-3)


def test_under_autocast_maps_are_narrow_and_values_stay_near():
    torch.manual_seed(0)
    model = Superhuman(SuperhumanConfig(widths=(8, 8, 8, 8, 8))).train()
    crops = noise(*CROP)
    wide = model(crops)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        levels = model.trunk(crops)
        narrow = model(crops)
    assert {level.dtype for level in levels} == {torch.bfloat16}
    assert (narrow.float() - wide).abs().mean() < 0.02
    narrow.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("widths", [(28, 36, 48, 64), (28, 36, 0, 64, 80)])
def test_other_widths_than_five_of_at_least_one_are_refused(widths):
    with pytest.raises(ValueError, match="widths must be five numbers >= 1"):
        SuperhumanConfig(widths=widths)
