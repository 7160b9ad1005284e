import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tokenunify_scale.config import ConfigError, build_named
from tokenunify_scale.data.affinities import NEAREST, NEIGHBOURHOODS, affinities_from_labels
from tokenunify_scale.objectives import build_objective, out_channels
from tokenunify_scale.objectives.affinity import PREDICTION, Affinity, AffinityConfig, compare
from tokenunify_scale.objectives.affinity_losses import balance
from tokenunify_scale.objectives.embedding import OFFSETS, embedding_loss
from tokenunify_scale.registry import OBJECTIVES

SIDES = (3, 4, 5)


class Answer(nn.Module):
    """Put out a given picture, times a weight of 1."""

    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        self.picture, self.weight = picture, nn.Parameter(torch.ones(()))

    def forward(self, crops: Tensor) -> Tensor:
        return self.picture * self.weight


def labels(count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 3, (count, *SIDES), generator=generator)


def predictions(count: int = 2) -> Tensor:
    return torch.rand(count, 3, *SIDES, generator=torch.Generator().manual_seed(1))


def batch(of: Tensor) -> dict[str, Tensor]:
    return {"crops": torch.zeros(len(of), 1, *SIDES), "labels": of}


def loss(picture: Tensor, of: Tensor, kind: str = "weighted_mse", border: int = 0):
    config = AffinityConfig(loss=kind, border=border)
    return Affinity(config, backbone=Answer(picture))(batch(of), progress=0.0)


def edges(of: Tensor) -> list[list[list[tuple[tuple, int]]]]:
    """Per sample and channel: each edge's place and whether its two voxels are one object."""
    found = []
    for sample in of:
        channels = []
        for offset in NEAREST:
            edges_ = []
            for p in np.ndindex(*SIDES):
                q = tuple(a - b for a, b in zip(p, offset, strict=True))
                if min(q) >= 0:
                    edges_.append((p, int(sample[p] == sample[q] and sample[p] != 0)))
            channels.append(edges_)
        found.append(channels)
    return found


def by_loops(picture: Tensor, of: Tensor, *, weighted: bool) -> list[float]:
    """Loss of each sample, edge by edge; either class weighs half of its channel."""
    samples = []
    for i, channels in enumerate(edges(of)):
        total, count = 0.0, 0
        for c, channel in enumerate(channels):
            ones = sum(truth for _, truth in channel)
            zeros = len(channel) - ones
            for p, truth in channel:
                weight = 1.0
                if weighted and ones and zeros:
                    weight = len(channel) / (2 * (ones if truth else zeros))
                total += weight * (float(picture[(i, c, *p)]) - truth) ** 2
            count += len(channel)
        samples.append(total / count)
    return samples


@pytest.mark.parametrize("kind", ["weighted_mse", "mse"])
def test_the_loss_agrees_with_a_loop_over_all_edges(kind):
    output = loss(predictions(), labels(), kind)
    samples = by_loops(predictions(), labels(), weighted=kind == "weighted_mse")
    plain = by_loops(predictions(), labels(), weighted=False)
    assert output.loss.item() == pytest.approx(sum(samples) / 2, rel=1e-5)
    assert output.parts["affinity"].tolist() == pytest.approx([sum(samples), 2], rel=1e-5)
    assert output.parts["mse"].tolist() == pytest.approx([sum(plain), 2], rel=1e-5)


def test_a_perfect_prediction_has_no_loss():
    target, valid = affinities_from_labels(labels())
    assert loss(target, labels()).loss == 0
    outside = torch.where(valid > 0, target, torch.full_like(target, 7.0))
    assert loss(outside, labels()).loss == 0  # where no edge is, nothing is asked


@pytest.mark.parametrize("border", [0, 1, 2])
def test_borders_are_widened_in_the_plane_before_affinities_are_taken(border):
    of = torch.ones(1, 3, 4, 8).long()
    of[..., 4:] = 2
    widened = of.clone()
    widened[..., 4 - border : 4 + border] = 0
    target, _ = affinities_from_labels(widened)
    data = {"crops": torch.zeros(1, 1, 3, 4, 8), "labels": of}
    model = Affinity(AffinityConfig(border=border), backbone=Answer(target))
    assert model(data, progress=0.0).loss == 0
    assert torch.equal(data["labels"].unique(), torch.tensor([1, 2]))  # a copy was widened
    if border:
        other = Affinity(AffinityConfig(border=border - 1), backbone=Answer(target))
        assert other(data, progress=0.0).loss > 0


