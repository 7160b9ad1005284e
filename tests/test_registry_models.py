"""Laws that every registered network keeps, whatever it is."""

import io
from collections import Counter

import pytest
import torch

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models import build_model, list_models
from tokenunify_scale.models.published import published

MARGINLESS = [name for name in list_models() if name != "mala"]
SMALL = ["emmamba_atto", "emmamba_femto", "superhuman", "pea", "unetr"]
CROP = (8, 32, 32)


def grown(name, **options):
    torch.manual_seed(0)
    return build_model(name, **options)


@pytest.mark.parametrize("name", list_models())
def test_groups_partition_the_parameters(name):
    with torch.device("meta"):
        model = build_model(name)
    groups = model.groups()
    assert set(groups) == {"mamba", "encoder", "decoder"}
    grouped = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize("name", list_models())
def test_shapes_on_the_meta_device(name):
    outputs = 3 if name == "pea" else 2  # its affinities are three, whatever is asked
    with torch.device("meta"):
        model = build_model(name, out_channels=outputs)
    sides = published(name).crop
    assert model.legal(sides) == sides
    crops = torch.empty(1, 1, *sides, device="meta")
    inner = tuple(side - 2 * margin for side, margin in zip(sides, model.margin, strict=True))
    assert model(crops).shape == (1, outputs, *inner)
    features = model.features(crops)
    found = [feature.shape[2:].numel() for feature in features]
    assert found == sorted(found, reverse=True) and len(found) > 3
    assert [each.shape[1] for each in features] == [*model.widths]


@pytest.mark.parametrize("name", list_models())
def test_any_number_of_channels_goes_in(name):
    with torch.device("meta"):
        model = build_model(name, in_channels=3)
    crops = torch.empty(2, 3, *published(name).crop, device="meta")
    assert model(crops).shape[:2] == (2, 3)


@pytest.mark.parametrize("name", list_models())
def test_legal_sides_are_the_smallest_that_are_not_padded(name):
    with torch.device("meta"):
        model = build_model(name)
    for sides in ((1, 1, 1), (5, 33, 47), (40, 215, 240)):
        legal = model.legal(sides)
        assert all(a >= b for a, b in zip(legal, sides, strict=True)), legal
        assert model.legal(legal) == legal


def test_a_network_without_presets_refuses_the_official_one():
    with pytest.raises(ConfigError, match="unknown key preset"):
        build_model("superhuman", preset="official")


def calls_of(model, run, crops):
    """How often each module is called by ``run``."""
    counts = Counter()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: counts.update([name]))
        for name, module in model.named_modules()
    ]
    run(crops)
    for hook in hooks:
        hook.remove()
    return counts


@pytest.mark.parametrize("name", MARGINLESS)
def test_output_and_features_come_from_one_pass(name):
    with torch.device("meta"):
        model = build_model(name)
    sides = published(name).crop
    crops = torch.empty(1, 1, *sides, device="meta")
    found = calls_of(model, model.both, crops)
    assert set(found.values()) == {1}, [key for key, times in found.items() if times > 1]
    assert calls_of(model, model.features, crops).keys() <= found.keys()
    assert calls_of(model, model, crops).keys() == found.keys() | {""}
    stem = {"emmamba": "downsample.0", "unetr": "embed"}.get(name.split("_")[0], "trunk.embed_in")
    assert found[stem] == 1
    output, features = model.both(crops)
    assert output.shape == (1, 3, *sides)
    assert tuple(each.shape[1] for each in features) == tuple(model.widths)
    assert model.margin == (0, 0, 0)


@pytest.mark.parametrize("name", MARGINLESS)
def test_a_network_has_no_parameters_at_its_root(name):
    """``both`` is called on the network itself: of ZeRO-3, that gathers nothing for its root."""
    with torch.device("meta"):
        model = build_model(name)
    methods = [model, *([model.trunk] if hasattr(model, "trunk") else [])]  # as encode, decode are
    assert not [key for each in methods for key, _ in each.named_parameters(recurse=False)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sides", [CROP, (5, 33, 47)])
@pytest.mark.parametrize("name", SMALL)
def test_output_and_features_are_bit_for_bit_those_of_the_methods(name, sides, training):
    model, crops = grown(name).train(training), torch.rand(2, 1, *sides)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        output, features = model.both(crops)
        after = {key: value.clone() for key, value in model.state_dict().items()}
        model.load_state_dict(state)
        assert torch.equal(output, model(crops))
        assert all(torch.equal(after[key], value) for key, value in model.state_dict().items())
        model.load_state_dict(state)
        expected = model.features(crops)
    assert isinstance(features, tuple) and len(features) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(features, expected, strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_finite_gradient(name):
    model = grown(name)
    crops = torch.rand(1, 1, *CROP)
    maps = model.embeddings(crops) if name == "pea" else (model(crops),)
    sum((each - 0.3).square().mean() for each in maps).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", SMALL)
def test_a_state_dict_goes_round_and_gives_the_same_output(name):
    model, crops = grown(name), torch.rand(1, 1, *CROP)
    model(crops)  # moves the running statistics of a batch norm
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    other = build_model(name).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.inference_mode():
        assert torch.equal(model.eval()(crops), other(crops))


@pytest.mark.parametrize("name", SMALL)
def test_output_is_a_probability(name):
    with torch.inference_mode():
        output = grown(name)(torch.rand(1, 1, *CROP))
    assert output.shape == (1, 3, *CROP)
    assert 0 <= output.min() and output.max() <= 1 and output.std() > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", [*SMALL, "mala"])
def test_a_gpu_computes_what_a_cpu_does(name):
    model, sides = grown(name), (29, 214, 214) if name == "mala" else CROP
    crops = torch.rand(1, 1, *sides)
    with torch.no_grad():
        expected = model(crops)
        found = model.cuda()(crops.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)  # convolutions in TF32
