import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tokenunify_scale.data.affinities import NEAREST, affinities_from_labels
from tokenunify_scale.objectives.affinity import balance
from tokenunify_scale.objectives.embedding import OFFSETS, cosine_affinities, embedding_loss

SIDES = (3, 6, 8)


def plain(target: Tensor, valid: Tensor) -> Tensor:
    return valid


def labels(*, batch: int = 2, sides=SIDES, of: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, of, (batch, *sides), generator=generator)


def embeddings(*, batch: int = 2, sides=SIDES, levels: int = 3, channels: int = 4):
    """Random ones, halved in the plane level by level."""
    generator = torch.Generator().manual_seed(1)
    d, h, w = sides
    shapes = [(batch, channels, d, math.ceil(h / 2**k), math.ceil(w / 2**k)) for k in range(levels)]
    return tuple(torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)


def perfect(of: Tensor, *, levels: int = 3) -> tuple[Tensor, ...]:
    """A direction for each object, none for background, at every level."""
    finest = functional.one_hot(of, int(of.max()) + 1)[..., 1:].movedim(-1, 1).float()
    return tuple(finest[..., :: 2**k, :: 2**k] for k in range(levels))


def pairs(sides, offset):
    """Voxels and partners inside a volume."""
    for p in np.ndindex(*sides):
        q = tuple(a - b for a, b in zip(p, offset, strict=True))
        if all(0 <= a < side for a, side in zip(q, sides, strict=True)):
            yield p, q


def shift_by_loops(embedding: Tensor, of: Tensor, offset, *, balanced: bool) -> Tensor | float:
    """Weighted mean squared error of one sample and shift, edge by edge."""
    errors = {0: [], 1: []}
    for p, q in pairs(of.shape, offset):
        truth = int(of[p] == of[q] and of[p] != 0)
        cosine = functional.cosine_similarity(embedding[(..., *p)], embedding[(..., *q)], dim=0)
        errors[truth].append((cosine - truth) ** 2)
    kinds = [torch.stack(kind) for kind in errors.values() if kind]
    if not kinds:
        return 0.0
    if balanced:
        return sum(kind.mean() for kind in kinds) / len(kinds)
    return torch.cat(kinds).mean()


def by_loops(levels: tuple[Tensor, ...], of: Tensor, *, balanced: bool) -> list[Tensor]:
    """Loss of each sample."""
    result = []
    for i, sample in enumerate(of):
        total = 0.0
        for k, level in enumerate(levels):
            seen = sample[:, :: 2**k, :: 2**k]
            for offset in NEAREST if k else OFFSETS:
                total = total + shift_by_loops(level[i], seen, offset, balanced=balanced)
        result.append(total)
    return result


def test_channels_have_the_published_order():
    names = [f"{'zyx'[axis]}{max(o)}" for o in OFFSETS for axis in range(3) if o[axis]]
    assert " ".join(names) == "z1 y1 x1 z2 y3 x3 z3 y9 x9 z4 y27 x27"
    assert OFFSETS[:3] == NEAREST


def test_cosines_agree_with_a_loop_and_are_0_where_the_mask_of_affinities_is():
    offsets = [*OFFSETS, (0, -2, 0), (1, 1, -3), (-5, 0, 0)]
    (embedding,) = embeddings(levels=1)
    found = cosine_affinities(5 * embedding, offsets)
    expected = torch.zeros_like(found)
    for channel, offset in enumerate(offsets):
        for p, q in pairs(SIDES, offset):
            ends = embedding[(..., *p)], embedding[(..., *q)]
            expected[(slice(None), channel, *p)] = functional.cosine_similarity(*ends, dim=1)
    torch.testing.assert_close(found, expected)
    _, valid = affinities_from_labels(labels(), offsets)
    equal = cosine_affinities(torch.ones(2, 4, *SIDES), offsets)
    torch.testing.assert_close(equal, valid)


@pytest.mark.parametrize("weigh", [balance, plain])
def test_the_loss_and_its_gradient_agree_with_a_loop_over_all_edges(weigh):
    ours, theirs, of = embeddings(), embeddings(), labels()
    loss, _ = embedding_loss(ours, of, weigh=weigh)
    expected = by_loops(theirs, of, balanced=weigh is balance)
    torch.testing.assert_close(loss, torch.stack(expected), rtol=1e-5, atol=1e-5)
    (loss * torch.tensor([1.0, 3.0])).sum().backward()
    (expected[0] + 3 * expected[1]).backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad.abs().max() > 0
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_every_shift_is_weighed_over_the_edges_that_exist():
    seen = []

    def weigh(target, valid):
        seen.append([int(channel) for channel in valid[0].sum((1, 2, 3))])
        return valid

    embedding_loss(embeddings(sides=(3, 10, 28), levels=2), labels(sides=(3, 10, 28)), weigh=weigh)
    d, h, w = 3, 10, 28
    z, y, x = ([1, 2, 3, 4], [1, 3, 9, 27], [1, 3, 9, 27])
    finest = [
        count
        for i in range(4)
        for count in (max(d - z[i], 0) * h * w, d * max(h - y[i], 0) * w, d * h * (w - x[i]))
    ]
    assert seen == [finest, [2 * 5 * 14, 3 * 4 * 14, 3 * 5 * 13]]


