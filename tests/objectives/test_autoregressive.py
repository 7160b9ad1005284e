import numpy as np
import pytest
import torch
from torch import nn

from tokenunify_scale.config import ConfigError, build_named, field_docs, to_dict
from tokenunify_scale.models.emmamba import EMmamba, EMmambaConfig
from tokenunify_scale.objectives.autoregressive import Autoregressive, AutoregressiveConfig
from tokenunify_scale.objectives.corruption import corrupt
from tokenunify_scale.objectives.errors import patch_errors
from tokenunify_scale.registry import OBJECTIVES
from tokenunify_scale.tokens.order import visiting_order

PATCH, SIDES = (1, 2, 2), (2, 4, 6)


def batch(count: int = 6, start: int = 0) -> dict[str, torch.Tensor]:
    crops = torch.rand(6, 1, *SIDES, generator=torch.Generator().manual_seed(0))
    chosen = slice(start, start + count)
    return {"crops": crops[chosen], "positions": torch.arange(6)[chosen] + 20}


def objective(backbone: nn.Module | None = None, path: str = "raster", **options):
    torch.manual_seed(0)
    backbone = backbone or nn.Conv3d(1, 1, 3, padding=1)
    config = AutoregressiveConfig(patch=PATCH, path=path, **options)
    return Autoregressive(config, backbone=backbone, seed=3)


class Spy(nn.Module):
    """Keep what the network is given."""

    def forward(self, crops):
        self.given = crops
        return crops


@pytest.mark.parametrize("path", ["raster", "snake", "hilbert"])
def test_the_loss_is_the_error_of_the_patch_behind_the_prefix(path):
    model, data = objective(path=path), batch()
    output = model(data, progress=0.0)
    order = visiting_order((2, 2, 3), path=path).tolist()
    seen = corrupt(
        data["crops"],
        data["positions"],
        ["prefix"] * 6,
        patch=PATCH,
        ratio=0.5,
        path=path,
        seed=3,
    )
    prediction, places, samples = model.backbone(seen.crops).detach(), list(np.ndindex(2, 2, 3)), []
    for i in range(6):
        visible = int((~seen.hidden[i]).sum())
        z, y, x = places[order[visible]]
        place = (i, 0, z, slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))
        samples.append(float((prediction[place] - data["crops"][place]).pow(2).mean()))
    assert output.loss.item() == pytest.approx(sum(samples) / 6, rel=1e-5)
    assert list(output.parts) == ["next"]
    assert output.parts["next"].tolist() == pytest.approx([sum(samples), 6], rel=1e-5)


def test_the_loss_of_the_whole_batch_is_the_mean_over_its_parts():
    model = objective()
    whole = model(batch(), progress=0.0)
    halves = [model(batch(2, start), progress=0.0) for start in (0, 2, 4)]
    torch.testing.assert_close(whole.loss, torch.stack([h.loss for h in halves]).mean())
    torch.testing.assert_close(whole.parts["next"], sum(h.parts["next"] for h in halves))


@pytest.mark.parametrize("path", ["raster", "snake", "hilbert"])
def test_the_network_is_given_nothing_of_the_patches_behind_the_prefix(path):
    spy, data = Spy(), batch()
    model = objective(spy, path)
    model(data, progress=0.0)
    given = spy.given
    hidden = given != data["crops"]
    model({**data, "crops": torch.where(hidden, 1 - data["crops"], data["crops"])}, progress=0.0)
    assert torch.equal(spy.given, given)
    order = visiting_order((2, 2, 3), path=path).tolist()
    for i in range(6):
        patches = hidden[i, 0].unfold(1, 2, 2).unfold(2, 2, 2).flatten(3).all(-1).flatten()
        visible = int((~patches).sum())
        assert sorted(order[:visible]) == (~patches).nonzero().flatten().tolist()


