import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from tokenunify_scale.models.emmamba import SMALL_SIZES, EMmamba, EMmambaConfig
from tokenunify_scale.models.padding import pad_to
from tokenunify_scale.models.superhuman import Superhuman, SuperhumanConfig
from tokenunify_scale.models.unetr import UNETR, UNETRConfig
from tokenunify_scale.objectives.byol import BYOL, BYOLConfig, unused_by_features
from tokenunify_scale.objectives.heads import LEAST
from tokenunify_scale.objectives.teacher import momentum_at
from tokenunify_scale.objectives.views import MEDIUM, make_view, unturn
from tokenunify_scale.registry import OBJECTIVES
from tokenunify_scale.train.optim import OptimConfig, parameter_groups

SIDES = (8, 32, 32)
NETWORKS = {
    "emmamba": (EMmamba, EMmambaConfig(features=(2, 3, 4, 5), hidden=4, depths=(1, 1, 1, 1))),
    "superhuman": (Superhuman, SuperhumanConfig(widths=(2, 3, 4, 5, 6))),
    "unetr": (UNETR, UNETRConfig(hidden=8, layers=3, heads=2, head=4, mlp=8, features=2)),
}
SMALL = BYOLConfig(hidden=16, projection=8)


def grown(name: str = "emmamba", config: BYOLConfig = SMALL) -> BYOL:
    torch.manual_seed(0)
    factory, options = NETWORKS[name]
    return BYOL(config, backbone=factory(options, out_channels=1), seed=3).train()


def batch(count: int = 4, start: int = 0) -> dict[str, torch.Tensor]:
    crops = torch.rand(8, 1, *SIDES, generator=torch.Generator().manual_seed(0))
    chosen = slice(start, start + count)
    return {"crops": crops[chosen], "positions": torch.arange(8)[chosen] + 20}


def textures(count: int) -> torch.Tensor:
    """Crops of waves of random directions and lengths, one a crop."""
    generator = torch.Generator().manual_seed(0)
    places = torch.stack(torch.meshgrid(*map(torch.arange, SIDES), indexing="ij"), -1).float()
    waves = torch.randn(count, 3, generator=generator) * torch.tensor([0.3, 0.6, 0.6])
    phases = 2 * math.pi * torch.rand(count, 1, 1, 1, generator=generator)
    return (0.5 + 0.4 * torch.sin((places @ waves.T).movedim(-1, 0) + phases))[:, None]


