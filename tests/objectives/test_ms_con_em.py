from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from tokenunify_scale.models.emmamba import SMALL_SIZES, EMmamba, EMmambaConfig
from tokenunify_scale.models.superhuman import Superhuman, SuperhumanConfig
from tokenunify_scale.models.unetr import UNETR, UNETRConfig
from tokenunify_scale.objectives.heads import cells
from tokenunify_scale.objectives.ms_con_em import MSConEM, MSConEMConfig, voxel_errors
from tokenunify_scale.objectives.views import STRONG, WEAK, Turn, make_view, turn
from tokenunify_scale.registry import OBJECTIVES
from tokenunify_scale.train.optim import OptimConfig, parameter_groups

SIDES = (8, 32, 32)
NETWORKS = {
    "emmamba": (EMmamba, EMmambaConfig(features=(2, 3, 4, 5), hidden=4, depths=(1, 1, 1, 1))),
    "superhuman": (Superhuman, SuperhumanConfig(widths=(2, 3, 4, 5, 6))),
    "unetr": (UNETR, UNETRConfig(hidden=8, layers=3, heads=2, head=4, mlp=8, features=2)),
}
STILL = {
    "turn": 0.0, "gamma": 0.0, "contrast": 0.0, "brightness": 0.0, "noise": 0.0, "blur": 0.0,
    "holes": 0,
}  # fmt: skip


def grown(name: str = "emmamba", **options) -> MSConEM:
    torch.manual_seed(0)
    factory, config = NETWORKS[name]
    backbone = factory(config, out_channels=1)
    return MSConEM(MSConEMConfig(**options), backbone=backbone, seed=3).train()


def batch(count: int = 4, start: int = 0, sides=SIDES) -> dict[str, torch.Tensor]:
    crops = torch.rand(4, 1, *sides, generator=torch.Generator().manual_seed(0))
    chosen = slice(start, start + count)
    return {"crops": crops[chosen], "positions": torch.arange(4)[chosen] + 20}


def smooth(count: int) -> torch.Tensor:
    """Crops of smooth random blobs."""
    coarse = torch.rand(count, 1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, SIDES, mode="trilinear", align_corners=True)


def straight(x: torch.Tensor, one: Turn) -> torch.Tensor:
    """Undo a turn of [C, D, H, W]."""
    x = x.transpose(2, 3) if one.transpose else x
    return x.flip([axis for axis, flip in zip((1, 2, 3), one.flips, strict=True) if flip])


@torch.no_grad()
@pytest.mark.parametrize("most", [2, 16])
def test_the_loss_is_that_of_a_loop_over_samples_scales_and_cells(most):
    model, data = grown(cells=most, consistency=0.3), batch(3, sides=(16, 32, 32))
    output, expected, total = model(data, progress=0.0), {}, 0.0
    for i in range(3):
        alone = {name: value[i : i + 1] for name, value in data.items()}
        seen = []
        for number, strength in enumerate((WEAK, STRONG)):
            view = make_view(*alone.values(), strength, seed=3, number=number)
            picture, maps = model.backbone.both(view.crops)
            seen.append([straight(x[0], view.turns[0]) for x in (picture, *maps)])
        pairs = [*zip(*seen, strict=True)]
        errors = [float((x - alone["crops"][0]).square().mean()) for x in pairs[0]]
        terms = {"voxel_weak": errors[0], "voxel_strong": errors[1]}
        for number, (weak, strong) in enumerate(pairs[1:], 1):
            sides, distances = [min(side, most) for side in weak.shape[1:]], []
            weak, strong = (functional.adaptive_avg_pool3d(x, sides) for x in (weak, strong))
            for place in torch.ones(sides).nonzero().tolist():
                a, b = (x[:, place[0], place[1], place[2]] for x in (weak, strong))
                a, b = a, model.predictors[number - 1](b)
                distances.append(float(2 - 2 * a @ b / (a.norm() * b.norm())))
            terms[f"scale_{number}"] = sum(distances) / len(distances)
        mean = sum(terms[f"scale_{n}"] for n in (1, 2, 3, 4)) / 4
        total += (sum(errors) / 2 + 0.3 * mean) / 3
        expected = {name: expected.get(name, 0) + value for name, value in terms.items()}
    assert output.loss.item() == pytest.approx(total, rel=1e-4)
    assert list(output.parts) == [*expected, "feature_std"]
    for name, value in expected.items():
        assert output.parts[name].tolist() == pytest.approx([value, 3], rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["emmamba", "unetr"])  # others have batch norms