def test_shifts_longer_than_a_side_cost_nothing():
    (embedding,) = embeddings(levels=1, sides=(1, 1, 2))
    loss, _ = embedding_loss((embedding,), labels(sides=(1, 1, 2)), weigh=balance)
    expected = [
        shift_by_loops(e, of, (0, 0, 1), balanced=True)
        for e, of in zip(embedding, labels(sides=(1, 1, 2)), strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(expected))


def test_a_perfect_embedding_costs_nothing_and_has_finite_gradients():
    levels = tuple(level.requires_grad_() for level in perfect(labels()))
    loss, error = embedding_loss(levels, labels(), weigh=balance)
    torch.testing.assert_close(loss, torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(error, torch.zeros(2), rtol=0, atol=1e-6)
    loss.sum().backward()
    assert all(level.grad.isfinite().all() for level in levels)


def test_background_that_looks_alike_is_an_error():
    of = labels(sides=(1, 6, 8)).clamp(max=1)
    alike = functional.one_hot(of, 2).movedim(-1, 1).float()
    loss, error = embedding_loss((alike,), of, weigh=plain)
    expected = []
    for sample in of:
        ends = {o: [(sample[p], sample[q]) for p, q in pairs(of.shape[1:], o)] for o in OFFSETS}
        wrong = {o: [a == b == 0 for a, b in two] for o, two in ends.items() if two}
        expected.append(sum(float(np.mean(kind)) for kind in wrong.values()))
    assert loss.tolist() == pytest.approx(expected, abs=1e-6)
    assert (error > 0).all()


def test_equal_embeddings_everywhere_cost_a_half_a_term():
    of = labels(sides=(5, 30, 30), of=2)  # all shifts fit, both classes everywhere
    levels = embeddings(sides=(5, 30, 30))
    equal = tuple(torch.ones_like(level) for level in levels)
    loss, _ = embedding_loss(equal, of, weigh=balance)
    assert loss.tolist() == pytest.approx([0.5 * (12 + 2 * 3)] * 2, abs=1e-4)


def test_labels_that_are_all_background_give_a_finite_loss_and_gradient():
    levels = embeddings()
    loss, error = embedding_loss(levels, torch.zeros(2, *SIDES).long(), weigh=balance)
    expected = by_loops(levels, torch.zeros(2, *SIDES).long(), balanced=False)
    torch.testing.assert_close(loss, torch.stack(expected))
    loss.sum().backward()
    assert error.isfinite().all()
    assert all(level.grad.isfinite().all() for level in levels)


def test_what_an_embedding_has_beyond_the_labels_is_left_out():
    of = labels(sides=(2, 5, 7))
    small = embeddings(sides=(2, 5, 7))
    large = (small[0], *(functional.pad(level, (0, 3, 0, 2), value=9.0) for level in small[1:]))
    torch.testing.assert_close(*(embedding_loss(e, of, weigh=balance) for e in (small, large)))


def test_the_plain_error_is_that_of_the_three_nearest_edges_and_has_no_gradient():
    levels, of = embeddings(), labels()
    _, error = embedding_loss(levels, of, weigh=balance)
    target, valid = affinities_from_labels(of)
    squares = (cosine_affinities(levels[0], NEAREST) - target).square() * valid
    torch.testing.assert_close(error, squares.sum((1, 2, 3, 4)) / valid.sum((1, 2, 3, 4)))
    assert not error.requires_grad


def test_embeddings_may_be_narrow():
    levels = tuple(level.detach().bfloat16().requires_grad_() for level in embeddings())
    loss, _ = embedding_loss(levels, labels(), weigh=balance)
    wide, _ = embedding_loss(embeddings(), labels(), weigh=balance)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, wide, rtol=0.02, atol=0)
    loss.sum().backward()
    assert all(level.grad.isfinite().all() for level in levels)


def test_embeddings_smaller_than_the_labels_or_of_another_batch_are_refused():
    finest, *coarser = embeddings()
    for wrong in ((finest[:1],), (finest[..., 1:],), (finest, coarser[0][:, :, 1:])):
        with pytest.raises(ValueError, match="does not cover labels"):
            embedding_loss(wrong, labels(), weigh=balance)
