"""A masking policy: patches as agents that share one network and are paid by their own error."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenunify_scale.objectives.edges import gradient_magnitude, grey
from tokenunify_scale.tokens.patches import patch_grid, patchify

Size3 = tuple[int, int, int]
STATISTICS, WIDTH = 4, 16
BOUND = 2.0  # of a logit: the odds of two patches stay within exp(4), so no mask becomes certain
REWARD_BOUND = 3.0  # standard deviations


class Decision(NamedTuple):
    """What the agents of a batch of crops say of themselves, [B, K] in raster order."""

    logits: Tensor
    """Logarithms of the weights by which they are drawn to be hidden."""

    values: Tensor
    """The critic's guess of each agent's reward, were it hidden."""


class Picks(NamedTuple):
    """Whom a draw without replacement has hidden."""

    order: Tensor
    """int64 [B, K], all agents, the picked ones first and as they were picked."""

    count: int
    """How many of them are hidden, 1..K-1."""

    threshold: Tensor
    """[B, 1], the largest key (logit plus noise) of a visible agent."""

    def hidden(self) -> Tensor:
        """The mask, bool [B, K] in raster order."""
        mask = torch.zeros_like(self.order, dtype=torch.bool)
        return mask.scatter(1, self.order[:, : self.count], True)


class Lesson(NamedTuple):
    """What the agents learn from one batch, [B] each."""

    loss: Tensor
    """To be minimised; its gradient reaches nothing but the policy."""

    entropy: Tensor
    """Of the first draw, over that of a uniform one: 1 is uniform masking, 0 one fixed choice."""

    reward: Tensor
    """By how much the error of the hidden patches exceeds what uniform masking would have met."""


class MaskPolicy(nn.Module):
    """An actor and a critic for each patch, from statistics of the patch and its neighbours.

    The last layers start at 0: an untaught policy is uniform masking.

    Source: Chen et al. 2023 (a behaviour policy that all patches share, actor and critic).
    Paper: its release shows the agents patch embeddings of its encoder; here they see plain
    statistics, which any backbone has, and masks are drawn before the backbone runs.
    """

    def __init__(self) -> None:
        """Two convolutions over the patch grid, under two linear read-outs."""
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv3d(STATISTICS, WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv3d(WIDTH, WIDTH, 3, padding=1),
            nn.GELU(),
        )
        self.actor = nn.Conv3d(WIDTH, 1, 1, bias=False)  # a shift of all logits changes nothing
        self.critic = nn.Conv3d(WIDTH, 1, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the read-outs to 0; the convolutions below them reset themselves."""
        for weight in (self.actor.weight, self.critic.weight, self.critic.bias):
            nn.init.zeros_(weight)

    def forward(self, crops: Tensor, *, patch: Size3) -> Decision:
        """Ask all agents of [B, C, D, H, W] crops.

        Raises:
            ValueError: the patch does not divide the crop.
        """
        seen = self.trunk(patch_statistics(crops, patch=patch))
        logits = self.actor(seen).float().flatten(1)
        values = self.critic(seen).float().flatten(1)
        return Decision(BOUND * (logits / BOUND).tanh(), values)


def patch_statistics(crops: Tensor, *, patch: Size3) -> Tensor:
    """Mean, standard deviation, gradient in the plane and in the volume of each patch.

    Args:
        crops: [B, C, D, H, W], float; the mean over channels counts.
        patch: patch size (z, y, x) in voxels.

    Returns:
        [B, STATISTICS, d, h, w] over the patch grid, float32, without gradient; each statistic of
        a crop has mean 0 and, unless it is constant, standard deviation 1.

    Raises:
        ValueError: the patch does not divide the crop.
    """
    with torch.no_grad():
        levels = patchify(grey(crops), patch=patch)
        slopes = [
            patchify(gradient_magnitude(crops, axes=axes), patch=patch).mean(-1)
            for axes in ("plane", "volume")
        ]
        table = torch.stack([levels.mean(-1), levels.std(-1, correction=0), *slopes], dim=1)
        return standardised(table).unflatten(-1, patch_grid(tuple(crops.shape[2:]), patch=patch))


def standardised(values: Tensor) -> Tensor:
    """Shift and scale each last axis to mean 0 and deviation 1; 0 where all are alike."""
    centred = values - values.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True).sqrt() + 1e-6)


