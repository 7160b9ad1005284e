import numpy as np
import pytest
import torch
from torch.nn import functional

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models.load import start_from
from tokenunify_scale.models.pea import PEA, PEAConfig, cosines, nearest_affinities, normalise
from tokenunify_scale.models.superhuman import Superhuman, SuperhumanConfig
from tokenunify_scale.registry import MODELS

WIDTHS = (2, 3, 4, 5, 6)
CROP = (3, 32, 48)
NEAREST = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def network(**options) -> PEA:
    torch.manual_seed(0)
    return PEA(PEAConfig(widths=WIDTHS, embedding=4), **options)


def noise(*sides: int, batch: int = 1, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, channels, *sides, generator=generator) - 0.5


def by_loops(embedding: torch.Tensor, offset: tuple[int, int, int]) -> torch.Tensor:
    """Cosines voxel by voxel, nan where the partner is outside."""
    batch, _, *sides = embedding.shape
    result = torch.full((batch, *sides), torch.nan)
    for p in np.ndindex(*sides):
        q = tuple(a - b for a, b in zip(p, offset, strict=True))
        if all(0 <= a < side for a, side in zip(q, sides, strict=True)):
            ends = embedding[(..., *p)], embedding[(..., *q)]
            result[(..., *p)] = functional.cosine_similarity(*ends, dim=1)
    return result


def test_the_registered_network_has_the_published_layers():
    entry = MODELS.get("pea")
    with torch.device("meta"):
        model = entry.factory(entry.config)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == 1_481_748 == pytest.approx(1.480e6, rel=0.005)
    crops = torch.empty(1, 1, 18, 160, 160, device="meta")
    assert model(crops).shape == (1, 3, 18, 160, 160)
    assert [tuple(e.shape) for e in model.embeddings(crops)] == [
        (1, 16, 18, 160 >> i, 160 >> i) for i in range(5)
    ]


def test_weights_of_superhuman_start_all_of_the_trunk():
    torch.manual_seed(1)
    other, model = Superhuman(SuperhumanConfig(widths=WIDTHS)), network()
    transfer = start_from(model, {k: v.clone() for k, v in other.state_dict().items()})
    trunk = {name for name, _ in model.named_parameters() if name.startswith("trunk.")}
    assert trunk <= set(transfer.loaded) and not transfer.unused
    assert all(name.startswith("out.") for name in (r.split(":")[0] for r in transfer.refused))
    assert all(name.startswith("deep.") for name in transfer.new)
    found = model.eval().features(noise(*CROP))
    for ours, theirs in zip(found, other.eval().features(noise(*CROP)), strict=True):
        assert torch.equal(ours, theirs)


@torch.inference_mode()
def test_embeddings_come_fine_to_coarse_and_only_the_finest_is_cropped():
    shapes = [tuple(e.shape) for e in network().eval().embeddings(noise(3, 33, 47))]
    assert shapes == [(1, 4, 3, 33, 47)] + [(1, 4, 3, 48 >> i, 48 >> i) for i in range(1, 5)]


@torch.inference_mode()
def test_features_are_those_of_the_encoder():
    shapes = [tuple(level.shape) for level in network().features(noise(3, 33, 47))]
    assert shapes == [(1, width, 3, 48 >> i, 48 >> i) for i, width in enumerate(WIDTHS)]


@torch.inference_mode()
@pytest.mark.parametrize("sides", [(1, 1, 1), (2, 33, 47), (1, 16, 16), CROP])
def test_affinities_are_those_of_the_finest_embedding_whatever_the_crop(sides):
    model = network().eval()
    output = model(noise(*sides))
    assert output.shape == (1, 3, *sides)
    assert 0 <= output.min() and output.max() <= 1
    assert torch.equal(output, nearest_affinities(model.embeddings(noise(*sides))[0]))


