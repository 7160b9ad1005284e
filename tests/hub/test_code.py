import importlib
import sys

import pytest
import torch

from tokenunify_scale import build_model, list_models
from tokenunify_scale.config import build_named, to_dict
from tokenunify_scale.hub.code import CONFIGURATION, MODELING, code_of
from tokenunify_scale.models.load import build_chosen
from tokenunify_scale.registry import MODELS

SMALL = {
    "emmamba_atto": {},
    "superhuman": {"widths": [4, 4, 6, 6, 8]},
    "mala": {"widths": [2, 3, 4, 5]},
    "pea": {"widths": [4, 4, 6, 6, 8]},
    "unetr": {"hidden": 24, "layers": 4, "heads": 2, "head": 12, "mlp": 32, "features": 4},
}
ODD = (7, 40, 36)  # sides that are padded


@pytest.fixture
def load(tmp_path, monkeypatch):
    """The two modules of a network, imported as transformers imports them."""
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(name):
        folder = tmp_path / f"of_{name}"
        folder.mkdir()
        for file, text in code_of(name).items():
            (folder / file).write_text(text)
        (folder / "__init__.py").touch()
        importlib.invalidate_caches()
        modules = [importlib.import_module(f"{folder.name}.{m}") for m in (CONFIGURATION, MODELING)]
        for module in modules:
            monkeypatch.delitem(sys.modules, module.__name__)
        return modules

    return load


def both(load, name, options):
    """The same fresh network twice: ours, and that of the code that travels."""
    model = build_named({"name": name, **options}, MODELS, where="model")
    ours = build_chosen(model, in_channels=1, out_channels=3).eval()
    configuration, modeling = load(name)
    config = configuration.TokenUnifyConfig(model=to_dict(model), objective="affinity")
    theirs = modeling.TokenUnifyModel(config).eval()
    theirs.network.load_state_dict(ours.state_dict())
    # Norms over few voxels make much of how a sum was rounded.
    return ours.double(), theirs.double()


@pytest.mark.parametrize("name, options", SMALL.items())
def test_each_kind_of_network_computes_what_it_does_at_home(load, name, options):
    torch.manual_seed(0)
    ours, theirs = both(load, name, options)
    sides = ours.legal(ODD) if name in ("mala", "unetr") else ODD
    crops = torch.rand(1, 1, *sides, dtype=torch.float64)
    with torch.inference_mode():
        found = theirs(crops)
        assert (found.prediction - ours(crops)).abs().max() < 1e-10
        for one, other in zip(found.hidden_states, ours.features(crops), strict=True):
            assert (one - other).abs().max() < 1e-10
    assert found.affinities is found.prediction


@pytest.mark.parametrize("options", [{"preset": "official"}, {"sections": "keep"}])
def test_habits_travel_too(load, options):
    torch.manual_seed(0)
    ours, theirs = both(load, "emmamba_atto", options)
    crops = torch.rand(1, 1, *ours.legal((8, 32, 32)), dtype=torch.float64)
    with torch.inference_mode():
        assert (theirs(crops).prediction - ours(crops)).abs().max() < 1e-10


def test_it_can_be_trained_there(load):
    torch.manual_seed(0)
    ours, theirs = both(load, "emmamba_atto", {})
    crops = torch.rand(1, 1, 8, 32, 32, dtype=torch.float64)
    ours(crops).square().mean().backward()
    theirs(crops).prediction.square().mean().backward()
    pairs = zip(ours.named_parameters(), theirs.network.parameters(), strict=True)
    for (name, one), other in pairs:
        assert (one.grad - other.grad).abs().max() < 1e-8, name


def test_halves_and_batches(load):
    ours, theirs = both(load, "emmamba_atto", {})
    ours.float()
    crops = torch.rand(2, 1, 8, 32, 32)
    with torch.inference_mode():
        found = theirs.to(torch.bfloat16)(crops).prediction
        assert found.dtype == torch.float32  # a probability
        assert (found - ours(crops)).abs().max() < 0.05


@pytest.mark.parametrize("name", list_models())
def test_code_of_every_model_compiles_and_needs_nothing_of_this_package(name):
    for file, text in code_of(name).items():
        compile(text, file, "exec")
        lines = [line.strip() for line in text.splitlines()]
        imports = [line for line in lines if line.startswith(("import ", "from "))]
        assert not [line for line in imports if "tokenunify_scale" in line or "numba" in line]
        assert text.isascii() and max(map(len, lines)) < 115


def test_what_travels_is_small_and_says_where_it_is_from():
    text = code_of("emmamba_atto")[f"{MODELING}.py"]
    assert "SIZES" not in text and "MODELS" not in text and "custom_op" not in text
    assert "# From tokenunify_scale/models/emmamba.py." in text and "Apache-2.0" in text
    assert build_model("emmamba_atto").__class__.__name__ in text