@torch.inference_mode()
def test_no_voxel_behind_the_prefix_changes_the_prediction_of_a_real_network():
    torch.manual_seed(0)
    network = EMmamba(EMmambaConfig(features=(2, 2, 4, 4), hidden=4), out_channels=1).eval()
    outputs = []

    class Keep(nn.Module):
        """Keep what the network predicts."""

        def forward(self, crops):
            outputs.append(network(crops))
            return outputs[-1]

    config = AutoregressiveConfig(patch=(4, 8, 8))
    model = Autoregressive(config, backbone=Keep(), seed=1)
    crops = torch.rand(1, 1, 16, 16, 32, generator=torch.Generator().manual_seed(2))
    for position in range(3):
        positions = torch.tensor([position])
        seen = corrupt(
            crops, positions, ["prefix"], patch=(4, 8, 8), ratio=0.5, path="raster", seed=1
        )
        model({"crops": crops, "positions": positions}, progress=0.0)
        hidden = seen.crops != crops
        for value in (0.0, 1.0):
            changed = torch.where(hidden, value, crops)
            model({"crops": changed, "positions": positions}, progress=0.0)
            assert torch.equal(outputs[-1], outputs[-2])
        changed = torch.where(hidden, crops, 1 - crops)
        model({"crops": changed, "positions": positions}, progress=0.0)
        assert not torch.equal(outputs[-1], outputs[-2])  # what is visible does count


def test_an_unbiased_sample_of_equation_4_draws_all_prefixes_equally_often():
    spy = Spy()
    crops = torch.zeros(600, 1, *SIDES)
    objective(spy)({"crops": crops, "positions": torch.arange(600)}, progress=0.0)
    visible = (spy.given == 0).sum((1, 2, 3, 4)) // 4
    counts = torch.bincount(visible, minlength=12)[1:12]
    assert counts.sum() == 600 and counts.min() > 30  # 54.5 each on average


def test_the_registry_names_it():
    entry = OBJECTIVES.get("autoregressive")
    assert entry.factory is Autoregressive
    assert entry.config.patch == (4, 16, 16)


@pytest.mark.parametrize("prefixes", [1, 3])
@pytest.mark.parametrize("path", ["hilbert", "random", "relevance"])
def test_several_prefixes_of_a_crop_are_averaged_before_crops_are(path, prefixes):
    options = {"fill": "mean", "targets": "normalised"}
    model, data = objective(path=path, prefixes_per_crop=prefixes, **options), batch()
    seen = corrupt(
        data["crops"],
        data["positions"],
        ["prefix"] * 6,
        patch=PATCH,
        ratio=0.5,
        path=path,
        seed=3,
        fill="mean",
        prefixes=prefixes,
    )
    errors = patch_errors(
        model.backbone(seen.crops), data["crops"][seen.rows], patch=PATCH, targets="normalised"
    )
    samples = errors[seen.following].detach().reshape(6, prefixes).mean(1)
    output = model(data, progress=0.0)
    torch.testing.assert_close(output.loss.detach(), samples.mean())
    torch.testing.assert_close(output.parts["next"], torch.tensor([samples.sum(), 6.0]))


def test_with_all_prefixes_the_loss_is_equation_4_for_each_crop():
    model, data = objective(prefixes_per_crop=11, fill="zero"), batch(2)
    total = 0.0
    for crop in data["crops"]:
        for i, (z, y, x) in enumerate(np.ndindex(2, 2, 3)):
            if i:
                shown = torch.zeros_like(crop)
                for c, b, a in list(np.ndindex(2, 2, 3))[:i]:
                    place = (0, c, slice(2 * b, 2 * b + 2), slice(2 * a, 2 * a + 2))
                    shown[place] = crop[place]
                place = (0, z, slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))
                error = (model.backbone(shown[None])[0][place] - crop[place]).square().mean()
                total += float(error.detach()) / 11 / 2
    assert model(data, progress=0.0).loss.item() == pytest.approx(total, abs=1e-6)


def test_a_learned_fill_is_trained_with_the_network():
    model = objective(fill="learned", prefixes_per_crop=2)
    model(batch(), progress=0.0).loss.backward()
    assert model.fill_bias.grad.abs().max() > 0
    assert objective().fill_bias is None


def test_its_options_are_read_from_words_and_explained():
    choice = {"name": "autoregressive", "path": "hilbert", "prefixes_per_crop": "4"}
    options = build_named(choice, OBJECTIVES, where="a test").options
    assert options == AutoregressiveConfig(path="hilbert", prefixes_per_crop=4)
    names = {"patch", "path", "fill", "targets", "prefixes_per_crop"}
    assert set(field_docs(AutoregressiveConfig)) == set(to_dict(options)) == names
    with pytest.raises(ConfigError, match="prefixes_per_crop must be >= 1, got 0"):
        build_named({**choice, "prefixes_per_crop": 0}, OBJECTIVES, where="a test")
