"""Weights of the three prediction tasks as training proceeds.

Every curriculum is called as ``weights_at(options, progress=t, seed=s)`` with the share of training
done and the run's seed, which are the same on all ranks, and so are the weights.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate
from typing import Annotated, Literal, NamedTuple

from tokenunify_scale.config import ConfigError, Named
from tokenunify_scale.registry import CURRICULA

Mode = Literal["random", "next", "next_all"]


class Weights(NamedTuple):
    """How much each of the three terms counts."""

    random: float
    next: float
    next_all: float


# Paper: Eq. 14. Eq. 6-8 at tau = 1 would give (.94, .05, .02), and no tau gives this middle row.
PHASES = (Weights(0.73, 0.18, 0.09), Weights(0.18, 0.73, 0.09), Weights(0.09, 0.18, 0.73))

# Paper: the v of Eq. 6-8. A softmax fixes its v up to a constant, and (.936, .047, .017) at tau = 1
# leaves ln(.936 / .047) = 3 and ln(.047 / .017) = 1 between them: (4, 1, 0). The later phases take
# the same three values in the order of Eq. 14's rows. No tau turns (4, 1, 0) into (.73, .18, .09):
# the logarithms of those are 1.40 and .69 apart, and 3 to 1 stays 3 to 1. tau = 2 comes near.
VALUES = (Weights(4, 1, 0), Weights(1, 4, 0), Weights(0, 1, 4))

ROUNDING = 1e-9  # of step / steps: far less than a step of any run


@dataclass(frozen=True, kw_only=True, slots=True)
class Piecewise:
    """Three phases, from local to global prediction."""

    switch: tuple[float, float] = (0.3, 0.7)
    """Where phase two and three begin, as fractions of training (T1, T2)."""

    def __post_init__(self) -> None:
        """Refuse switches that do not rise within (0, 1)."""
        _check_switch(self.switch)


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
        """Refuse weights that are negative or not finite, and none at all."""
        weights = (self.random, self.next, self.next_all)
        if not all(0 <= weight < math.inf for weight in weights) or sum(weights) == 0:
            raise ConfigError(f"weights must be >= 0 and not all 0, got {weights}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Softmax:
    """softmax(v / tau): v changes from phase to phase, tau from the first step to the last."""

    tau_start: float = 2.0
    """Temperature at the first step; the higher, the more equal the weights."""

    tau_end: float = 1.0
    """Temperature at the end, approached by an equal factor in equal time."""

    switch: tuple[float, float] = (0.3, 0.7)
    """Where phase two and three begin, as fractions of training (T1, T2)."""

    def __post_init__(self) -> None:
        """Refuse temperatures that are not above 0, and switches that do not rise."""
        for name in ("tau_start", "tau_end"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be > 0 and finite, got {getattr(self, name)}")
        _check_switch(self.switch)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """One term a step, drawn with the weights of another curriculum as probabilities."""

    probabilities: Annotated[Named, CURRICULA] = field(
        default_factory=lambda: Named("piecewise", Piecewise())
    )
    """The curriculum whose weights are the probabilities."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternating:
    """One term at a time, in turns of equal length."""

    modes: tuple[Mode, ...] = ("random", "next")
    """Terms that take turns, in this order, again and again."""

    turns: int = 4
    """How many turns make up the whole of training."""

    def __post_init__(self) -> None:
        """Refuse unknown terms, fewer than two, and fewer turns than terms."""
        unknown = [mode for mode in self.modes if mode not in Weights._fields]
        if unknown or len(self.modes) < 2:
            names = ", ".join(Weights._fields)
            raise ConfigError(f"modes must be two or more of {names}, got {list(self.modes)}")
        if self.turns < len(self.modes):
            raise ConfigError(f"turns must be >= {len(self.modes)}, one a mode, got {self.turns}")


def piecewise(config: Piecewise, *, progress: float, seed: int = 0) -> Weights:
    """Weights at ``progress`` in [0, 1]; positive, summing to 1. Source: Eq. 14."""
    return PHASES[_phase(config.switch, progress)]


def constant(config: Constant, *, progress: float, seed: int = 0) -> Weights:
    """The same weights at any ``progress``. Source: the ablations of Table 3."""
    return Weights(config.random, config.next, config.next_all)


def softmax(config: Softmax, *, progress: float, seed: int = 0) -> Weights:
    """Weights at ``progress`` in [0, 1]; non-negative, summing to 1. Source: Eq. 6-8."""
    values = VALUES[_phase(config.switch, progress)]
    tau = config.tau_start ** (1 - progress) * config.tau_end**progress
    # Less the largest, so that a small tau overflows nothing.
    powers = [math.exp((value - max(values)) / tau) for value in values]
    return Weights(*(power / math.fsum(powers) for power in powers))


def sampled(config: Sampled, *, progress: float, seed: int = 0) -> Weights:
    """Weights of the step at ``progress``: one is above 0, their expectation is the other's.

    The same seed and progress draw the same term, on any rank and in a run that was resumed.

    Source: Alg. 4, Eq. 15.
    """
    other = config.probabilities
    weights = CURRICULA.get(other.name).factory(other.options, progress=progress, seed=seed)
    return one_of(weights, at=_uniform(seed, progress))


def one_of(weights: Weights, *, at: float) -> Weights:
    """Keep one weight and put all there is on it: 1 where they sum to 1.

    Args:
        weights: >= 0, not all 0; proportional to the probabilities.
        at: in [0, 1), uniform for a fair draw. A weight of 0 is kept by none.
    """
    sums = list(accumulate(weights))
    kept = bisect_right(sums, at * sums[-1])
    return Weights(*(math.fsum(weights) * (mode == kept) for mode in range(len(weights))))


def alternating(config: Alternating, *, progress: float, seed: int = 0) -> Weights:
    """1 for the term whose turn it is, 0 for the others.

    Source: the paper's first version (arXiv 2405.16847v1), which changed between random tokens and
    next token every 100 of 400 epochs.
    """
    turn = min(math.floor(progress * config.turns + ROUNDING), config.turns - 1)
    mode = config.modes[turn % len(config.modes)]
    return Weights(*(float(name == mode) for name in Weights._fields))


def _phase(switch: tuple[float, float], progress: float) -> int:
    return sum(progress >= start for start in switch)


def _check_switch(switch: tuple[float, float]) -> None:
    if not 0 < switch[0] < switch[1] < 1:
        raise ConfigError(f"switch must rise within (0, 1), got {switch}")


def _uniform(seed: int, progress: float) -> float:
    """A number in [0, 1) that is a hash of its arguments, to the last bit of ``progress``."""
    digest = blake2b(f"mode {seed} {float(progress).hex()}".encode(), digest_size=8).digest()
    # 52 bits: one more, and the product with a sum could round up to the sum itself.
    return (int.from_bytes(digest, "big") >> 12) / 2**52


CURRICULA.add("piecewise", piecewise, Piecewise(), source="Eq. 14")
CURRICULA.add("constant", constant, Constant(), source="Table 3")
CURRICULA.add("softmax", softmax, Softmax(), source="Eq. 6-8")
CURRICULA.add("sampled", sampled, Sampled(), source="Alg. 4, Eq. 15")
CURRICULA.add("alternating", alternating, Alternating(), source="arXiv 2405.16847v1")
