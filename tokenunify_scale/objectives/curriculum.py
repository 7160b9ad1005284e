"""Weights of the three prediction tasks as training proceeds."""

from dataclasses import dataclass
from typing import NamedTuple

from tokenunify_scale.registry import CURRICULA


class Weights(NamedTuple):
    """How much each of the three terms counts."""

    random: float
    next: float
    next_all: float


# Paper: Eq. 14. Eq. 6-8 at tau = 1 would give (.94, .05, .02), and no tau gives this middle row.
PHASES = (Weights(0.73, 0.18, 0.09), Weights(0.18, 0.73, 0.09), Weights(0.09, 0.18, 0.73))


@dataclass(frozen=True, kw_only=True, slots=True)
class Piecewise:
    """Three phases, from local to global prediction."""

    switch: tuple[float, float] = (0.3, 0.7)
    """Where phase two and three begin, as fractions of training (T1, T2)."""

    def __post_init__(self) -> None:
        """Refuse switches that do not rise within (0, 1)."""
        if not 0 < self.switch[0] < self.switch[1] < 1:
            raise ValueError(f"switch must rise within (0, 1), got {self.switch}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """The same three weights throughout; a weight of 0 leaves its term out of the loss."""

    random: float = 1 / 3
    """Weight of the random-token term."""

    next: float = 1 / 3
    """Weight of the next-token term."""

    next_all: float = 1 / 3
    """Weight of the next-all-tokens term."""

    def __post_init__(self) -> None:
        """Refuse negative weights, and none at all."""
        weights = (self.random, self.next, self.next_all)
        if min(weights) < 0 or sum(weights) == 0:
            raise ValueError(f"weights must be >= 0 and not all 0, got {weights}")


def piecewise(config: Piecewise, *, progress: float) -> Weights:
    """Weights at ``progress`` in [0, 1]; positive, summing to 1. Source: Eq. 14."""
    return PHASES[sum(progress >= start for start in config.switch)]


def constant(config: Constant, *, progress: float) -> Weights:
    """The same weights at any ``progress``. Source: the ablations of Table 3."""
    return Weights(config.random, config.next, config.next_all)


CURRICULA.add("piecewise", piecewise, Piecewise(), source="Eq. 14")
CURRICULA.add("constant", constant, Constant(), source="Table 3")
