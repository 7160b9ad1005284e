import pytest
import torch

pytest.importorskip("transformers")  # before what imports it, hence E402 below

from tokenunify_scale.hub.parts.configuration_tokenunify import TokenUnifyConfig  # noqa: E402
from tokenunify_scale.hub.parts.modeling_tokenunify import TokenUnifyModel  # noqa: E402

ATTO = {"name": "emmamba_atto", "features": [4, 8, 16, 32], "hidden": 64}


@pytest.fixture(scope="module")
def model():
    return TokenUnifyModel(TokenUnifyConfig(model=ATTO, objective="affinity")).eval()


def test_lists_become_what_the_network_takes(model):
    assert model.network.config.features == (4, 8, 16, 32)
    assert sum(p.numel() for p in model.parameters()) == 477_851


@torch.inference_mode()
def test_outputs_have_names_and_places(model):
    crops = torch.randint(0, 256, (1, 1, 16, 32, 32), dtype=torch.uint8)
    output = model(crops)
    assert output.affinities is output.prediction and len(output.hidden_states) == 4
    assert torch.equal(model(crops / 255).prediction, output.prediction)
    as_tuple = model(pixel_values=crops, return_dict=False)
    assert torch.equal(as_tuple[0], output.prediction)


@pytest.mark.parametrize(
    "crops, told",
    [
        (torch.zeros(1, 3, 8, 32, 32), r"\[B, 1, D, H, W\], got \[1, 3, 8, 32, 32\]"),
        (torch.zeros(8, 32, 32), r"got \[8, 32, 32\]"),
        (torch.zeros(1, 1, 8, 32, 32, dtype=torch.int16), "uint8 or float, got torch.int16"),
    ],
)
def test_wrong_crops_are_refused(model, crops, told):
    with pytest.raises(ValueError, match=told):
        model(crops)


def test_missing_tensors_are_drawn_as_the_network_draws_them(model):
    fresh = TokenUnifyModel(TokenUnifyConfig(model=ATTO))
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.fill_(7.0)
        for module in fresh.modules():
            fresh._init_weights(module)
    layer = fresh.network.stages[0][0].mamba
    assert torch.equal(layer.A_log, model.network.stages[0][0].mamba.A_log)
    assert (layer.D == 1).all() and not any((p == 7).all() for p in fresh.parameters())