def test_a_negative_border_is_refused():
    with pytest.raises(ValueError, match="border must be >= 0, got -1"):
        AffinityConfig(border=-1)


@pytest.mark.parametrize("of", [torch.ones(1, *SIDES).long(), torch.zeros(1, *SIDES).long()])
def test_a_class_that_is_absent_leaves_the_other_with_weight_1(of):
    output = loss(torch.full((1, 3, *SIDES), 0.5), of)
    assert output.loss.item() == pytest.approx(0.25) and output.loss.isfinite()


def test_guessing_one_class_costs_half_whatever_its_share():
    of = torch.ones(1, *SIDES).long()
    of[0, 1, 1, 1] = 2  # six cut edges, all others joined
    for value in (0.0, 1.0):
        guess = torch.full((1, 3, *SIDES), value)
        assert loss(guess, of).loss.item() == pytest.approx(0.5)


def test_the_loss_of_the_whole_batch_is_the_mean_over_its_samples():
    whole = loss(predictions(4), labels(4))
    alone = [loss(predictions(4)[i : i + 1], labels(4)[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(whole.loss, torch.stack([a.loss for a in alone]).mean())
    for name in ("affinity", "mse"):
        torch.testing.assert_close(whole.parts[name], sum(a.parts[name] for a in alone))


def test_gradients_are_finite_even_where_a_class_is_absent():
    backbone = Answer(torch.full((1, 3, *SIDES), 0.5))
    model = Affinity(AffinityConfig(), backbone=backbone)
    model(batch(torch.ones(1, *SIDES).long()), progress=0.0).loss.backward()
    assert backbone.weight.grad.isfinite() and backbone.weight.grad != 0


def test_a_crop_without_any_edge_has_loss_0():
    data = {"crops": torch.zeros(1, 1, 1, 1, 1), "labels": torch.ones(1, 1, 1, 1).long()}
    model = Affinity(AffinityConfig(), backbone=Answer(torch.rand(1, 3, 1, 1, 1)))
    assert model(data, progress=0.0).loss == 0


def test_it_asks_for_one_channel_an_offset():
    assert out_channels("affinity") == len(NEAREST) == 3
    for offsets, count in (("nearest", 3), ("long_range", 12), ((*NEAREST, (0, 9, 9)), 4)):
        options = AffinityConfig(offsets=offsets)
        assert out_channels("affinity", options=options) == len(options.edges) == count
    assert NEIGHBOURHOODS["long_range"] == OFFSETS  # what embeddings are scored at too


@pytest.mark.parametrize("kind", ["weighted_mse", "bce", "dice_bce"])
def test_longer_edges_are_channels_of_their_own(kind):
    config = AffinityConfig(offsets=(*NEAREST, (2, 0, 0), (0, 1, 2)), loss=kind, border=0)
    target, _ = affinities_from_labels(labels(), config.edges)
    model = Affinity(config, backbone=Answer(target))
    assert model(batch(labels()), progress=0.0).loss.item() == pytest.approx(0, abs=1e-6)
    worse = target.clone()
    worse[:, 4] = 1 - worse[:, 4]
    output = Affinity(config, backbone=Answer(worse))(batch(labels()), progress=0.0)
    assert output.loss > 0.1 and output.parts["mse"].tolist() == [0, 2]  # of the nearest alone


@pytest.mark.parametrize(
    "offsets, message",
    [
        ([[1, 0, 0]], "must be"),
        ([[0, 0, 1], [0, 1, 0], [1, 0, 0]], "the first three must be"),
        ([*NEAREST, [0, 0, 0]], "is no edge"),
        ([*NEAREST, [0, 0, -1]], "the same edges"),
        ([*NEAREST, [0, 1]], "valid: nearest, long_range"),
        ("longrange", "did you mean 'long_range'"),
    ],
)
def test_offsets_that_cannot_be_are_refused(offsets, message):
    with pytest.raises(ConfigError, match=message):
        build_named({"name": "affinity", "offsets": offsets}, OBJECTIVES, where="a test")


def test_a_choice_of_offsets_comes_back_from_plain_data():
    data = {"name": "affinity", "offsets": [*map(list, NEAREST), [0, 9, 9]], "loss": "dice_bce"}
    choice = build_named(data, OBJECTIVES, where="a test")
    assert choice.options.edges == (*NEAREST, (0, 9, 9))
    backbone = Answer(torch.rand(2, 4, *SIDES))
    assert build_objective(choice, backbone=backbone, seed=0)(batch(labels()), progress=0).loss > 0


def test_a_batch_without_labels_is_predicted():
    output = Affinity(AffinityConfig(), backbone=Answer(predictions().half()))(
        {"crops": torch.zeros(2, 1, *SIDES)}, progress=0.0
    )
    assert output.loss == 0 and output.parts.keys() == {PREDICTION}
    torch.testing.assert_close(output.parts[PREDICTION], predictions(), atol=1e-3, rtol=0)


def test_a_whole_region_is_compared_as_a_crop_is():
    config = AffinityConfig(border=0)
    samples, plain = compare(predictions(), labels(), config=config)
    output = loss(predictions(), labels())
    torch.testing.assert_close(samples.mean(), output.loss)
    assert output.parts["mse"].tolist() == pytest.approx([plain.sum().item(), 2])


@pytest.mark.parametrize("margin", [(0, 0, 0), (1, 2, 1)])
def test_a_smaller_output_is_held_against_the_middle_of_the_labels(margin):
    sides = tuple(side + 2 * m for side, m in zip(SIDES, margin, strict=True))
    of = torch.randint(0, 3, (2, *sides), generator=torch.Generator().manual_seed(2))
    target, _ = affinities_from_labels(of)
    middle = (..., *(slice(m, side - m) for m, side in zip(margin, sides, strict=True)))
    data = {"crops": torch.zeros(2, 1, *sides), "labels": of}
    right = Affinity(AffinityConfig(border=0), backbone=Answer(target[middle]))
    assert right(data, progress=0.0).loss == 0
    wrong = Affinity(AffinityConfig(border=0, loss="mse"), backbone=Answer(1 - target[middle]))
    # An edge whose other voxel lies in the margin is scored too.
    assert wrong(data, progress=0.0).loss.item() == pytest.approx(1)


class Embedding(Answer):
    """Put out affinities, and given embeddings when asked."""

    def __init__(self, picture: Tensor, levels: tuple[Tensor, ...]) -> None:
        super().__init__(picture)
        self.levels = levels

    def embeddings(self, crops: Tensor) -> tuple[Tensor, ...]:
        return tuple(level * self.weight for level in self.levels)


def test_a_network_of_embeddings_is_scored_on_them_unless_told_otherwise():
    levels = (torch.randn(2, 4, *SIDES, generator=torch.Generator().manual_seed(3)),)
    backbone, of = Embedding(predictions(), levels), labels()

    def scored(head: str, kind: str) -> Tensor:
        config = AffinityConfig(head=head, loss=kind, border=0)
        return Affinity(config, backbone=backbone)(batch(of), progress=0.0)

    for kind, weigh in (("weighted_mse", balance), ("mse", lambda target, valid: valid)):
        expected, plain = embedding_loss(levels, of, weigh=weigh)
        for head in ("own", "embedding"):
            output = scored(head, kind)
            torch.testing.assert_close(output.loss, expected.mean())
            assert output.parts["mse"].tolist() == pytest.approx([plain.sum().item(), 2])
        assert torch.equal(scored("direct", kind).loss, loss(predictions(), of, kind).loss)


@pytest.mark.parametrize("options", [{"loss": "bce"}, {"offsets": "long_range"}])
def test_embeddings_are_scored_by_squares_at_their_own_offsets_alone(options):
    backbone = Embedding(predictions(), ())
    with pytest.raises(ConfigError, match="is scored on its embeddings.*objective.head=direct"):
        Affinity(AffinityConfig(**options), backbone=backbone)
    Affinity(AffinityConfig(head="direct", **options), backbone=backbone)


def test_embeddings_are_not_asked_of_a_network_that_has_none():
    with pytest.raises(ConfigError, match="Answer gives no embeddings, valid: pea"):
        Affinity(AffinityConfig(head="embedding"), backbone=Answer(predictions()))
