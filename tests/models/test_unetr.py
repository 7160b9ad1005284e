import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from tokenunify_scale.models.count import cost
from tokenunify_scale.models.unetr import DEAD, UNETR, Attention, TransformerLayer, sincos
from tokenunify_scale.models.unetr_config import LADDER, UNETRConfig
from tokenunify_scale.registry import MODELS
from tokenunify_scale.tokens.patches import patchify, unpatchify

PUBLISHED = 129_071_547
CROP = (16, 160, 160)
# Source: Figure 6, the transformer's axis: parameters in millions, GMAC of one crop.
AXIS = {"100m": (100, 561), "200m": (200, 1249), "500m": (500, 2892), "1b": (1000, 5024)}
TINY = {"hidden": 12, "layers": 4, "heads": 2, "head": 4, "mlp": 8, "features": 2}


def network(*, in_channels: int = 1, out_channels: int = 3, **options) -> UNETR:
    torch.manual_seed(0)
    config = UNETRConfig(**{**TINY, **options})
    return UNETR(config, in_channels=in_channels, out_channels=out_channels).eval()


def on_meta(config: UNETRConfig) -> UNETR:
    with torch.device("meta"):
        return UNETR(config)


def noise(*sides: int) -> torch.Tensor:
    return torch.rand(1, 1, *sides, generator=torch.Generator().manual_seed(1))


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_with_what_the_release_never_uses_parameters_add_up_to_the_published_count():
    model = on_meta(UNETRConfig())
    assert all(parameter.is_meta for parameter in model.parameters())
    assert count(model) == 60_559_827
    assert count(model) + sum(DEAD.values()) == PUBLISHED
    assert DEAD["attention of width 4096"] == 4 * (4096**2 + 4096)
    assert DEAD["classification head, 768 to 1000"] == 2 * 768 + 768 * 1000 + 1000
    assert DEAD["position embedding of 801 tokens, class token"] == 801 * 768 + 768


def test_each_part_has_the_parameters_of_its_closed_form():
    model, f = on_meta(UNETRConfig()), 16
    attention = 2 * 768 + 3 * 768 * 512 + 512 * 768 + 768
    mlp = 2 * 768 + 768 * 2048 + 2048 + 2048 * 768 + 768
    assert count(model.layers) == 12 * (attention + mlp)
    assert count(model.embed) == 1024 * 768 + 768
    assert count(model.encoder2) == 8 * 768 * 2 * f + 2 * (8 * 4 * f * f + 9 * 8 * f * f)
    assert count(model.encoder4) == 8 * 768 * 8 * f
    assert count(model.sections) == 27 * 4 * f * f
    assert count(model.decoder2) == 8 * 2 * f * f + 9 * 3 * f * f + 2 * f * f
    assert count(model.out) == 3 * f + 3


@pytest.mark.parametrize("size", AXIS)
def test_a_rung_has_the_parameters_and_the_cost_of_figure_6(size):
    entry = MODELS.get(f"unetr_{size}")
    parameters, gmac = AXIS[size]
    found = cost(on_meta(entry.config), crop=CROP)
    assert found.parameters / 1e6 == pytest.approx(parameters, rel=0.02)
    assert found.gmac == pytest.approx(gmac, rel=0.05)
    assert entry.source == "Figure 6 (our design)" and entry.config is LADDER[size]


def test_the_papers_own_has_no_positions_as_its_release_never_adds_them():
    entry = MODELS.get("unetr")
    assert entry.config == UNETRConfig() and entry.config.positions == "none"
    assert entry.source == "Table 1" and entry.config.taps == (4, 7, 10)


def test_features_of_the_papers_crop_double_from_the_grid_of_patches():
    crop = torch.empty(1, 1, *CROP, device="meta")
    model = on_meta(UNETRConfig())
    assert [tuple(feature.shape[1:]) for feature in model.features(crop)] == [
        (16, 16, 160, 160), (32, 32, 80, 80), (64, 16, 40, 40), (128, 8, 20, 20), (768, 4, 10, 10),
    ]  # fmt: skip
    assert model(crop).shape == (1, 3, *CROP)


def test_attention_is_the_softmax_of_scaled_products_head_by_head():
    torch.manual_seed(0)
    layer = Attention(UNETRConfig(**TINY)).double()
    tokens = torch.randn(2, 5, 12, dtype=torch.float64)
    query, key, value = (tokens @ part.T for part in layer.qkv.weight.split(8))
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        weights = torch.softmax(query[..., h] @ key[..., h].transpose(1, 2) / math.sqrt(4), dim=-1)
        heads.append(weights @ value[..., h])
    expected = torch.cat(heads, -1) @ layer.out.weight.T + layer.out.bias
    torch.testing.assert_close(layer(tokens), expected)
    assert layer.qkv.bias is None


def test_a_layer_norms_before_attention_and_before_its_mlp():
    torch.manual_seed(0)
    layer = TransformerLayer(UNETRConfig(**TINY)).double()
    tokens = torch.randn(2, 5, 12, dtype=torch.float64)
    middle = tokens + layer.attention(functional.layer_norm(tokens, (12,)))
    wide = functional.layer_norm(middle, (12,)) @ layer.fc1.weight.T + layer.fc1.bias
    wide = wide * 0.5 * (1 + torch.erf(wide / 2**0.5))
    expected = middle + wide @ layer.fc2.weight.T + layer.fc2.bias
    torch.testing.assert_close(layer(tokens), expected)


