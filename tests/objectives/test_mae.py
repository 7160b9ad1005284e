import numpy as np
import pytest
import torch
from torch import nn

from tokenunify_scale.config import ConfigError, Named, build_named, field_docs
from tokenunify_scale.objectives import build_objective, out_channels
from tokenunify_scale.objectives.corruption import corrupt
from tokenunify_scale.objectives.errors import patch_errors
from tokenunify_scale.objectives.mae import MAE, MAEConfig
from tokenunify_scale.registry import OBJECTIVES

PATCH, SIDES = (1, 2, 2), (2, 4, 6)


def batch(count: int = 4, start: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    crops = torch.rand(4, 1, *SIDES, generator=generator)
    return {
        "crops": crops[start : start + count],
        "positions": torch.arange(4)[start : start + count] + 10,
    }


def objective(backbone: nn.Module | None = None, seed: int = 3) -> MAE:
    torch.manual_seed(0)
    backbone = backbone or nn.Conv3d(1, 1, 3, padding=1)
    return MAE(MAEConfig(patch=PATCH, ratio=0.75), backbone=backbone, seed=seed)


def by_loops(model: MAE, data: dict[str, torch.Tensor]) -> float:
    """Mean over samples of the mean over hidden patches of the mean squared error."""
    seen = corrupt(
        data["crops"],
        data["positions"],
        ["random"] * len(data["crops"]),
        patch=PATCH,
        ratio=0.75,
        path="raster",
        seed=model.seed,
    )
    prediction = model.backbone(seen.crops).detach()
    samples = []
    for i in range(len(data["crops"])):
        patches = []
        for k, (z, y, x) in enumerate(np.ndindex(2, 2, 3)):
            if seen.hidden[i, k]:
                place = (i, 0, z, slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))
                patches.append(float((prediction[place] - data["crops"][place]).pow(2).mean()))
        assert len(patches) == 9
        samples.append(sum(patches) / 9)
    return sum(samples) / len(samples)


def test_the_loss_is_the_mean_over_hidden_patches():
    model, data = objective(), batch()
    output = model(data, progress=0.0)
    assert output.loss.item() == pytest.approx(by_loops(model, data), rel=1e-5)
    assert list(output.parts) == ["random"]
    total, count = output.parts["random"].tolist()
    assert count == 4 and total / 4 == pytest.approx(output.loss.item(), rel=1e-5)


def test_the_loss_of_the_whole_batch_is_the_mean_over_its_parts():
    model = objective()
    whole = model(batch(), progress=0.0)
    alone = [model(batch(1, start), progress=0.0) for start in range(4)]
    torch.testing.assert_close(whole.loss, torch.stack([a.loss for a in alone]).mean())
    torch.testing.assert_close(whole.parts["random"], sum(a.parts["random"] for a in alone))


def test_visible_patches_do_not_count():
    class Answer(nn.Module):
        """Put out a constant picture."""

        def forward(self, crops):
            return self.picture

    answer = Answer()
    model, data = objective(answer), batch()
    answer.picture = data["crops"]
    assert model(data, progress=0.0).loss == 0
    seen = corrupt(
        data["crops"],
        data["positions"],
        ["random"] * 4,
        patch=PATCH,
        ratio=0.75,
        path="raster",
        seed=3,
    )
    answer.picture = torch.where(seen.crops == data["crops"], -9.0, data["crops"])
    assert model(data, progress=0.0).loss == 0


def test_hidden_voxels_change_no_prediction():
    inputs = []

    class Spy(nn.Module):
        """Keep what the network is given."""

        def forward(self, crops):
            inputs.append(crops)
            return crops

    model, data = objective(Spy()), batch()
    model(data, progress=0.0)
    hidden = inputs[0] != data["crops"]
    changed = {**data, "crops": torch.where(hidden, 1 - data["crops"], data["crops"])}
    model(changed, progress=0.0)
    assert hidden.float().mean() == 0.75 and torch.equal(inputs[0], inputs[1])


def test_progress_changes_nothing():
    model = objective()
    assert model(batch(), progress=0.0).loss == model(batch(), progress=1.0).loss


def test_the_loss_reaches_the_backbone_and_parts_do_not():
    model = objective()
    output = model(batch(), progress=0.0)
    output.loss.backward()
    assert all(p.grad.abs().max() > 0 for p in model.backbone.parameters())
    assert not output.parts["random"].requires_grad


def test_it_is_built_by_name_for_a_network_of_one_output_channel():
    backbone = nn.Conv3d(1, 1, 1)
    model = build_objective(Named("mae", MAEConfig(patch=PATCH)), backbone=backbone, seed=8)
    assert isinstance(model, MAE) and model.backbone is backbone and model.seed == 8
    assert out_channels("mae") == 1


def test_a_crop_that_is_no_multiple_of_the_patch_is_refused():
    data = {"crops": torch.rand(1, 1, 2, 4, 5), "positions": torch.tensor([0])}
    with pytest.raises(ValueError, match="is not a multiple of patch"):
        objective()(data, progress=0.0)


def test_fill_and_targets_are_options():
    torch.manual_seed(0)
    backbone, data = nn.Conv3d(1, 1, 3, padding=1), batch()
    for fill in ("noise", "zero", "mean", "learned"):
        config = MAEConfig(patch=PATCH, fill=fill, targets="normalised")
        model = MAE(config, backbone=backbone, seed=3)
        seen = corrupt(
            data["crops"],
            data["positions"],
            ["random"] * 4,
            patch=PATCH,
            ratio=0.75,
            path="raster",
            seed=3,
            fill=fill,
            learned=model.fill_bias,
        )
        errors = patch_errors(
            backbone(seen.crops), data["crops"], patch=PATCH, targets="normalised"
        )
        expected = errors[seen.hidden].mean()  # as many in each sample
        torch.testing.assert_close(model(data, progress=0.0).loss, expected)


def test_a_learned_fill_is_a_weight_of_the_objective_that_the_loss_reaches():
    torch.manual_seed(0)
    backbone = nn.Conv3d(1, 1, 3, padding=1)
    model = MAE(MAEConfig(patch=PATCH, fill="learned"), backbone=backbone, seed=3)
    assert dict(model.named_parameters())["fill_bias"].shape == (1, *PATCH)
    model(batch(), progress=0.0).loss.backward()
    assert (model.fill_bias.grad != 0).all()
    assert not [name for name, _ in objective().named_parameters() if "backbone" not in name]


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.5])
def test_hiding_nothing_or_all_is_refused_before_anything_runs(ratio):
    with pytest.raises(ValueError, match=rf"ratio must be in \(0, 1\), got {ratio}"):
        MAEConfig(ratio=ratio)


def test_its_options_are_read_from_words_and_explained():
    choice = {"name": "mae", "patch": "1,8,8", "fill": "mean", "targets": "normalised"}
    options = build_named(choice, OBJECTIVES, where="a test").options
    assert options == MAEConfig(patch=(1, 8, 8), fill="mean", targets="normalised")
    assert set(field_docs(MAEConfig)) == {"patch", "ratio", "fill", "targets"}
    with pytest.raises(ConfigError, match="fill"):
        build_named({"name": "mae", "fill": "nois"}, OBJECTIVES, where="a test")
    with pytest.raises(ConfigError, match="unknown key path"):
        build_named({"name": "mae", "path": "snake"}, OBJECTIVES, where="a test")