@pytest.mark.parametrize("sides", [SIDES, (5, 20, 20)])
def test_the_loss_of_the_whole_batch_is_the_mean_over_its_parts(name, sides):
    model = grown(name)
    whole = model(batch(sides=sides), progress=0.0)
    pieces = [model(batch(1, start, sides), progress=0.0) for start in range(4)]
    losses = torch.stack([piece.loss for piece in pieces])
    torch.testing.assert_close(losses.mean(), whole.loss, rtol=1e-4, atol=1e-5)
    for key, value in whole.parts.items():
        found = sum(piece.parts[key] for piece in pieces)
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name):
    model = grown(name)
    model(batch(), progress=0.0).loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


class Plain(nn.Module):
    """Features and output that turn as the crop turns."""

    widths = (2, 2)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def legal(self, sides):
        return tuple(-(-side // 4) * 4 for side in sides)

    def both(self, crops):
        crops = crops * self.scale
        pair = torch.cat([crops - 0.4, crops.square() + 0.1], 1)
        return crops, (pair, functional.avg_pool3d(pair, 4))


@pytest.mark.parametrize("sides", [(4, 8, 8), (3, 7, 7), (4, 4, 8)])
def test_turned_views_of_a_network_that_turns_along_agree_exactly(sides):
    turned = replace(WEAK, **{**STILL, "turn": 0.5})
    model = MSConEM(MSConEMConfig(weak=turned, strong=turned), backbone=Plain(), seed=0)
    model.predictors = nn.ModuleList([nn.Identity(), nn.Identity()])
    output = model(batch(sides=sides), progress=0.0)
    assert output.loss.abs() < 1e-5
    assert output.parts["feature_std"][0] > 0


def test_nothing_is_learned_from_the_weak_views_features():
    still = replace(WEAK, **STILL)
    model = MSConEM(MSConEMConfig(weak=still, strong=still), backbone=Plain(), seed=0)
    maps, given = [], model.backbone.both

    def keep(crops):
        picture, features = given(crops)
        maps.extend(features)
        [each.retain_grad() for each in features]
        return picture, features

    model.backbone.both = keep
    model(batch(2, sides=(4, 8, 8)), progress=0.0).loss.backward()
    # The coarse map has no other use: its gradient is the loss's alone.
    assert (maps[1].grad[:2] == 0).all() and (maps[1].grad[2:] != 0).any()


def test_voxels_are_held_against_the_clean_crop_and_padding_is_not():
    crops, one = batch(2, sides=(3, 4, 4))["crops"], Turn((True, False, True), True)
    padded = torch.cat([functional.pad(crops, (0, 1, 0, 1, 0, 2), value=9.0)] * 2)
    padded[2:] += 0.5
    weak, strong = voxel_errors(turn(padded, [one] * 4), crops, [one] * 4)
    assert weak.tolist() == [0, 0] and strong.tolist() == pytest.approx([0.25, 0.25])


@pytest.mark.parametrize("most", [2, 3, 5, 16])
def test_averaging_and_turning_back_may_change_places(most):
    maps, one = torch.rand(1, 2, 5, 7, 7), Turn((True, True, False), True)
    sides = [min(side, most) for side in (5, 7, 7)]
    expected = functional.adaptive_avg_pool3d(maps, sides)
    found = cells(turn(maps, [one]), [one], sides=sides)
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2))


def test_thirty_steps_lower_every_term_and_keep_features_spread():
    torch.manual_seed(0)
    network = EMmamba(SMALL_SIZES["atto"], out_channels=1)
    model, crops = MSConEM(MSConEMConfig(), backbone=network, seed=0).train(), smooth(4)
    optimizer = torch.optim.AdamW(parameter_groups(model, OptimConfig()), lr=1e-3)
    rows = []
    for number in range(30):
        positions = torch.tensor([number])
        output = model(
            {"crops": crops[positions % 4], "positions": positions}, progress=number / 30
        )
        optimizer.zero_grad()
        output.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rows.append({name: float(total / count) for name, (total, count) in output.parts.items()})
    first, last = (
        {name: sum(row[name] for row in part) / 5 for name in rows[0]}
        for part in (rows[:5], rows[-5:])
    )
    assert min(row["feature_std"] for row in rows) > 0.3
    assert all(last[name] < first[name] for name in first if name != "feature_std")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"consistency": -1.0}, "consistency must be >= 0"),
        ({"cells": 0}, "cells >= 1"),
        ({"strong": replace(STRONG, shift=0.1)}, "shift must be 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        MSConEMConfig(**options)


def test_the_registry_names_it():
    entry = OBJECTIVES.get("ms_con_em")
    assert entry.factory is MSConEM
    assert entry.config == MSConEMConfig()
