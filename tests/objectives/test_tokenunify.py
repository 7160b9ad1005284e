from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from tokenunify_scale.config import ConfigError, Named, build_named
from tokenunify_scale.models import build_model
from tokenunify_scale.models.perceiver import PerceiverConfig, visibility
from tokenunify_scale.objectives.autoregressive import Autoregressive, AutoregressiveConfig
from tokenunify_scale.objectives.corruption import corrupt
from tokenunify_scale.objectives.curriculum import (
    Alternating,
    Constant,
    Piecewise,
    Sampled,
    Weights,
    piecewise,
    sampled,
)
from tokenunify_scale.objectives.mae import MAE, MAEConfig
from tokenunify_scale.objectives.tokenunify import TokenUnify, TokenUnifyConfig, restricted
from tokenunify_scale.registry import OBJECTIVES
from tokenunify_scale.tokens import masks
from tokenunify_scale.tokens.order import visiting_order

PATCH, SIDES, GRID, K = (1, 2, 2), (2, 4, 6), (2, 2, 3), 12
PLACES = list(np.ndindex(*GRID))
TERMS = ("random", "next", "next_all")
ALL_PARTS = ["random", "next", "dense_next", "next_all", "dense_next_all"]
SMALL = PerceiverConfig(width=16, latents=3, layers=1, heads=2)


class Tiny(nn.Module):
    """A network with two maps of features, at the scale of the crop and of a patch."""

    widths = (3, 5)

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv3d(1, 3, 3, padding=1)
        self.coarse = nn.Conv3d(3, 5, PATCH, stride=PATCH)
        self.out = nn.Conv3d(3, 1, 1)
        self.calls = []

    def forward(self, crops):
        return self.both(crops)[0]

    def both(self, crops):
        self.calls.append(len(crops))
        fine = self.fine(crops).tanh()
        return self.out(fine).sigmoid(), (fine, self.coarse(fine))

    def legal(self, sides):
        return sides


def batch(positions: list[int]) -> dict[str, torch.Tensor]:
    crops = [torch.rand(1, *SIDES, generator=torch.Generator().manual_seed(p)) for p in positions]
    return {"crops": torch.stack(crops), "positions": torch.tensor(positions)}


def objective(backbone: nn.Module | None = None, **options) -> TokenUnify:
    torch.manual_seed(0)
    backbone = backbone or Tiny()
    config = TokenUnifyConfig(**{"patch": PATCH, "perceiver": SMALL, **options})
    return TokenUnify(config, backbone=backbone, seed=3)


def decoded(model: TokenUnify, crops: torch.Tensor, hidden: torch.Tensor) -> dict:
    """Pictures that each decoder makes of one filled crop, put together patch by patch."""
    output, maps = model.backbone.both(crops[None])
    pictures = {"dense": output[0, 0].detach()}
    if model.head is not None:
        seen = visibility(hidden[None], grid=GRID, size=tuple(maps[-2].shape[2:]))
        patches = model.head(maps[-2], seen, grid=GRID)[0].detach()
        picture = torch.zeros(SIDES)
        for k, (z, y, x) in enumerate(PLACES):
            picture[z, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = patches[k].reshape(2, 2)
        pictures["perceiver"] = picture
    return pictures


def voxel_errors(picture: torch.Tensor, crop: torch.Tensor, targets: str) -> list[float]:
    """The mean squared error of each patch, voxel by voxel."""
    errors = []
    for z, y, x in PLACES:
        place = (z, slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))
        truth, told = crop[place].double(), picture[place].double()
        if targets == "normalised":
            truth = (truth - truth.mean()) / (truth.var(correction=0) + 1e-6).sqrt()
            told = 8 * told - 4
        pairs = zip(truth.ravel().tolist(), told.ravel().tolist(), strict=True)
        errors.append(sum((a - b) ** 2 for a, b in pairs) / 4)
    return errors