def step(model: BYOL, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def as_unit(vector: list[float]) -> list[float]:
    return [v / math.hypot(*vector) for v in vector]


@torch.no_grad()
@pytest.mark.parametrize("most", [2, 16])
def test_the_loss_is_the_distance_of_each_cells_prediction_from_the_others_view(most):
    model, data = grown(config=replace(SMALL, cells=most)), batch(3)
    model(data, progress=0.0)
    nn.init.normal_(model.projector.fc2.weight)  # the target is not the network any more
    output = model(data, progress=0.1)

    def run(view, backbone, projector):
        """Projections [cells, 8] of one view, the maps turned back by hand."""
        maps = backbone.features(view.crops)
        sides = [min(side, most) for side in maps[-2].shape[2:]]
        pooled = [unturn(functional.adaptive_avg_pool3d(m, sides), view.turns) for m in maps]
        x = torch.cat(pooled, 1)[0].flatten(1).T
        x = (x - x.mean(0)) / (x.var(0, correction=0) + LEAST).sqrt()
        z = projector(x)
        return (z - z.mean(0)) / (z.var(0, correction=0) + LEAST).sqrt()

    samples, projections = [], []
    for i in range(3):
        crop = pad_to(data["crops"][i : i + 1], model.backbone.legal(SIDES))
        place = data["positions"][i : i + 1]
        views = [make_view(crop, place, MEDIUM, seed=3, number=n) for n in (0, 1)]
        seen = [run(v, model.backbone, model.projector) for v in views]
        aims = [run(v, model.target.network, model.target_projector.network) for v in views]
        total = 0.0
        for given, aim in ((seen[0], aims[1]), (seen[1], aims[0])):
            pairs = zip(model.predictor(given).tolist(), aim.tolist(), strict=True)
            squares = [math.dist(as_unit(p), as_unit(a)) ** 2 for p, a in pairs]
            total += sum(squares) / len(squares)
        samples.append(total)
        projections.append([functional.normalize(z, dim=-1) for z in seen])
    assert output.loss.item() == pytest.approx(sum(samples) / 3, rel=1e-4)
    assert output.parts["byol"].tolist() == pytest.approx([sum(samples), 3], rel=1e-4)
    spreads = [torch.stack([p[n] for p in projections]).std(0).mean() * 8**0.5 for n in (0, 1)]
    expected = pytest.approx([3 * float(sum(spreads)) / 2, 3], rel=1e-4)
    assert output.parts["feature_std"].tolist() == expected


@torch.no_grad()
@pytest.mark.parametrize("name", ["emmamba", "unetr"])  # others have batch norms
def test_micro_batches_have_the_mean_loss_of_the_whole_batch(name):
    model = grown(name)
    expected = model(batch(4), progress=0.0)
    pieces = [model(batch(1, start), progress=0.0) for start in range(4)]
    found = torch.stack([piece.loss for piece in pieces]).mean()
    torch.testing.assert_close(found, expected.loss, rtol=1e-4, atol=1e-4)
    total = sum(piece.parts["byol"] for piece in pieces)
    torch.testing.assert_close(total, expected.parts["byol"], rtol=1e-4, atol=1e-4)
    assert all(piece.parts["feature_std"][1] == 0 for piece in pieces)  # one crop has none


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_all_that_features_uses_and_nothing_else(name):
    model = grown(name)
    model(batch(), progress=0.0).loss.backward()
    model.zero_grad(set_to_none=True)
    model(batch(), progress=0.1).loss.backward()
    unused = {id(parameter) for parameter in unused_by_features(model.backbone)}
    if name != "unetr":  # whose features are those that join the decoder
        groups = model.backbone.groups()
        trained = {id(p) for part in ("mamba", "encoder") for p in groups[part]}
        assert not unused & trained
    for key, parameter in model.named_parameters():
        if key.startswith("target") or id(parameter) in unused:
            assert parameter.grad is None and not parameter.requires_grad, key
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_what_is_unused_is_what_a_backward_pass_does_not_reach():
    for factory, options in NETWORKS.values():
        torch.manual_seed(0)
        network = factory(options, out_channels=1)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        unused = {id(parameter) for parameter in unused_by_features(network)}
        assert all(torch.equal(before[name], v) for name, v in network.state_dict().items())
        sum(each.sum() for each in network.features(torch.rand(2, 1, 16, 32, 32))).backward()
        assert unused == {id(p) for p in network.parameters() if p.grad is None} and unused


def test_what_is_unused_is_the_same_of_photographs():
    options = replace(NETWORKS["emmamba"][1], sections="keep")
    network = EMmamba(options, in_channels=3, out_channels=3)
    unused = {id(parameter) for parameter in unused_by_features(network, channels=3)}
    assert unused == {id(parameter) for parameter in network.groups()["decoder"]}


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_target_follows_once_a_step(micro_batches):
    model = grown(config=replace(SMALL, momentum=0.6))
    optimizer = torch.optim.SGD(parameter_groups(model, OptimConfig()), lr=0.1)
    name = "downsample.0.weight"
    expected = model.backbone.get_parameter(name).detach().clone()
    for number in range(3):
        m = momentum_at(0.6, progress=number / 3)
        online = model.backbone.get_parameter(name).detach().clone()
        expected = m * expected + (1 - m) * online
        for _ in range(micro_batches):
            output = model(batch(2), progress=number / 3)
            torch.testing.assert_close(model.target.network.get_parameter(name), expected)
        step(model, optimizer, output.loss)
    assert not torch.equal(online, expected)


@torch.no_grad()
def test_evaluation_moves_nothing():
    model = grown()
    model(batch(), progress=0.0)
    nn.init.normal_(model.projector.fc2.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()(batch(), progress=0.5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_thirty_steps_lower_the_loss_and_keep_projections_spread():
    torch.manual_seed(0)
    network = EMmamba(SMALL_SIZES["atto"], out_channels=1)
    decoder = network.out.weight.clone()
    # Without turns: to learn that a crop turned is the same crop takes some hundred steps.
    config = BYOLConfig(view=replace(MEDIUM, turn=0.0), hidden=256, projection=64)
    model, crops = BYOL(config, backbone=network, seed=0).train(), textures(9)
    optimizer = torch.optim.AdamW(parameter_groups(model, OptimConfig()), lr=1e-3)
    losses, spreads = [], []
    for number in range(30):
        positions = torch.arange(3 * number, 3 * number + 3)
        output = model(
            {"crops": crops[positions % 9], "positions": positions}, progress=number / 30
        )
        step(model, optimizer, output.loss)
        losses.append(output.loss.item())
        spreads.append((output.parts["feature_std"][0] / 3).item())
    assert sum(losses[-5:]) / 5 < 0.8 * sum(losses[:5]) / 5
    assert min(spreads) > 0.3
    assert torch.equal(network.out.weight, decoder)  # frozen: no decay either


def test_a_collapse_shows_in_the_spread():
    model = grown()
    nn.init.zeros_(model.projector.fc2.weight)
    parts = model(batch(), progress=0.0).parts
    assert parts["feature_std"][0] / parts["feature_std"][1] < 1e-3


def test_crops_of_one_cell_are_refused():
    model = grown(config=replace(SMALL, cells=1))
    with pytest.raises(ValueError, match="has only one"):
        model(batch(), progress=0.0)


def test_views_that_are_shifted_are_refused():
    with pytest.raises(ValueError, match="shift must be 0: 0.1"):
        BYOLConfig(view=replace(MEDIUM, shift=0.1))


@pytest.mark.parametrize("options", [{"hidden": 0}, {"projection": 0}, {"momentum": 1.5}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match=f"got .*{list(options.values())[0]}"):
        BYOLConfig(**options)


def test_the_registry_names_it():
    entry = OBJECTIVES.get("byol")
    assert entry.factory is BYOL
    assert entry.config == BYOLConfig()