def test_the_cost_of_attention_counts_both_products_over_all_pairs_of_tokens():
    class Alone(nn.Module):
        """One layer's attention on a crop's rows as tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention(UNETRConfig())

        def forward(self, crops):
            return self.attention(crops.flatten(0, 2))

    with torch.device("meta"):
        counted = cost(Alone(), crop=(1, 400, 768))
    assert counted.gmac * 1e9 == 400 * 4 * 768 * 512 + 2 * 400 * 400 * 512


@pytest.mark.parametrize(
    "layers, taps", [(12, (4, 7, 10)), (24, (7, 13, 19)), (4, (2, 3, 4)), (1, (1, 1, 1))]
)
@torch.inference_mode()
def test_tokens_after_each_quarter_join_the_decoder(layers, taps):
    model, outputs, joined = network(layers=layers), [], []
    for layer in model.layers:
        layer.register_forward_hook(lambda *call: outputs.append(call[2]))
    for module in (model.encoder2, model.encoder3, model.encoder4, model.decoder5):
        module.register_forward_hook(lambda *call: joined.append(call[1][0]))
    model(noise(8, 32, 48))
    assert model.config.taps == taps
    for number, tokens in zip((*taps, layers), joined, strict=True):
        expected = outputs[number - 1].view(1, 2, 2, 3, 12).permute(0, 4, 1, 2, 3)
        assert torch.equal(tokens, expected)


@torch.inference_mode()
def test_a_token_is_its_patch_at_its_place_in_the_grid():
    model, crop = network(), noise(8, 32, 48)
    seen = []
    model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(crop)
    patch = crop[0, 0, 4:8, 0:16, 32:48].flatten()  # z 1, y 0, x 2: raster order 1*6 + 0*3 + 2
    torch.testing.assert_close(seen[0][0, 8], model.embed(patch))


@torch.inference_mode()
@pytest.mark.parametrize("patch", [(2, 16, 16), (4, 16, 16), (8, 16, 16), (16, 16, 16)])
@pytest.mark.parametrize("sides", [(5, 33, 47), (1, 1, 1), (17, 16, 32)])
def test_any_crop_will_do(sides, patch):
    model = network(patch=patch, positions="sincos")
    output = model(noise(*sides))
    assert output.shape == (1, 3, *sides) and output.isfinite().all()
    assert 0 < output.min() and output.max() < 1


@torch.inference_mode()
def test_padding_reflects_and_is_cut_off_again():
    model, crop = network(), noise(6, 20, 30)
    padded = functional.pad(crop, (0, 2, 0, 12, 0, 2), mode="reflect")
    assert model.legal((6, 20, 30)) == (8, 32, 32) == tuple(padded.shape[2:])
    assert torch.equal(model(crop), model(padded)[..., :6, :20, :30])


@torch.inference_mode()
def test_without_positions_tokens_do_not_know_where_they_are_and_with_sincos_they_do():
    crop = noise(4, 32, 48)
    patches, order = patchify(crop, patch=(4, 16, 16)), torch.tensor([3, 0, 5, 1, 4, 2])
    moved = unpatchify(patches[:, order], crop=(4, 32, 48), patch=(4, 16, 16))
    alike = unpatchify(patches[:, :1].expand(-1, 6, -1), crop=(4, 32, 48), patch=(4, 16, 16))
    for positions in ("none", "sincos"):
        model = network(positions=positions)
        tokens, shuffled, same = (model.features(c)[-1].flatten(2) for c in (crop, moved, alike))
        blind = torch.allclose(shuffled, tokens[..., order], atol=1e-5)
        uniform = torch.allclose(same, same[..., :1].expand_as(same), atol=1e-5)
        assert blind == uniform == (positions == "none")


@pytest.mark.parametrize("width", [12, 16])
def test_positions_are_sines_and_cosines_of_z_y_and_x(width):
    table = sincos((2, 3, 4), width=width, device=torch.device("cpu"))
    assert table.shape == (24, width) and len(table.unique(dim=0)) == 24
    z, y, x, rates = 1, 2, 3, (1, 0.01)
    angles = [place * rate for place in (z, y, x) for rate in rates]
    expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    assert table[z * 12 + y * 4 + x].tolist() == pytest.approx(expected + [0] * (width - 12))


def test_groups_partition_the_parameters():
    model = network()
    groups = model.groups()
    assert list(groups) == ["mamba", "encoder", "decoder"] and groups["mamba"] == []
    ids = [id(parameter) for group in groups.values() for parameter in group]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in model.parameters()}
    assert sum(p.numel() for p in groups["encoder"]) == count(model.embed, model.layers)


@pytest.mark.parametrize("positions", ["none", "sincos"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_gradient_and_autocast_stays_finite(precision, positions):
    model = network(in_channels=2, positions=positions).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        output = model(noise(8, 32, 32).expand(-1, 2, -1, -1, -1))
        assert model.features(noise(8, 32, 32).expand(-1, 2, -1, -1, -1))[1].dtype == precision
    assert output.dtype == torch.float32
    (output - 0.3).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


@torch.inference_mode()
def test_a_crop_does_not_depend_on_its_batch():
    model = network(positions="sincos")
    batch = torch.cat([noise(8, 32, 32), 1 - noise(8, 32, 32)])
    torch.testing.assert_close(model(batch)[1:], model(batch[1:]))