def pick(logits: Tensor, gumbel: Tensor, *, count: int) -> Picks:
    """Hide the agents whose logit plus Gumbel noise is largest: a draw without replacement.

    Args:
        logits: [B, K].
        gumbel: [B, K], standard Gumbel noise.
        count: how many to hide, 1..K-1.

    Source: Kool et al. 2019 (the Gumbel-top-k trick).
    """
    keys, order = (logits.detach() + gumbel).sort(dim=1, descending=True)
    return Picks(order, count, keys[:, count : count + 1])


def pick_log_probabilities(logits: Tensor, order: Tensor) -> Tensor:
    """Log-probability of each pick, given those before it, in a draw without replacement.

    Pick i takes one of the agents that are left in proportion to exp(logit); the sum over the
    first n picks is the log-probability of that sequence (Plackett-Luce), not of the set of its
    agents, which is that of any of n! sequences. The error depends on the set alone, so both have
    the same policy gradient on average, and the sequence's is exact and costs O(K).

    Args:
        logits: [B, K].
        order: int64 [B, K], agents in the order in which they were picked.

    Returns:
        [B, K], of the picks in their order.

    Source: Plackett 1975; Kool et al. 2019.
    """
    ranked = logits.gather(1, order)
    return ranked - ranked.flip(1).logcumsumexp(1).flip(1)


def expected_at_pick(logits: Tensor, values: Tensor, order: Tensor) -> Tensor:
    """Mean of ``values`` over the agents left at each pick, in proportion to exp(logit).

    The arguments and the result are shaped as in ``pick_log_probabilities``.
    """
    weights = (logits - logits.amax(1, keepdim=True)).exp().gather(1, order)
    paid = (weights * values.gather(1, order)).flip(1).cumsum(1)
    return (paid / weights.flip(1).cumsum(1)).flip(1)


def uniform_estimate(logits: Tensor, picks: Picks, errors: Tensor) -> Tensor:
    """Mean error over all patches, estimated from the hidden ones alone.

    A hidden patch counts by the inverse of the probability that its key exceeds the largest key of
    a visible patch, normalised. It takes a patch's error for its own: that other patches would be
    hidden beside it under another mask is left out.

    Args:
        logits: [B, K].
        picks: who was hidden.
        errors: [B, K], of which only those of hidden patches count.

    Returns:
        [B].

    Source: Kool et al. 2019 (the normalised importance-weighted estimator).
    """
    hidden = picks.order[:, : picks.count]
    weights = 1 / -torch.expm1(-torch.exp(logits.gather(1, hidden) - picks.threshold))
    return (weights * errors.gather(1, hidden)).sum(1) / weights.sum(1)


def learn(
    decision: Decision, picks: Picks, errors: Tensor, *, value: float, entropy: float
) -> Lesson:
    """Teach hidden agents by their errors: advantage actor-critic, one step long.

    An agent's reward is the error of its own patch, as standard deviations from the mean over the
    crop's hidden patches, so neither contrast nor the backbone's progress moves it. Its pick is
    made likelier by what the reward exceeds the critic's mean over the agents that were left. Each
    agent is paid for its own pick and not for later ones: one number a crop for hundreds of
    decisions would drown in noise. The critic is learned by gradient, so ranks and micro-batches
    agree on the baseline, which a running mean held by each rank would not give.

    Args:
        decision: of the agents.
        picks: who was hidden.
        errors: [B, K], reconstruction error of each patch.
        value: weight of the critic's squared error.
        entropy: weight of the entropy, which is added to the rewards.

    Source: Chen et al. 2023; Mnih et al. 2016 (advantage actor-critic).
    Paper: it searches the ratio too, here the count is exact; its release pays all agents of a
    crop alike, for a small error, here each is paid for a large one: hard patches are hidden.
    """
    logits, values = decision
    order, count = picks.order, picks.count
    earned = errors.detach().gather(1, order)[:, :count]
    rewards = standardised(earned).clamp(-REWARD_BOUND, REWARD_BOUND)
    likely = pick_log_probabilities(logits, order)[:, :count]
    baseline = expected_at_pick(logits, values, order)[:, :count].detach()
    actor = -(likely * (rewards - baseline)).mean(1)
    critic = (values.gather(1, order)[:, :count] - rewards).square().mean(1)
    choice = logits.log_softmax(1)
    spread = -(choice.exp() * choice).sum(1) / math.log(logits.shape[1])
    gain = earned.mean(1) - uniform_estimate(logits.detach(), picks, errors.detach())
    return Lesson(actor + value * critic - entropy * spread, spread.detach(), gain)