def by_loops(model: TokenUnify, data: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """The terms of each sample that has them, by every decoder, one patch at a time."""
    config = model.config
    kinds = ["prefix" if p % 2 else "random" for p in data["positions"].tolist()]
    settings = {"patch": PATCH, "ratio": 0.75, "path": config.path, "seed": 3}
    seen = corrupt(data["crops"], data["positions"], kinds, **settings)
    main = "dense" if model.head is None else "perceiver"
    terms: dict[str, list[float]] = {name: [] for name in ALL_PARTS}
    for i, kind in enumerate(kinds):
        pictures = decoded(model, seen.crops[i], seen.hidden[i])
        hidden = [k for k in range(K) if seen.hidden[i, k]]
        for name, picture in pictures.items():
            errors = voxel_errors(picture, data["crops"][i, 0], config.targets)
            before = "" if name == main else "dense_"
            if kind == "prefix":
                behind = seen.order[i, K - len(hidden) :].tolist()
                assert sorted(behind) == hidden
                terms[f"{before}next"].append(errors[behind[0]])
                terms[f"{before}next_all"].append(2 / K * sum(errors[k] for k in behind))
            elif name == "dense":
                assert len(hidden) == 9
                terms["random"].append(sum(errors[k] for k in hidden) / 9)
    return {name: values for name, values in terms.items() if values}


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("head", ["perceiver", "dense"])
@pytest.mark.parametrize("path", ["raster", "snake", "random"])
def test_the_loss_is_the_weighted_sum_of_the_terms_of_both_decoders(progress, head, path):
    model, data = objective(path=path, head=head), batch([4, 5, 6, 7, 8, 9])
    output, terms = model(data, progress=progress), by_loops(model, data)
    means = {name: sum(values) / len(values) for name, values in terms.items()}
    weights = piecewise(Piecewise(), progress=progress)._asdict()
    if head == "perceiver":
        for name in ("next", "next_all"):
            means[name] = (means[name] + means[f"dense_{name}"]) / 2
    expected = sum(weight * means[name] for name, weight in weights.items())
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    assert list(output.parts) == (ALL_PARTS if head == "perceiver" else list(TERMS))
    for name, values in terms.items():
        assert output.parts[name].tolist() == pytest.approx([sum(values), 3], rel=1e-5)


@pytest.mark.parametrize("head", ["perceiver", "dense"])
def test_normalised_targets_reach_every_term(head):
    model, data = objective(head=head, targets="normalised"), batch([4, 5, 6, 7])
    output = model(data, progress=0.0)
    for name, values in by_loops(model, data).items():
        assert output.parts[name].tolist() == pytest.approx([sum(values), 2], rel=1e-5)


def fix_first_prefix(monkeypatch, length):
    monkeypatch.setattr(masks, "prefix_length", lambda count, *, generator: length)


@pytest.mark.parametrize("path", ["raster", "hilbert"])
@pytest.mark.parametrize("prefixes", [1, 3])
def test_averaged_over_all_prefixes_the_estimates_are_the_sums_of_equations_4_and_5(
    monkeypatch, path, prefixes
):
    model, data = objective(path=path, fill="zero", prefixes_per_crop=prefixes), batch([5])
    order = visiting_order(GRID, path=path).tolist()
    following, later = {}, {}
    for i in range(1, K):
        hidden = torch.tensor([order.index(k) >= i for k in range(K)])
        filled = data["crops"][0].clone()
        for k in order[i:]:
            z, y, x = PLACES[k]
            filled[0, z, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = 0
        for name, picture in decoded(model, filled, hidden).items():
            errors = voxel_errors(picture, data["crops"][0, 0], "voxels")
            following.setdefault(name, []).append(errors[order[i]])  # Eq. 4, patch i + 1
            later.setdefault(name, []).extend(errors[k] for k in order[i:])  # Eq. 5, all j > i
    found = dict.fromkeys(ALL_PARTS[1:], 0.0)
    for i in range(1, K):
        fix_first_prefix(monkeypatch, i)
        parts = model(data, progress=0.5).parts
        for name in found:
            found[name] += parts[name][0].item() / (K - 1)
    assert all(len(pairs) == K * (K - 1) // 2 for pairs in later.values())
    for before, name in {"": "perceiver", "dense_": "dense"}.items():
        assert found[f"{before}next"] == pytest.approx(np.mean(following[name]), abs=1e-6)
        assert found[f"{before}next_all"] == pytest.approx(np.mean(later[name]), abs=1e-6)


def test_several_prefixes_of_a_crop_are_averaged_and_it_counts_once(monkeypatch):
    model, one = objective(fill="zero", prefixes_per_crop=2), objective(fill="zero")
    data = batch([5, 6])
    fix_first_prefix(monkeypatch, 2)
    output = model(data, progress=0.5)
    assert model.backbone.calls == [3], "two rows of the prefix sample and one of the other"
    alone = []
    for length in masks.prefix_lengths(K, prefixes=2, generator=torch.Generator()):
        fix_first_prefix(monkeypatch, length)
        alone.append(one(data, progress=0.5))
    torch.testing.assert_close(output.loss, (alone[0].loss + alone[1].loss) / 2)
    for name in ALL_PARTS:
        mean = (alone[0].parts[name] + alone[1].parts[name]) / 2
        torch.testing.assert_close(output.parts[name], mean)
        assert output.parts[name][1] == 1


@pytest.mark.parametrize("prefixes", [1, 2])
def test_the_loss_of_the_whole_batch_is_the_mean_over_any_equal_parts(prefixes):
    model, positions = objective(prefixes_per_crop=prefixes), [4, 5, 6, 7]
    whole = model(batch(positions), progress=0.5)
    for size in (1, 2):
        cuts = range(0, 4, size)
        parts = [model(batch(positions[i : i + size]), progress=0.5) for i in cuts]
        torch.testing.assert_close(whole.loss, torch.stack([p.loss for p in parts]).mean())
        for name in ALL_PARTS:
            torch.testing.assert_close(whole.parts[name], sum(p.parts[name] for p in parts))


def test_a_part_without_samples_of_a_kind_has_count_0_and_all_terms_are_there():
    output = objective()(batch([4, 6]), progress=0.0)
    assert list(output.parts) == ALL_PARTS
    assert all(output.parts[name].tolist() == [0, 0] for name in ALL_PARTS[1:])
    assert output.parts["random"][1] == 2


def test_one_forward_pass_of_network_and_head_serves_all_terms():
    model, calls = objective(), []
    model.head.register_forward_hook(lambda *_: calls.append(1))
    model(batch([0, 1, 2, 3]), progress=0.5)
    assert model.backbone.calls == [4] and calls == [1]


def test_a_term_of_weight_0_gives_no_gradient():
    only_random = Named("constant", Constant(random=1.0, next=0.0, next_all=0.0))
    model = objective(curriculum=only_random, head="dense", backbone=nn.Conv3d(1, 1, 1))
    model(batch([5, 7]), progress=0.5).loss.backward()
    assert all(p.grad.abs().max() == 0 for p in model.backbone.parameters())
    model(batch([4, 6]), progress=0.5).loss.backward()
    assert all(p.grad.abs().max() > 0 for p in model.backbone.parameters())


def test_every_parameter_gets_a_gradient_whatever_samples_a_rank_holds():
    model = objective(fill="learned")
    model.backbone.coarse.requires_grad_(False)  # of a map that is not read here
    model(batch([4, 6]), progress=0.5).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(p.grad.abs().max() == 0 for p in model.head.parameters())
    model(batch([5, 7]), progress=0.5).loss.backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("term", ["next", "next_all"])
def test_a_prefix_trains_the_head_and_the_decoder_alike(term):
    model = objective(terms=(term,))
    model(batch([5, 7]), progress=0.5).loss.backward()
    assert model.head.voxels.weight.grad.abs().max() > 0
    assert model.backbone.out.weight.grad.abs().max() > 0


def test_the_head_is_no_part_of_the_backbone_and_dense_has_none():
    model = objective(fill="learned")
    kept = {name.split(".")[0] for name in model.state_dict()}
    assert kept == {"backbone", "head", "fill_bias"}
    assert set(model.backbone.state_dict()) == set(Tiny().state_dict())
    assert {name.split(".")[0] for name in objective(head="dense").state_dict()} == {"backbone"}
    assert objective(terms=("random",)).head is None


def test_random_alone_is_masked_autoencoding_and_next_alone_is_autoregression():
    data = batch([4, 5, 6, 7])
    ours = objective(terms=("random",))(data, progress=0.5)
    torch.manual_seed(0)
    other = MAE(MAEConfig(patch=PATCH), backbone=Tiny(), seed=3)(data, progress=0.5)
    assert ours.parts.keys() == other.parts.keys() == {"random"}
    torch.testing.assert_close(ours, other)
    ours = objective(terms=("next",), head="dense")(data, progress=0.5)
    torch.manual_seed(0)
    config = AutoregressiveConfig(patch=PATCH)
    other = Autoregressive(config, backbone=Tiny(), seed=3)(data, progress=0.5)
    assert ours.parts.keys() == other.parts.keys() == {"next"}
    torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("terms", [s for n in (1, 2, 3) for s in combinations(TERMS, n)])
def test_any_terms_can_be_left_out(terms):
    model, data = objective(head="dense", terms=terms), batch([4, 5, 6, 7])
    output = model(data, progress=0.3)
    assert list(output.parts) == list(terms)
    mixed = "random" in terms and len(terms) > 1
    assert all(part[1] == (2 if mixed else 4) for part in output.parts.values())
    weights = restricted(Weights(0.18, 0.73, 0.09), terms)
    expected = sum(getattr(weights, t) * s / n for t, (s, n) in output.parts.items())
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_weight_of_a_term_that_is_left_out_goes_to_the_others():
    weights = Weights(0.73, 0.18, 0.09)
    assert restricted(weights, TERMS) == weights
    assert restricted(weights, ("next", "next_all")) == pytest.approx((0, 2 / 3, 1 / 3))
    assert restricted(weights, ("random",)) == pytest.approx((1, 0, 0))
    assert restricted(Weights(1, 0, 3), ("random", "next")) == pytest.approx((4, 0, 0))


@pytest.mark.parametrize(
    "curriculum",
    [
        Named("sampled", Sampled()),
        Named("alternating", Alternating(turns=40)),
        Named("constant", Constant(random=1.0, next=0.0, next_all=0.0)),
    ],
)
def test_a_curriculum_with_steps_of_no_term_is_refused_at_once(curriculum):
    with pytest.raises(ConfigError, match="terms are next, next_all, and the curriculum"):
        objective(terms=("next", "next_all"), curriculum=curriculum)
    objective(curriculum=curriculum)


@pytest.mark.parametrize("terms", [(), ("next", "next"), ("next", "last")])
def test_terms_that_are_none_twice_or_unknown_are_refused(terms):
    with pytest.raises(ConfigError, match="terms must be one or more of random, next, next_all"):
        TokenUnifyConfig(terms=terms)


def test_a_ratio_of_all_is_refused():
    with pytest.raises(ConfigError, match=r"ratio must be in \(0, 1\), got 1"):
        TokenUnifyConfig(ratio=1)


def test_a_sampled_term_depends_on_seed_and_step_alone():
    model = objective(curriculum=Named("sampled", Sampled()))
    for step in range(20):
        weights = sampled(Sampled(), progress=step / 20, seed=3)
        for positions in ([4, 5], [8, 11]):
            output = model(batch(positions), progress=step / 20)
            means = {name: (total / count).item() for name, (total, count) in output.parts.items()}
            name = max(weights._asdict(), key=weights._asdict().get)
            both = (means[name] + means.get(f"dense_{name}", means[name])) / 2
            assert output.loss.item() == pytest.approx(both, rel=1e-5)


def test_options_of_head_curriculum_and_terms_are_read():
    choice = {
        "name": "tokenunify",
        "curriculum": {"name": "piecewise", "switch": "0.1,0.2"},
        "perceiver": {"latents": 8},
        "terms": ["next", "random"],
        "path": "hilbert",
    }
    options = build_named(choice, OBJECTIVES, where="a test").options
    assert options.curriculum == Named("piecewise", Piecewise(switch=(0.1, 0.2)))
    assert options.perceiver.latents == 8 and options.perceiver.width == 128
    assert options.patch == (4, 16, 16) and options.ratio == 0.75 and options.head == "perceiver"
    assert options.terms == ("next", "random") and options.path == "hilbert"


def test_a_network_whose_features_do_not_cover_the_crop_is_refused_by_the_head():
    with pytest.raises(ConfigError, match="Conv3d has no widths"):
        objective(nn.Conv3d(1, 1, 1))
    with pytest.raises(ConfigError, match=r"stage is 7, must be in -2\.\.1"):
        objective(perceiver=PerceiverConfig(stage=7))


def test_a_perfect_dense_output_has_no_loss_at_any_progress():
    class Answer(nn.Module):
        """Know the picture."""

        def forward(self, crops):
            return self.picture

    answer, data = Answer(), batch([0, 1, 2, 3])
    answer.picture = data["crops"]
    model = objective(answer, head="dense")
    assert [model(data, progress=p).loss.item() for p in (0.0, 0.5, 1.0)] == [0, 0, 0]


def test_crops_that_the_network_pads_are_decoded_whole():
    torch.manual_seed(0)
    backbone = build_model("emmamba_atto", out_channels=1)
    model = objective(backbone, patch=(4, 8, 8))
    data = {"crops": torch.rand(1, 1, 8, 24, 40), "positions": torch.tensor([5])}
    output = model(data, progress=0.5)
    assert output.loss.isfinite() and output.parts["next_all"][1] == 1


def test_it_builds_on_the_meta_device():
    with torch.device("meta"):
        backbone = build_model("emmamba_tiny", out_channels=1)
        model = TokenUnify(TokenUnifyConfig(), backbone=backbone, seed=0)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_few_steps_bring_every_term_down():
    model, data = objective(fill="learned"), batch([0, 1, 2, 3])
    data["crops"] = data["crops"] * 0.2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    records = []
    for _ in range(20):
        output = model(data, progress=0.5)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        records.append({name: (s / n).item() for name, (s, n) in output.parts.items()})
    assert all(records[-1][name] < 0.5 * records[0][name] for name in ALL_PARTS), records[-1]
