import numpy as np
import pytest
import torch
from torch import nn

from tokenunify_scale.config import Named, build_named
from tokenunify_scale.objectives.corruption import corrupt
from tokenunify_scale.objectives.curriculum import Constant, Piecewise, piecewise
from tokenunify_scale.objectives.tokenunify import TokenUnify, TokenUnifyConfig
from tokenunify_scale.registry import OBJECTIVES
from tokenunify_scale.tokens.order import visiting_order

PATCH, SIDES = (1, 2, 2), (2, 4, 6)
PLACES = list(np.ndindex(2, 2, 3))


def batch(positions: list[int]) -> dict[str, torch.Tensor]:
    crops = [torch.rand(1, *SIDES, generator=torch.Generator().manual_seed(p)) for p in positions]
    return {"crops": torch.stack(crops), "positions": torch.tensor(positions)}


def objective(backbone: nn.Module | None = None, **options) -> TokenUnify:
    torch.manual_seed(0)
    backbone = backbone or nn.Conv3d(1, 1, 3, padding=1)
    return TokenUnify(TokenUnifyConfig(patch=PATCH, **options), backbone=backbone, seed=3)


def kinds(data: dict[str, torch.Tensor]) -> list[str]:
    return ["prefix" if p % 2 else "random" for p in data["positions"].tolist()]


def seen(data: dict[str, torch.Tensor], path: str = "raster"):
    return corrupt(
        data["crops"],
        data["positions"],
        kinds(data),
        patch=PATCH,
        ratio=0.75,
        path=path,
        seed=3,
    )


def by_loops(model: TokenUnify, data: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """The three errors of each sample that has them, patch by patch."""
    order = visiting_order((2, 2, 3), path=model.config.path).tolist()
    corrupted = seen(data, model.config.path)
    prediction = model.backbone(corrupted.crops).detach()
    terms: dict[str, list[float]] = {"random": [], "next": [], "next_all": []}
    for i, kind in enumerate(kinds(data)):
        errors = []
        for z, y, x in PLACES:
            place = (i, 0, z, slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))
            errors.append(float((prediction[place] - data["crops"][place]).pow(2).mean()))
        hidden = [k for k in range(12) if corrupted.hidden[i, k]]
        if kind == "random":
            assert len(hidden) == 9
            terms["random"].append(sum(errors[k] for k in hidden) / 9)
        else:
            behind = order[12 - len(hidden) :]
            assert sorted(behind) == hidden
            terms["next"].append(errors[behind[0]])
            terms["next_all"].append(sum(errors[k] for k in behind) / len(behind))
    return terms


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("path", ["raster", "snake"])
def test_the_loss_is_the_weighted_sum_of_the_three_terms(progress, path):
    model, data = objective(path=path), batch([4, 5, 6, 7, 8, 9])
    output = model(data, progress=progress)
    terms = by_loops(model, data)
    weights = piecewise(Piecewise(), progress=progress)
    means = {name: sum(values) / len(values) for name, values in terms.items()}
    expected = sum(getattr(weights, name) * mean for name, mean in means.items())
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    for name, values in terms.items():
        assert output.parts[name].tolist() == pytest.approx([sum(values), 3], rel=1e-5)


def test_the_loss_of_the_whole_batch_is_the_mean_over_any_equal_parts():
    model, positions = objective(), [4, 5, 6, 7]
    whole = model(batch(positions), progress=0.5)
    for size in (1, 2):
        cuts = range(0, 4, size)
        parts = [model(batch(positions[i : i + size]), progress=0.5) for i in cuts]
        torch.testing.assert_close(whole.loss, torch.stack([p.loss for p in parts]).mean())
        for name in ("random", "next", "next_all"):
            torch.testing.assert_close(whole.parts[name], sum(p.parts[name] for p in parts))


def test_a_part_without_samples_of_a_kind_has_count_0_and_all_three_terms():
    output = objective()(batch([4, 6]), progress=0.0)
    assert list(output.parts) == ["random", "next", "next_all"]
    assert output.parts["next"].tolist() == output.parts["next_all"].tolist() == [0, 0]
    assert output.parts["random"][1] == 2


def test_the_network_is_given_nothing_of_the_hidden_patches():
    class Spy(nn.Module):
        """Keep what the network is given."""

        def forward(self, crops):
            self.given = crops
            return crops

    spy, data = Spy(), batch(list(range(20)))
    model = objective(spy)
    model(data, progress=0.0)
    given, hidden = spy.given, spy.given != data["crops"]
    model({**data, "crops": torch.where(hidden, 1 - data["crops"], data["crops"])}, progress=0.0)
    assert torch.equal(spy.given, given)
    assert 0 < hidden.float().mean() < 1


def test_one_forward_pass_serves_all_terms():
    calls = []

    class Count(nn.Module):
        """Count calls."""

        def forward(self, crops):
            calls.append(len(crops))
            return crops

    objective(Count())(batch([0, 1, 2, 3]), progress=0.5)
    assert calls == [4]


def test_a_term_of_weight_0_gives_no_gradient():
    only_random = Named("constant", Constant(random=1.0, next=0.0, next_all=0.0))
    model = objective(curriculum=only_random)
    model(batch([5, 7]), progress=0.5).loss.backward()
    assert all(p.grad.abs().max() == 0 for p in model.backbone.parameters())
    model(batch([4, 6]), progress=0.5).loss.backward()
    assert all(p.grad.abs().max() > 0 for p in model.backbone.parameters())


def test_the_curriculum_is_an_option_with_options():
    choice = {"name": "tokenunify", "curriculum": {"name": "piecewise", "switch": "0.1,0.2"}}
    options = build_named(choice, OBJECTIVES, where="a test").options
    assert options.curriculum == Named("piecewise", Piecewise(switch=(0.1, 0.2)))
    assert options.patch == (4, 16, 16) and options.ratio == 0.75


def test_a_perfect_network_has_no_loss_at_any_progress():
    class Answer(nn.Module):
        """Know the picture."""

        def forward(self, crops):
            return self.picture

    answer, data = Answer(), batch([0, 1, 2, 3])
    answer.picture = data["crops"]
    model = objective(answer)
    assert [model(data, progress=p).loss.item() for p in (0.0, 0.5, 1.0)] == [0, 0, 0]
