"""What compares features of two views: cells, heads, distances on the sphere, their spread."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenunify_scale.objectives.views import Turn, unturn

LEAST = 1e-6  # added to a variance


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


def cells(maps: Tensor, turns: Sequence[Turn], *, sides: Sequence[int]) -> Tensor:
    """The cells of feature maps, turned back, averaged or repeated to a number along each side.

    That treats both ends of a side alike, so it may come before the turn.

    Args:
        maps: [B, c, D', H', W'].
        turns: of the B views.
        sides: cells along z, y and x.

    Returns:
        [B, cells, c].
    """
    same = list(sides) == list(maps.shape[2:])
    pooled = maps if same else functional.adaptive_avg_pool3d(maps, tuple(sides))
    return unturn(pooled, turns).flatten(2).transpose(1, 2)


def standardised(vectors: Tensor) -> Tensor:
    """Each channel less its mean over the cells of a crop, over its deviation there.

    What a batch norm does against collapse, by the statistics of one crop: a constant has none.
    The gradient goes through them, so there is none towards a larger mean or scale.

    Args:
        vectors: [B, cells, c], two cells or more.

    Returns:
        The same shape, float32.
    """
    x = vectors.float()
    variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
    return (x - mean) * (variance + LEAST).rsqrt()


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
