"""Laws that every registered network keeps, whatever it is."""

import io

import pytest
import torch

from tokenunify_scale.models import build_model, list_models

SMALL = ["emmamba_atto", "emmamba_femto"]
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
    with torch.device("meta"):
        model = build_model(name, out_channels=2)
    crops = torch.empty(1, 1, 16, 160, 160, device="meta")
    assert model(crops).shape == (1, 2, 16, 160, 160)
    sides = [feature.shape[2:] for feature in model.features(crops)]
    assert sides == sorted(sides, reverse=True)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_finite_gradient(name):
    model = grown(name)
    (model(torch.rand(1, 1, *CROP)) - 0.3).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", SMALL)
def test_a_state_dict_goes_round_and_gives_the_same_output(name):
    model, crops = grown(name).eval(), torch.rand(1, 1, *CROP)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    other = build_model(name).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.inference_mode():
        assert torch.equal(model(crops), other(crops))


@pytest.mark.parametrize("name", SMALL)
def test_output_is_a_probability(name):
    with torch.inference_mode():
        output = grown(name)(torch.rand(1, 1, *CROP))
    assert output.shape == (1, 3, *CROP) and 0 < output.min() and output.max() < 1
