import numpy as np
import pytest
import torch
from torch import nn

from tokenunify_scale.objectives.dbmim import DBMIM, DBMIMConfig, draw, uniform_error
from tokenunify_scale.objectives.mae import MAE, MAEConfig
from tokenunify_scale.registry import OBJECTIVES

PATCH, SIDES = (1, 2, 2), (2, 4, 6)  # 12 patches
MASKINGS = ["mix", "random", "edges", "policy"]


class Spy(nn.Module):
    """Keep what the network is given, put out one grey."""

    def forward(self, crops):
        self.given = crops
        return torch.full_like(crops, 0.5)


def batch(count: int = 4, start: int = 0, seed: int = 0) -> dict[str, torch.Tensor]:
    crops = torch.rand(4, 1, *SIDES, generator=torch.Generator().manual_seed(seed))
    return {
        "crops": crops[start : start + count],
        "positions": torch.arange(4)[start : start + count] + 10,
    }


def objective(backbone: nn.Module | None = None, seed: int = 3, **options) -> DBMIM:
    torch.manual_seed(0)
    backbone = backbone or nn.Conv3d(1, 1, 3, padding=1)
    model = DBMIM(DBMIMConfig(**{"patch": PATCH, **options}), backbone=backbone, seed=seed)
    if model.policy is not None:  # as if it had learned something
        nn.init.normal_(model.policy.actor.weight)
    return model


def masks(model: DBMIM, data: dict[str, torch.Tensor]) -> torch.Tensor:
    """What a model hides of a batch, bool [B, K]."""
    model.backbone = Spy()
    model(data, progress=0.0)
    changed = model.backbone.given != data["crops"]
    z, y, x = model.config.patch
    cells = changed.unfold(2, z, z).unfold(3, y, y).unfold(4, x, x)[:, 0].flatten(4)
    assert (cells.all(-1) == cells.any(-1)).all()  # a patch is hidden whole
    return cells.all(-1).flatten(1)


