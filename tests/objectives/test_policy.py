import itertools
import math

import numpy as np
import pytest
import torch

from tokenunify_scale.objectives.policy import (
    BOUND,
    Decision,
    MaskPolicy,
    Picks,
    expected_at_pick,
    learn,
    patch_statistics,
    pick,
    pick_log_probabilities,
    standardised,
    uniform_estimate,
)

PATCH = (1, 4, 4)
LOGITS = torch.tensor([0.3, -1.2, 2.0, 0.0, 0.7])
VALUES = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])


def gumbel(rows: int, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -torch.empty(rows, count).exponential_(generator=generator).log()


def crops(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 2, 8, 12, generator=torch.Generator().manual_seed(seed))


def chance(order, count: int) -> float:
    """Of picking these agents one after another, by the definition."""
    weights, product = LOGITS.double().exp().tolist(), 1.0
    for i in range(count):
        product *= weights[order[i]] / sum(weights[k] for k in order[i:])
    return product


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_log_probabilities_are_those_of_picking_one_after_another(count):
    orders = list(itertools.permutations(range(5)))
    found = pick_log_probabilities(LOGITS.expand(120, 5), torch.tensor(orders))
    found = found[:, :count].sum(1).exp()
    np.testing.assert_allclose(found, [chance(order, count) for order in orders], rtol=1e-5)
    every = math.factorial(5 - count)  # orders of those left share their first picks
    assert float(found.sum()) / every == pytest.approx(1)


def test_sequences_are_drawn_as_often_as_their_probability_says():
    rows = 60000
    picks = pick(LOGITS.expand(rows, 5), gumbel(rows, 5), count=3)
    for wanted in itertools.permutations(range(5), 3):
        rest = [k for k in range(5) if k not in wanted]
        probability = chance([*wanted, *rest], 3)
        share = float((picks.order[:, :3] == torch.tensor(wanted)).all(1).float().mean())
        assert abs(share - probability) < 4.5 * math.sqrt(probability / rows)


def test_a_pick_hides_its_count_and_its_threshold_lies_between():
    logits, noise = torch.randn(20, 7), gumbel(20, 7)
    picks = pick(logits, noise, count=4)
    hidden, keys = picks.hidden(), logits + noise
    assert hidden.dtype == torch.bool and (hidden.sum(1) == 4).all()
    assert torch.equal(picks.threshold[:, 0], keys.masked_fill(hidden, -torch.inf).amax(1))
    assert (keys.masked_fill(~hidden, torch.inf).amin(1) > picks.threshold[:, 0]).all()


def test_the_baseline_is_the_mean_over_those_left():
    order = torch.tensor([[3, 0, 4, 1, 2]])
    found = expected_at_pick(LOGITS[None], VALUES[None], order)
    for i in range(5):
        left = order[0, i:]
        expected = (LOGITS[left].softmax(0) * VALUES[left]).sum()
        assert float(found[0, i]) == pytest.approx(float(expected), rel=1e-5)


def test_the_gradient_is_on_average_that_of_each_picks_expected_reward():
    logits = LOGITS.double().requires_grad_()
    rewards, count = VALUES.double(), 3
    estimate, exact = 0.0, 0.0
    for order in itertools.permutations(range(5)):
        likely = pick_log_probabilities(logits[None], torch.tensor([order]))[0, :count]
        mean = expected_at_pick(logits[None], 0.3 * rewards[None] + 1, torch.tensor([order]))
        weight = chance(order, count) / 2  # two orders of the last share the first three picks
        advantage = (rewards[list(order[:count])] - mean[0, :count]).detach()
        estimate = estimate + weight * (likely * advantage).sum()
        for i in range(count):
            left = list(order[i:])
            exact = exact + weight * (logits[left].softmax(0) * rewards[left]).sum()
    found, expected = (torch.autograd.grad(x, logits)[0] for x in (estimate, exact))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_uniform_error_is_estimated_from_a_skewed_choice():
    rows, count = 4000, 30
    generator = torch.Generator().manual_seed(0)
    errors = torch.rand(40, generator=generator)
    logits = (4 * errors - 2).expand(rows, 40)
    picks = pick(logits, gumbel(rows, 40), count=count)
    estimate = uniform_estimate(logits, picks, errors.expand(rows, 40)).mean()
    chosen = errors.expand(rows, 40)[picks.hidden()].mean()
    assert chosen > errors.mean() + 0.03
    assert float(estimate) == pytest.approx(float(errors.mean()), abs=0.01)


def test_standardised_rows_have_mean_0_and_deviation_1_unless_all_alike():
    rows = standardised(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
    torch.testing.assert_close(rows, torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))


def test_statistics_are_of_each_patch_in_units_of_the_crop():
    batch = crops()
    found = patch_statistics(batch, patch=PATCH)
    assert found.shape == (2, 4, 2, 2, 3)
    means = batch[1, 0].reshape(2, 2, 4, 3, 4).mean((2, 4)).numpy()
    np.testing.assert_allclose(found[1, 0], (means - means.mean()) / means.std(), atol=1e-3)
    torch.testing.assert_close(
        patch_statistics(0.2 * batch + 0.1, patch=PATCH), found, atol=1e-3, rtol=1e-3
    )
    flat = patch_statistics(torch.full((1, 1, 2, 8, 8), 0.25), patch=PATCH)
    assert flat.count_nonzero() == 0


def test_statistics_are_of_the_mean_over_channels():
    batch = torch.rand(2, 3, 1, 8, 12, generator=torch.Generator().manual_seed(2))
    found = patch_statistics(batch, patch=(1, 4, 4))
    assert found.shape == (2, 4, 1, 2, 3)
    expected = patch_statistics(batch.mean(1, keepdim=True), patch=(1, 4, 4))
    torch.testing.assert_close(found, expected)


def test_an_untaught_policy_is_uniform_and_a_taught_one_is_bounded():
    policy = MaskPolicy()
    decision = policy(crops(), patch=PATCH)
    assert decision.logits.shape == decision.values.shape == (2, 12)
    assert decision.logits.count_nonzero() == 0 and decision.values.count_nonzero() == 0
    torch.nn.init.constant_(policy.actor.weight, 1e4)
    assert policy(crops(), patch=PATCH).logits.abs().max() <= BOUND


def test_an_untaught_policy_gains_nothing_and_has_the_entropy_of_uniform_masking():
    decision = Decision(torch.zeros(2, 8), torch.zeros(2, 8))
    picks = pick(decision.logits, gumbel(2, 8), count=6)
    lesson = learn(decision, picks, torch.rand(2, 8), value=0.5, entropy=0.01)
    torch.testing.assert_close(lesson.entropy, torch.ones(2))
    torch.testing.assert_close(lesson.reward, torch.zeros(2), atol=1e-6, rtol=0)


def test_a_lesson_equals_its_definition():
    order, count, errors = [2, 4, 0, 1, 3], 3, torch.tensor([4.0, 9.0, 1.0, 7.0, 1.0])
    decision = Decision(LOGITS[None], VALUES[None])
    picks = Picks(torch.tensor([order]), count, torch.tensor([[-0.5]]))
    lesson = learn(decision, picks, errors[None], value=0.5, entropy=0.25)
    mean, deviation = 2.0, math.sqrt(2)  # of errors 1, 1, 4
    actor = critic = 0.0
    for i, agent in enumerate(order[:count]):
        reward, left = (float(errors[agent]) - mean) / deviation, order[i:]
        shares = LOGITS[left].softmax(0)
        advantage = reward - float((shares * VALUES[left]).sum())
        actor -= math.log(shares[0]) * advantage / count
        critic += (float(VALUES[agent]) - reward) ** 2 / count
    shares = LOGITS.softmax(0)
    entropy = -float((shares * shares.log()).sum()) / math.log(5)
    expected = actor + 0.5 * critic - 0.25 * entropy
    assert float(lesson.loss) == pytest.approx(expected, rel=1e-4)
    assert float(lesson.entropy) == pytest.approx(entropy, rel=1e-5)


def test_the_critic_learns_from_its_own_error_alone():
    values = VALUES[None].clone().requires_grad_()
    picks, errors = pick(LOGITS[None], gumbel(1, 5), count=3), torch.rand(1, 5)
    learn(Decision(LOGITS[None], values), picks, errors, value=0.5, entropy=0.1).loss.backward()
    hidden = picks.order[0, :3]
    rewards = standardised(errors[0, hidden])
    expected = torch.zeros(5).scatter(0, hidden, (VALUES[hidden] - rewards) / 3)
    torch.testing.assert_close(values.grad[0], expected)


def test_contrast_does_not_change_a_lesson_but_its_reward():
    decision = Decision(LOGITS[None], VALUES[None])
    picks, errors = pick(LOGITS[None], gumbel(1, 5), count=3), torch.rand(1, 5) + 0.1
    one = learn(decision, picks, errors, value=0.5, entropy=0.01)
    ten = learn(decision, picks, 10 * errors, value=0.5, entropy=0.01)
    torch.testing.assert_close(one.loss, ten.loss, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(10 * one.reward, ten.reward)


def test_a_lesson_teaches_the_whole_policy_and_no_error():
    policy, errors = MaskPolicy(), torch.rand(2, 12, requires_grad=True)
    for parameter in (policy.actor.weight, policy.critic.weight):
        torch.nn.init.normal_(parameter)  # at the zeros they start from, the trunk learns nothing
    decision = policy(crops(), patch=PATCH)
    picks = pick(decision.logits, gumbel(2, 12), count=8)
    lesson = learn(decision, picks, errors, value=0.5, entropy=0.01)
    lesson.loss.sum().backward()
    assert errors.grad is None
    assert all(p.grad.abs().max() > 0 for p in policy.parameters())
    assert not lesson.reward.requires_grad and not lesson.entropy.requires_grad