@pytest.mark.parametrize("sides", [(3, 4, 5), (1, 3, 2), (2, 1, 1), (1, 1, 1)])
def test_affinities_are_cosines_without_the_negative_ones_and_first_voxels_repeat(sides):
    embedding = noise(*sides, batch=2, channels=3) * 7
    found = nearest_affinities(embedding)
    for axis, offset in enumerate(NEAREST):
        expected = by_loops(embedding, offset)
        if sides[axis] == 1:
            expected = torch.ones_like(expected)
        else:
            expected.select(axis + 1, 0).copy_(expected.select(axis + 1, 1))
        torch.testing.assert_close(found[:, axis], expected.clamp(min=0))


@pytest.mark.parametrize("offset", [(1, 0, 0), (0, -2, 0), (1, 1, -3), (0, 0, 5), (-9, 0, 0)])
def test_cosines_agree_with_a_loop_over_voxels_and_are_0_without_a_partner(offset):
    embedding = noise(2, 4, 5, batch=2, channels=3)
    found = cosines(normalise(embedding), [offset, (0, 1, 0)])
    torch.testing.assert_close(found[:, 0], by_loops(embedding, offset).nan_to_num(0))
    torch.testing.assert_close(found[:, 1], by_loops(embedding, (0, 1, 0)).nan_to_num(0))


def test_the_gradient_of_cosines_is_that_of_finite_differences():
    units = noise(2, 3, 4, batch=2, channels=2).double().requires_grad_()
    offsets = [(1, 0, 0), (0, 0, 0), (0, 2, -1), (0, 0, 4)]
    assert torch.autograd.gradcheck(lambda x: cosines(x, offsets), (units,))


def test_vectors_get_length_1_and_zero_vectors_a_finite_gradient():
    embedding = noise(2, 4, 4, channels=3) * torch.tensor([1e3, 1.0, 1e-2, 0.0])
    embedding.requires_grad_()
    units = normalise(embedding)
    lengths = units.norm(dim=1)
    torch.testing.assert_close(lengths[..., :3], torch.ones(1, 2, 4, 3), rtol=0, atol=1e-3)
    assert (lengths[..., 3] == 0).all()
    nearest_affinities(embedding).sum().backward()
    assert embedding.grad.isfinite().all() and embedding.grad.abs().max() < 1e5


def test_every_parameter_gets_a_gradient_from_embeddings_and_deep_heads_from_them_alone():
    model = network().train()
    sum((e - 0.3).square().mean() for e in model.embeddings(noise(*CROP))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # A bias before a batch norm has no effect in training: its gradient is rounding, or 0.
        if not ("decoder" in name and name.endswith(".conv.bias")):
            assert parameter.grad.abs().max() > 0, name
    model.zero_grad()
    model(noise(*CROP)).mean().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == [name for name, _ in model.named_parameters() if name.startswith("deep.")]


def test_groups_partition_the_parameters():
    model = network()
    groups = model.groups()
    assert list(groups) == ["mamba", "encoder", "decoder"] and groups["mamba"] == []
    ids = [id(parameter) for group in groups.values() for parameter in group]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in model.parameters()}


@torch.inference_mode()
def test_evaluation_repeats_itself():
    model = network().eval()
    assert torch.equal(model(noise(*CROP)), model(noise(*CROP)))


def test_under_autocast_affinities_stay_wide_and_near():
    torch.manual_seed(0)
    model = PEA(PEAConfig(widths=(8, 8, 8, 8, 8))).train()
    wide = model(noise(*CROP))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow, embeddings = model(noise(*CROP)), model.embeddings(noise(*CROP))
    assert narrow.dtype == torch.float32
    assert {embedding.dtype for embedding in embeddings} == {torch.bfloat16}
    assert (narrow - wide).abs().mean() < 0.02
    sum(embedding.float().square().mean() for embedding in embeddings).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_other_outputs_than_three_affinities_are_refused():
    with pytest.raises(ConfigError, match="must be 3, got 1.*no image output; pretrain superhuman"):
        network(out_channels=1)


@pytest.mark.parametrize("option", [{"embedding": 0}, {"widths": (1, 2, 3)}])
def test_nonsense_options_are_refused(option):
    with pytest.raises(ValueError, match="must be"):
        PEAConfig(**option)
