"""What is hidden changes no prediction: not by a voxel, not by a bit."""

import sys
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, get_args

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


class Given(NamedTuple):
    """What a network is shown."""

    patch: tuple[int, int, int]
    sides: tuple[int, int, int]
    channels: int
    habits: tuple[tuple[str, str], ...]

    @property
    def options(self) -> dict:
        """Of its build: channels in and out, and how it treats sections."""
        return {"in_channels": self.channels, "out_channels": self.channels, **dict(self.habits)}


VOLUMES = {preset: Given(PATCH, SIDES, 1, (("preset", preset),)) for preset in PRESETS}
KEEP = (("sections", "keep"),)
PHOTOS = [Given((1, 16, 16), (1, 48, 64), 3, KEEP), Given((1, 8, 8), (1, 32, 40), 3, KEEP)]
SMALL = PerceiverConfig(width=16, latents=4, layers=2, heads=2)
POSITIONS = torch.tensor([4, 5])


@cache
def network(given: Given) -> nn.Module:
    torch.manual_seed(0)
    return build_model(
        "emmamba_atto", features=(4, 6, 8, 10), hidden=12, depths=(1, 1, 1, 1), state=4,
        skip_kernel=3, **given.options,
    )  # fmt: skip


def backbone(preset: str) -> nn.Module:
    return network(VOLUMES[preset])


def batch(given: Given = VOLUMES["default"]) -> dict[str, Tensor]:
    shape = (len(POSITIONS), given.channels, *given.sides)
    crops = torch.rand(shape, generator=torch.Generator().manual_seed(1))
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


def hidden_voxels(seen: corruption.Corrupted, given: Given = VOLUMES["default"]) -> Tensor:
    """Voxels of each sample and channel that none of its rows sees."""
    rows = expand_patches(seen.hidden, crop=given.sides, patch=given.patch)
    rows = rows.expand(-1, given.channels, -1, -1, -1)
    return torch.stack([rows[seen.rows == i].all(0) for i in range(len(POSITIONS))])


def changed(data: dict[str, Tensor], where: Tensor) -> dict[str, Tensor]:
    return {**data, "crops": torch.where(where, 1 - data["crops"], data["crops"])}


def one_voxel(choices: Tensor, at: float) -> Tensor:
    """One of the chosen voxels of each sample and one channel, at a share of their order."""
    one = torch.zeros_like(choices)
    for sample, place in enumerate(one):
        places = choices[sample].nonzero()
        place[tuple(places[int(at * (len(places) - 1))])] = True
    return one


def assert_nothing_leaks(
    model: nn.Module, *, decoders: set[str], given: Given = VOLUMES["default"]
) -> None:
    """Change all that is hidden: what the network is given and all it predicts stay, bit by bit."""
    data = batch(given)
    seen, told = look(model, data)
    hidden = hidden_voxels(seen, given)
    assert set(told) == decoders and 0 < hidden.float().mean() < 1
    again, found = look(model, changed(data, hidden))
    assert torch.equal(again.crops, seen.crops)
    for name in decoders:
        assert torch.equal(found[name], told[name]), name


@pytest.fixture(autouse=True)
def relevance_of_the_clean_crops(monkeypatch):
    """Hold the order of the path ``relevance`` fixed: it is a function of the whole crop."""
    scores = {each.patch: relevance(batch(each)["crops"], patch=each.patch)
              for each in (VOLUMES["default"], *PHOTOS)}  # fmt: skip
    monkeypatch.setattr(corruption, "relevance", lambda crops, *, patch: scores[patch])


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


@pytest.mark.parametrize("given", PHOTOS, ids=lambda given: f"patches of {given.patch[1]}")
@pytest.mark.parametrize(
    "path, fill",
    [*((path, "noise") for path in get_args(Path)), *(("hilbert", f) for f in get_args(Fill)[1:])],
)
def test_nothing_leaks_in_a_photograph_of_one_section_and_three_channels(given, path, fill):
    config = TokenUnifyConfig(patch=given.patch, path=path, fill=fill, perceiver=SMALL)
    torch.manual_seed(0)
    model = TokenUnify(config, backbone=network(given), seed=3, channels=3)
    assert_nothing_leaks(model, decoders={"dense", "head"}, given=given)


@pytest.mark.parametrize("given", PHOTOS, ids=lambda given: f"patches of {given.patch[1]}")
@pytest.mark.parametrize("path", get_args(Path))
def test_nor_does_one_later_value_of_one_channel_while_an_earlier_one_is_heard(given, path):
    config = TokenUnifyConfig(patch=given.patch, path=path, perceiver=SMALL)
    torch.manual_seed(0)
    model = TokenUnify(config, backbone=network(given), seed=3, channels=3)
    data = batch(given)
    seen, told = look(model, data)
    hidden = hidden_voxels(seen, given)
    for at in (0, 0.4, 0.7, 1):
        _, found = look(model, changed(data, one_voxel(hidden, at)))
        assert all(torch.equal(found[name], told[name]) for name in ("dense", "head"))
        _, found = look(model, changed(data, one_voxel(~hidden, at)))
        assert all(not torch.equal(found[name], told[name]) for name in ("dense", "head"))


@pytest.mark.parametrize("given", PHOTOS, ids=lambda given: f"patches of {given.patch[1]}")
@pytest.mark.parametrize("path", get_args(Path))
def test_baselines_hear_nothing_hidden_of_a_photograph_either(given, path):
    options = {"backbone": network(given), "seed": 3, "channels": 3}
    config = AutoregressiveConfig(patch=given.patch, path=path, fill="learned")
    assert_nothing_leaks(Autoregressive(config, **options), decoders={"dense"}, given=given)
    model = MAE(MAEConfig(patch=given.patch, fill="learned"), **options)
    assert_nothing_leaks(model, decoders={"dense"}, given=given)
