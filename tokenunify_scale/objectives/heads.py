"""What compares features of two views: pooling, heads, distances on the sphere, their spread."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenunify_scale.train.distributed import sum_over_ranks

KEPT = 0.8  # of what a norm remembers, a step
LEAST = 1e-6  # variance that counts as none


class Head(nn.Module):
    """Two linear layers with a norm and a rectifier between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        """The widths before, between and after."""
        super().__init__()
        # Paper: BYOL has a batch norm here. Its statistics would be those of a rank's micro-batch:
        # the loss of a global batch would depend on how it is shared.
        self.fc1 = nn.Linear(inputs, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return self.fc2(functional.relu(self.norm(self.fc1(x))))


class GlobalNorm(nn.Module):
    """Subtract mean and divide by deviation, both of the global batches of the steps before.

    What a batch norm does against collapse, without its dependence on the batch at hand: within a
    step the statistics are fixed, and from step to step they are those of all ranks and
    micro-batches. The first step of all is left as it is. No gradient goes through them.
    """

    sums: Tensor
    new: Tensor

    def __init__(self, width: int) -> None:
        """Hold sums of 1, x and x squared of each channel; remembered ones, and of this step."""
        super().__init__()
        # A variance is a difference of these: in 32 bits little would be left of a small one.
        self.register_buffer("sums", torch.zeros(3, width, dtype=torch.float64))
        self.register_buffer("new", torch.zeros(3, width, dtype=torch.float64))
        self._seen: float | None = None

    @torch.no_grad()
    def begin(self, *, progress: float) -> None:
        """Take in what the step before saw, where a step begins; do nothing within a step.

        Args:
            progress: share of training done; all micro-batches of a step have the same.
        """
        if progress != self._seen:
            self._seen = progress
            self.sums.mul_(KEPT).add_(self.new)
            self.new.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """[N, width] to the same shape, float32; in training all ranks must call it."""
        count, first, second = self.sums
        mean = first / count.clamp(min=1)
        variance = (second / count.clamp(min=1) - mean.square()).clamp(min=0) + LEAST
        scale = torch.where(count > 0, variance.rsqrt(), 1.0)
        if self.training:
            seen = x.detach().double()
            rows = [torch.ones_like(seen).sum(0), seen.sum(0), seen.square().sum(0)]
            self.new.add_(sum_over_ranks(torch.stack(rows)))
        return ((x - mean) * scale).float()


def pool(maps: Sequence[Tensor]) -> Tensor:
    """Means of feature maps over their voxels, side by side.

    Args:
        maps: each [B, c, D', H', W'].

    Returns:
        float32 [B, sum of c].
    """
    return torch.cat([each.float().mean((2, 3, 4)) for each in maps], 1)


def sphere_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of two vectors after scaling both to length 1, 2 - 2 cos: 0 to 4.

    Args:
        a: [..., d].
        b: like ``a``.

    Returns:
        float32 [...].

    Source: Grill et al. 2020, Eq. 2.
    """
    return 2 - 2 * functional.cosine_similarity(a.float(), b.float(), dim=-1)


def spread(vectors: Tensor) -> Tensor:
    """Mean standard deviation of unit vectors' components, relative to an even spread.

    Args:
        vectors: [..., N, d], of any length; scaled to 1 here.

    Returns:
        float32 [...]: 0 for N equal vectors (or for one), near 1 for N >> 1 random directions.

    Source: Chen and He 2021, Fig. 2.
    """
    count, width = vectors.shape[-2:]
    units = functional.normalize(vectors.float(), dim=-1)
    deviations = units.std(-2, correction=min(count - 1, 1))
    return deviations.mean(-1) * width**0.5
