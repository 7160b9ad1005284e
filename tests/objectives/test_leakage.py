"""What is hidden changes no prediction: not by a voxel, not by a bit."""

import sys
from collections.abc import Callable
from functools import cache
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from tokenunify_scale.models import build_model
from tokenunify_scale.models.perceiver import PerceiverConfig
from tokenunify_scale.objectives import corruption
from tokenunify_scale.objectives.autoregressive import Autoregressive, AutoregressiveConfig
from tokenunify_scale.objectives.corruption import Fill
from tokenunify_scale.objectives.mae import MAE, MAEConfig
from tokenunify_scale.objectives.tokenunify import TokenUnify, TokenUnifyConfig
from tokenunify_scale.tokens.order import Path
from tokenunify_scale.tokens.patches import expand_patches
from tokenunify_scale.tokens.relevance import relevance

PRESETS = ("default", "official")
PATCH, SIDES = (4, 8, 16), (16, 16, 80)  # the smallest crop with both presets' tokens: K = 40
SMALL = PerceiverConfig(width=16, latents=4, layers=2, heads=2)
POSITIONS = torch.tensor([4, 5])


@cache
def backbone(preset: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(
        "emmamba_atto", preset=preset, out_channels=1, features=(4, 6, 8, 10), hidden=12,
        depths=(1, 1, 1, 1), state=4, skip_kernel=3,
    )  # fmt: skip


def batch() -> dict[str, Tensor]:
    crops = torch.rand(len(POSITIONS), 1, *SIDES, generator=torch.Generator().manual_seed(1))
    return {"crops": crops, "positions": POSITIONS}


def look(model: nn.Module, data: dict[str, Tensor]) -> tuple[corruption.Corrupted, dict]:
    """What the objective hides in its own forward pass, and all that it then predicts."""
    seen, outputs, kept = [], {}, corruption.corrupt
    module = sys.modules[type(model).__module__]

    def spy(*args, **options):
        seen.append(kept(*args, **options))
        return seen[-1]

    def keep(name: str) -> Callable:
        return lambda _, inputs, output: outputs.update({name: output})

    hooks = [model.backbone.out.register_forward_hook(keep("dense"))]
    if getattr(model, "head", None) is not None:
        hooks.append(model.head.register_forward_hook(keep("head")))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(corruption, "corrupt", spy)
        patch.setattr(module, "corrupt", spy, raising=False)
        model(data, progress=0.5)
    for hook in hooks:
        hook.remove()
    return seen[0], outputs


def hidden_voxels(seen: corruption.Corrupted) -> Tensor:
    """Voxels of each sample that none of its rows sees."""
    rows = expand_patches(seen.hidden, crop=SIDES, patch=PATCH)
    return torch.stack([rows[seen.rows == i].all(0) for i in range(len(POSITIONS))])


def changed(data: dict[str, Tensor], where: Tensor) -> dict[str, Tensor]:
    return {**data, "crops": torch.where(where, 1 - data["crops"], data["crops"])}


def one_voxel(choices: Tensor, at: float) -> Tensor:
    """One of the chosen voxels of each sample, at a share of their raster order."""
    one = torch.zeros_like(choices)
    for sample, place in enumerate(one[:, 0]):
        places = choices[sample, 0].nonzero()
        place[tuple(places[int(at * (len(places) - 1))])] = True
    return one


def assert_nothing_leaks(model: nn.Module, *, decoders: set[str]) -> None:
    """Change all that is hidden: what the network is given and all it predicts stay, bit by bit."""
    data = batch()
    seen, told = look(model, data)
    hidden = hidden_voxels(seen)
    assert set(told) == decoders and 0 < hidden.float().mean() < 1
    again, found = look(model, changed(data, hidden))
    assert torch.equal(again.crops, seen.crops)
    for name in decoders:
        assert torch.equal(found[name], told[name]), name


@pytest.fixture(autouse=True)
def relevance_of_the_clean_crops(monkeypatch):
    """Hold the order of the path ``relevance`` fixed: it is a function of the whole crop."""
    scores = relevance(batch()["crops"], patch=PATCH)
    monkeypatch.setattr(corruption, "relevance", lambda crops, *, patch: scores)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("path", get_args(Path))
@pytest.mark.parametrize("fill", get_args(Fill))
def test_no_voxel_behind_a_prefix_changes_what_head_and_decoder_predict(preset, path, fill):
    config = TokenUnifyConfig(patch=PATCH, path=path, fill=fill, perceiver=SMALL)
    torch.manual_seed(0)
    model = TokenUnify(config, backbone=backbone(preset), seed=3)
    assert_nothing_leaks(model, decoders={"dense", "head"})


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("options", [{"head": "dense"}, {"prefixes_per_crop": 3}])
def test_nor_where_the_head_is_dense_or_prefixes_are_many(preset, options):
    config = TokenUnifyConfig(patch=PATCH, perceiver=SMALL, **options)
    torch.manual_seed(0)
    model = TokenUnify(config, backbone=backbone(preset), seed=3)
    assert_nothing_leaks(model, decoders={"dense"} if "head" in options else {"dense", "head"})


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("path", get_args(Path))
def test_no_later_voxel_changes_what_autoregression_predicts(preset, path):
    config = AutoregressiveConfig(patch=PATCH, path=path)
    model = Autoregressive(config, backbone=backbone(preset), seed=3)
    assert_nothing_leaks(model, decoders={"dense"})


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("fill", get_args(Fill))
def test_no_hidden_voxel_changes_what_masked_autoencoding_predicts(preset, fill):
    model = MAE(MAEConfig(patch=PATCH, fill=fill), backbone=backbone(preset), seed=3)
    assert_nothing_leaks(model, decoders={"dense"})


def test_no_single_voxel_that_is_hidden_tells_and_every_decoder_hears_one_that_is_not():
    config = TokenUnifyConfig(patch=PATCH, perceiver=SMALL)
    torch.manual_seed(0)
    model, data = TokenUnify(config, backbone=backbone("default"), seed=3), batch()
    seen, told = look(model, data)
    hidden = hidden_voxels(seen)
    for at in (0, 0.5, 1):
        _, found = look(model, changed(data, one_voxel(hidden, at)))
        assert all(torch.equal(found[name], told[name]) for name in ("dense", "head"))
        _, found = look(model, changed(data, one_voxel(~hidden, at)))
        for name in ("dense", "head"):
            assert all(not torch.equal(a, b) for a, b in zip(found[name], told[name], strict=True))


def test_the_mean_that_fills_is_that_of_the_visible_voxels_alone():
    config = TokenUnifyConfig(patch=PATCH, fill="mean", perceiver=SMALL)
    data = batch()
    seen, _ = look(TokenUnify(config, backbone=backbone("default"), seed=3), data)
    hidden = hidden_voxels(seen)
    for crop, filled, gone in zip(data["crops"], seen.crops, hidden, strict=True):
        expected = crop[~gone].double().mean().item()
        assert filled[gone].tolist() == pytest.approx([expected] * int(gone.sum()), abs=1e-6)
