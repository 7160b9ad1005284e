import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenunify_scale.data.affinities import NEIGHBOURHOODS, affinities_from_labels
from tokenunify_scale.objectives.affinity_losses import (
    LEAST,
    Loss,
    affinity_loss,
    balance,
    cross_entropy,
    dice,
    weighted_mean,
)

SIDES = (3, 4, 5)
KINDS = get_args(Loss)


def case(seed: int = 0, count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count, *SIDES), generator=generator)
    target, valid = affinities_from_labels(labels, NEIGHBOURHOODS["long_range"])
    return torch.rand(target.shape, generator=generator), target, valid


def by_loops(prediction, target, valid, kind: str) -> list[float]:
    """Each sample's loss, edge by edge, in float64."""
    p, t, v = (x.double().numpy() for x in (prediction, target, valid))
    samples = []
    for i in range(len(p)):
        total = count = 0.0
        scores = []
        for c in range(p.shape[1]):
            edges = [e for e in np.ndindex(*SIDES) if v[(i, c, *e)]]
            ones = sum(t[(i, c, *e)] for e in edges)
            both = cut_p = cut_t = 0.0
            for e in edges:
                guess, truth = p[(i, c, *e)], t[(i, c, *e)]
                weight = 1.0
                if kind not in ("mse", "bce") and 0 < ones < len(edges):
                    weight = len(edges) / (2 * (ones if truth else len(edges) - ones))
                if kind.endswith("mse"):
                    error = (guess - truth) ** 2
                else:
                    error = -math.log(guess if truth else 1 - guess)
                total += weight * error
                both += (1 - guess) * (1 - truth)
                cut_p, cut_t = cut_p + (1 - guess) ** 2, cut_t + (1 - truth) ** 2
            count += len(edges)
            if edges:
                scores.append(1 - (2 * both + 1) / (cut_p + cut_t + 1))
        extra = sum(scores) / len(scores) if kind == "dice_bce" else 0.0
        samples.append(total / count + extra)
    return samples


@pytest.mark.parametrize("kind", KINDS)
def test_each_loss_agrees_with_a_loop_over_all_edges(kind):
    found = affinity_loss(*case(), loss=kind)
    assert found.tolist() == pytest.approx(by_loops(*case(), kind), rel=1e-5)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_prediction_has_no_loss_and_what_is_no_edge_is_not_asked(kind):
    _, target, valid = case()
    outside = torch.where(valid > 0, target, torch.full_like(target, 0.3))
    assert affinity_loss(outside, target, valid, loss=kind).abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_sure_and_wrong_is_finite_and_so_is_its_gradient(kind, value):
    _, target, valid = case()
    prediction = torch.full_like(target, value, requires_grad=True)
    affinity_loss(prediction, target, valid, loss=kind).sum().backward()
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["weighted_bce", "bce", "dice_bce"])
def test_a_sigmoid_that_is_sure_and_wrong_still_learns(kind):
    _, target, valid = case()
    logits = torch.where(target > 0.5, -15.0, 15.0).requires_grad_()
    affinity_loss(torch.sigmoid(logits), target, valid, loss=kind).sum().backward()
    asked = balance(target, valid) > 0 if kind != "bce" else valid > 0
    assert (logits.grad[asked] != 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", [0, 1])
def test_a_class_that_is_absent_leaves_a_finite_loss(kind, label):
    labels = torch.full((1, *SIDES), label)
    target, valid = affinities_from_labels(labels)
    prediction = torch.full_like(target, 0.5, requires_grad=True)
    loss = affinity_loss(prediction, target, valid, loss=kind)
    loss.sum().backward()
    assert loss.isfinite().all() and prediction.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_is_told_and_16_bits_are_widened(kind):
    prediction, target, valid = case()
    prediction[0, 0, 1, 1, 1] = torch.nan
    found = affinity_loss(prediction, target, valid, loss=kind)
    assert found.isnan().tolist() == [True, False]
    narrow = case()[0].bfloat16()
    assert affinity_loss(narrow, target, valid, loss=kind).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        affinity_loss(case()[0], target, valid, loss=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_batch_is_that_of_its_samples(kind):
    whole = affinity_loss(*case(count=3), loss=kind)
    alone = [affinity_loss(*(x[i : i + 1] for x in case(count=3)), loss=kind) for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(alone))


def test_the_cross_entropy_is_torchs_own_where_that_is_not_cut():
    prediction, target, _ = case()
    expected = torch.nn.functional.binary_cross_entropy(prediction, target, reduction="none")
    torch.testing.assert_close(cross_entropy(prediction, target), expected)
    sure = cross_entropy(torch.zeros(1), torch.ones(1))
    assert sure.item() == pytest.approx(-math.log(LEAST), rel=1e-6)


def test_dice_is_0_for_all_cut_right_and_near_1_for_all_cut_missed():
    target = torch.zeros(1, 1, 10, 10, 10)
    valid = torch.ones_like(target)
    assert dice(target, target, valid).item() == pytest.approx(0, abs=1e-6)
    assert dice(torch.ones_like(target), target, valid).item() == pytest.approx(1, abs=2e-3)
    assert dice(torch.rand(target.shape), target, torch.zeros_like(target)).item() == 0


def test_both_classes_weigh_half_of_the_edges():
    _, target, valid = case()
    weights = balance(target, valid)
    ones = (weights * target).sum((2, 3, 4))
    zeros = (weights * (1 - target)).sum((2, 3, 4))
    mixed = (ones > 0) & (zeros > 0)
    half = valid.sum((2, 3, 4)) / 2
    assert mixed.any()
    torch.testing.assert_close(ones[mixed], half[mixed])
    torch.testing.assert_close(zeros[mixed], half[mixed])
    assert (weights[valid == 0] == 0).all()


@pytest.mark.parametrize("of", [torch.ones(1, *SIDES).long(), torch.zeros(1, *SIDES).long()])
def test_a_class_that_is_absent_leaves_the_other_with_weight_1(of):
    target, valid = affinities_from_labels(of)
    assert torch.equal(balance(target, valid), valid)


def test_a_weighted_mean_is_taken_sample_by_sample():
    values = torch.tensor([2.0, 4.0, 6.0, 8.0]).reshape(2, 1, 1, 1, 2)
    weights = torch.tensor([3.0, 1.0, 0.0, 0.0]).reshape(2, 1, 1, 1, 2)
    assert weighted_mean(values, weights).tolist() == [2.5, 0.0]