@pytest.mark.parametrize("masking", MASKINGS)
def test_the_loss_is_the_mean_over_hidden_patches_and_their_count_is_exact(masking):
    model, data = objective(masking=masking, policy_weight=0.0), batch()
    hidden = masks(objective(masking=masking), data)
    assert (hidden.sum(1) == 9).all()
    noise = draw(data["crops"], data["positions"], patch=PATCH, ratio=0.75, seed=3).noise
    seen, samples = data["crops"].clone(), []
    places = list(np.ndindex(2, 2, 3))
    for i in range(4):
        for k in hidden[i].nonzero().flatten().tolist():
            z, y, x = places[k]
            cut = (i, 0, z, slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))
            seen[cut] = noise[cut]
    prediction = model.backbone(seen).detach()
    for i in range(4):
        errors = [
            (prediction - data["crops"])[i, 0, z, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            .square()
            .mean()
            .item()
            for k, (z, y, x) in enumerate(places)
            if hidden[i, k]
        ]
        samples.append(sum(errors) / 9)
    output = model(data, progress=0.0)
    assert output.loss.item() == pytest.approx(sum(samples) / 4, rel=1e-5)
    assert output.parts["masked"].tolist() == pytest.approx([sum(samples), 4], rel=1e-5)


def test_uniform_masking_is_mae_to_the_bit():
    data = batch()
    ours = objective(masking="random")
    theirs = MAE(MAEConfig(patch=PATCH, ratio=0.75), backbone=ours.backbone, seed=3)
    assert torch.equal(ours(data, progress=0.0).loss, theirs(data, progress=0.0).loss)


def test_all_maskings_fill_with_the_same_noise():
    data, given = batch(), []
    for masking in MASKINGS:
        model = objective(Spy(), masking=masking)
        model(data, progress=0.0)
        given.append(model.backbone.given)
    for other in given[1:]:
        both = (given[0] != data["crops"]) & (other != data["crops"])
        assert both.any() and torch.equal(given[0][both], other[both])


@pytest.mark.parametrize("masking", MASKINGS)
def test_masks_do_not_depend_on_how_the_batch_is_split(masking):
    whole = masks(objective(masking=masking), batch())
    alone = [masks(objective(masking=masking), batch(1, start)) for start in range(4)]
    assert torch.equal(whole, torch.cat(alone))


@pytest.mark.parametrize("masking", MASKINGS)
def test_masks_depend_on_seed_and_position(masking):
    model, data = objective(masking=masking), batch()
    first = masks(model, data)
    torch.manual_seed(7)
    assert torch.equal(masks(model, data), first)
    later = {**data, "positions": data["positions"] + 4}
    assert not torch.equal(masks(model, later), first)
    assert not torch.equal(masks(objective(masking=masking, seed=4), data), first)


@pytest.mark.parametrize("masking", MASKINGS)
def test_the_fill_knows_nothing_of_what_it_hides(masking):
    model, data = objective(Spy(), masking=masking), batch()
    model(data, progress=0.0)
    noise = draw(data["crops"], data["positions"], patch=PATCH, ratio=0.75, seed=3).noise
    hidden = model.backbone.given != data["crops"]
    assert torch.equal(model.backbone.given[hidden], noise[hidden])


@pytest.mark.parametrize("masking", MASKINGS)
def test_the_loss_of_the_whole_batch_is_the_mean_over_its_parts(masking):
    model = objective(masking=masking)
    whole = model(batch(), progress=0.0)
    alone = [model(batch(1, start), progress=0.0) for start in range(4)]
    torch.testing.assert_close(whole.loss, torch.stack([a.loss for a in alone]).mean())
    for name, value in whole.parts.items():
        torch.testing.assert_close(value, sum(a.parts[name] for a in alone), rtol=1e-4, atol=1e-6)


def test_the_gradient_of_the_whole_batch_is_the_mean_over_its_parts():
    def gradient(*batches):
        model = objective(masking="policy", policy_weight=1.0)
        for data in batches:
            (model(data, progress=0.0).loss / len(batches)).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    alone = gradient(*(batch(1, start) for start in range(4)))
    torch.testing.assert_close(gradient(batch()), alone, rtol=1e-3, atol=1e-6)


def test_parts_are_named_and_only_a_policy_has_its_own():
    assert list(objective()(batch(), progress=0.0).parts) == ["masked"]
    parts = objective(masking="policy")(batch(), progress=0.0).parts
    assert list(parts) == ["masked", "policy", "reward", "entropy"]
    assert all(
        p.dtype == torch.float32 and p[1] == 4 and not p.requires_grad for p in parts.values()
    )
    assert objective().policy is None


def striped(count: int) -> dict[str, torch.Tensor]:
    """Crops of 32 patches, those of the left half with contrast, the right half grey."""
    crops = torch.rand(count, 1, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    crops[..., 8:] = 0.5
    return {"crops": crops, "positions": torch.arange(count)}


def left_share(model: DBMIM, data: dict[str, torch.Tensor]) -> float:
    """Share of the hidden patches that lie in the left half."""
    hidden = masks(model, data).reshape(-1, 2, 4, 4).float()
    return float(hidden[..., :2].sum() / hidden.sum())


def test_patches_with_edges_are_hidden_more_often():
    data, settings = striped(400), {"patch": (1, 4, 4), "ratio": 0.25}
    uniform = left_share(objective(masking="random", **settings), data)
    mix = left_share(objective(masking="mix", **settings), data)
    edges = left_share(objective(masking="edges", **settings), data)
    assert uniform == pytest.approx(0.5, abs=0.03)
    assert edges > 0.9
    # half of 8 by edges; the others uniformly from what is left: 12 of 28 lie on the left
    assert mix == pytest.approx(0.5 * edges + 0.5 * (16 - 4 * edges) / 28, abs=0.03)


@pytest.mark.parametrize("share, masking", [(0.0, "random"), (1.0, "edges")])
def test_the_ends_of_the_mix_are_uniform_and_edges(share, masking):
    data, settings = striped(400), {"patch": (1, 4, 4), "ratio": 0.25}
    mix = left_share(objective(masking="mix", edge_share=share, **settings), data)
    assert mix == pytest.approx(left_share(objective(masking=masking, **settings), data), abs=0.03)


def test_the_policy_learns_to_hide_what_a_frozen_backbone_gets_wrong():
    # The crops alternate between two textures of one contrast; the backbone knows fine stripes
    # and has never seen the coarse ones, so no statistic is the error by itself.
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(64, 1, 2, 16, 16, generator=generator) < 0.5
    fine = (torch.arange(16) % 2 == 0).expand_as(coarse)
    right = torch.arange(16) >= 8
    crops = torch.where(right, fine, coarse).float()

    class Knows(nn.Module):
        """Fine stripes are put out right; anything else is grey."""

        def forward(self, _):
            return torch.where(right, fine, torch.tensor(0.5)).float()[:8]

    torch.manual_seed(0)
    config = DBMIMConfig(patch=(1, 4, 4), ratio=0.5, masking="policy")
    model = DBMIM(config, backbone=Knows(), seed=0)
    data = {"crops": crops, "positions": torch.arange(64)}
    before = left_share(DBMIM(config, backbone=Spy(), seed=0), data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(40):
        rows = slice(8 * (step % 8), 8 * (step % 8) + 8)
        output = model(
            {"crops": crops[rows], "positions": torch.arange(8) + 8 * step}, progress=0.0
        )
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert output.parts["reward"][0] / 8 > 0.02
    after = left_share(model, data)
    assert before == pytest.approx(0.5, abs=0.05) and after > 0.8


def test_the_policys_gradient_and_the_backbones_do_not_meet():
    def gradients(**options):
        model = objective(masking="policy", **options)
        model(batch(), progress=0.0).loss.backward()
        return [p.grad for p in model.backbone.parameters()], [
            p.grad for p in model.policy.parameters()
        ]

    with_policy, lesson = gradients(policy_weight=1.0)
    without, nothing = gradients(policy_weight=0.0)
    assert all(torch.equal(a, b) for a, b in zip(with_policy, without, strict=True))
    assert all(g.abs().max() > 0 for g in with_policy)
    assert all(g is not None and g.count_nonzero() == 0 for g in nothing)
    assert all(g.abs().max() > 0 for g in lesson)


def test_all_of_the_policy_has_a_gradient_from_the_first_step_on():
    torch.manual_seed(0)
    config = DBMIMConfig(patch=PATCH, masking="policy")
    model = DBMIM(config, backbone=nn.Conv3d(1, 1, 3, padding=1), seed=3)
    model(batch(), progress=0.0).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.policy.actor.weight.grad.abs().max() > 0


def test_the_held_out_error_is_maes_and_the_same_for_all_maskings():
    data, errors = batch(), []
    for masking in MASKINGS:
        model = objective(masking=masking)
        errors.append(uniform_error(model.backbone, data, patch=PATCH, ratio=0.75, seed=5))
    theirs = MAE(MAEConfig(patch=PATCH, ratio=0.75), backbone=model.backbone, seed=5)
    assert len(torch.stack(errors).unique()) == 1
    assert torch.equal(errors[0], theirs(data, progress=0.0).loss)
    assert not errors[0].requires_grad
    assert all(p.requires_grad for p in model.backbone.parameters())


def test_sections_of_several_channels_and_isotropic_gradients_are_taken():
    crops = torch.rand(2, 3, 1, 8, 8)
    for options in ({"gradient": "volume"}, {"masking": "policy"}):
        model = objective(nn.Conv3d(3, 3, 1), patch=(1, 4, 4), **options)
        data = {"crops": crops, "positions": torch.arange(2)}
        assert model(data, progress=0.5).loss.isfinite()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ratio": 1.0}, "ratio must be in"),
        ({"edge_share": 1.5}, "edge_share in"),
        ({"edge_power": -1.0}, "edge_power must be >= 0, got -1.0"),
        ({"policy_weight": -0.1}, "policy_weight must be >= 0"),
        ({"entropy_weight": -0.1}, "entropy_weight must be >= 0"),
    ],
)
def test_shares_and_weights_outside_their_ranges_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DBMIMConfig(**options)


@pytest.mark.parametrize("masking", MASKINGS)
def test_a_crop_that_is_no_multiple_of_the_patch_is_refused(masking):
    data = {"crops": torch.rand(1, 1, 2, 4, 5), "positions": torch.tensor([0])}
    with pytest.raises(ValueError, match="is not a multiple of patch"):
        objective(masking=masking)(data, progress=0.0)


def test_it_is_registered_for_a_network_of_as_many_channels_as_the_crops_have():
    entry = OBJECTIVES.get("dbmim")
    assert entry.factory is DBMIM and entry.config == DBMIMConfig()
    assert entry.factory.OUT_CHANNELS is None and "Chen et al. 2023" in entry.source
