"""Photographs: every objective of pretraining learns from one section of three channels."""

import math

import pytest
import torch
from torch import Tensor, nn

from tokenunify_scale.config import Named
from tokenunify_scale.models import build_model
from tokenunify_scale.models.perceiver import PerceiverConfig
from tokenunify_scale.objectives import build_objective, needs_labels, out_channels
from tokenunify_scale.objectives.autoregressive import AutoregressiveConfig
from tokenunify_scale.objectives.byol import BYOLConfig
from tokenunify_scale.objectives.corruption import corrupt
from tokenunify_scale.objectives.dbmim import DBMIM, DBMIMConfig
from tokenunify_scale.objectives.mae import MAEConfig
from tokenunify_scale.objectives.ms_con_em import MSConEMConfig
from tokenunify_scale.objectives.tokenunify import TokenUnifyConfig
from tokenunify_scale.registry import OBJECTIVES
from tokenunify_scale.tokens.patches import expand_patches

PATCH, SIDES = (1, 16, 16), (1, 48, 64)
SMALL = PerceiverConfig(width=16, latents=4, layers=1, heads=2)
LEARNED = {"patch": PATCH, "fill": "learned"}
CHOICES = {
    "tokenunify": TokenUnifyConfig(**LEARNED, perceiver=SMALL),
    "mae": MAEConfig(**LEARNED),
    "autoregressive": AutoregressiveConfig(**LEARNED, path="relevance"),
    "dbmim": DBMIMConfig(patch=PATCH),
    "byol": BYOLConfig(hidden=16, projection=8),
    "ms_con_em": MSConEMConfig(),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model(
        "emmamba_atto", sections="keep", in_channels=3, out_channels=3,
        features=(4, 6, 8, 10), hidden=12, depths=(1, 1, 1, 1), state=4, skip_kernel=3,
    )  # fmt: skip


def batch() -> dict[str, Tensor]:
    crops = torch.rand(4, 3, *SIDES, generator=torch.Generator().manual_seed(0))
    return {"crops": crops, "positions": torch.arange(4) + 10}


def objective(name: str, config=None) -> nn.Module:
    choice = Named(name, config or CHOICES[name])
    return build_objective(choice, backbone=network(), seed=3, channels=3).train()


def masks(model: DBMIM, data: dict[str, Tensor]) -> Tensor:
    """Voxels that a model hides of a batch, bool [B, 3, D, H, W]."""
    kept = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    model(data, progress=0.0)
    return kept[0] != data["crops"]


def test_these_are_all_that_need_no_labels():
    assert set(CHOICES) == {name for name in OBJECTIVES.names() if not needs_labels(name)}


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_an_objective_gives_back_what_comes_in_unless_labels_say_what(name):
    assert needs_labels(name) == (name == "affinity")
    expected = (3, 3) if needs_labels(name) else (1, 3)
    assert (out_channels(name), out_channels(name, channels=3)) == expected


@pytest.mark.parametrize("name", CHOICES)
def test_the_loss_is_finite_and_reaches_all_that_is_trained(name):
    model = objective(name)
    model(batch(), progress=0.5)  # byol's first step has nothing to hold on to
    output = model(batch(), progress=0.6)
    output.loss.backward()
    assert output.loss.isfinite() and output.loss > 0
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    if hasattr(model, "fill_bias"):
        assert model.fill_bias.shape == (3, *PATCH) and (model.fill_bias.grad != 0).all()


@torch.no_grad()
@pytest.mark.parametrize("side", [8, 16])
@pytest.mark.parametrize("head", ["perceiver", "dense"])
def test_each_term_is_the_error_over_the_voxels_and_channels_of_its_patches(head, side):
    patch = (1, side, side)
    config = TokenUnifyConfig(patch=patch, perceiver=SMALL, head=head)
    model, data = objective("tokenunify", config), batch()
    kinds = ["random", "prefix"] * 2
    options = {"patch": patch, "ratio": 0.75, "path": "raster", "seed": 3}
    seen = corrupt(data["crops"], data["positions"], kinds, **options)
    squares = (model.backbone(seen.crops) - data["crops"]).square().mean(1, keepdim=True)
    parts, sums = model(data, progress=0.5).parts, {"random": 0.0, "next": 0.0, "next_all": 0.0}
    for i, kind in enumerate(kinds):
        rows = {"random": seen.hidden} if kind == "random" else {
            "next": seen.following, "next_all": seen.hidden
        }  # fmt: skip
        for term, mask in rows.items():
            voxels = expand_patches(mask[i : i + 1], crop=SIDES, patch=patch)
            mean = squares[i : i + 1][voxels].mean().item()
            share = 2 * mask[i].float().mean().item() if term == "next_all" else 1.0
            sums[term] += share * mean
    for term, total in sums.items():
        name = f"dense_{term}" if head == "perceiver" and term != "random" else term
        assert parts[name].tolist() == pytest.approx([total, 2], rel=1e-4), term


def test_the_head_decodes_every_channel_of_a_patch():
    model = objective("tokenunify")
    assert model.head.voxels.out_features == 3 * math.prod(PATCH)
    truth = batch()["crops"]
    seen = corrupt(
        truth, torch.arange(4), ["prefix"] * 4, patch=PATCH, ratio=0.75, path="raster", seed=3
    )
    assert {x.shape for x in model.decode(seen).values()} == {(4, 12, 3 * math.prod(PATCH))}


@torch.no_grad()
@pytest.mark.parametrize("masking", ["mix", "edges", "policy"])
def test_a_decided_mask_is_that_of_the_mean_over_channels(masking):
    config, data = DBMIMConfig(patch=PATCH, masking=masking), batch()
    found = []
    for crops in (data["crops"], data["crops"][:, [2, 0, 1]]):
        model = objective("dbmim", config)
        if model.policy is not None:
            nn.init.ones_(model.policy.actor.weight)
        found.append(masks(model, {**data, "crops": crops}))
    assert torch.equal(*found) and (found[0].flatten(1).float().mean(1) == 0.75).all()
    assert torch.equal(found[0][:, 0], found[0][:, 2])


@pytest.mark.parametrize("name", ["tokenunify", "autoregressive", "dbmim"])
def test_twenty_steps_on_four_pictures_lower_the_loss(name):
    model, ramp = objective(name), torch.linspace(0, 1, 64).expand(1, 48, 64)
    crops = torch.stack([ramp, 1 - ramp, ramp**2])[None].expand(4, -1, -1, -1, -1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(20):
        loss = model({"crops": crops, "positions": torch.arange(4)}, progress=0.1).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
