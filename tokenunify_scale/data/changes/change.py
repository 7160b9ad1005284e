"""What every random change of a crop has: a probability, and strengths within limits."""

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from tokenunify_scale.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Change:
    """How often one change is made; a change's own class says how strongly.

    Strengths are numbers >= 0 unless ``LIMITS`` says otherwise; ``low`` is at most ``high``.
    """

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {}

    p: float = 0.0
    """Probability that a crop is changed so."""

    def __post_init__(self) -> None:
        """Refuse what is no probability or strength."""
        for field in fields(self):
            low, high = (0, 1) if field.name == "p" else self.LIMITS.get(field.name, (0, math.inf))
            value = getattr(self, field.name)
            if not (low <= value <= high and math.isfinite(value)):
                bounds = f"within {low:g} to {high:g}" if high < math.inf else f">= {low:g}"
                kind = "a probability" if field.name == "p" else "a strength"
                raise ConfigError(f"{field.name} is {kind} {bounds}, got {value}")
        low, high = getattr(self, "low", 0), getattr(self, "high", math.inf)
        if low > high:
            raise ConfigError(f"low is at most high, got {low} and {high}")


def pick_sections(rng: np.random.Generator, depth: int, *, most: int) -> np.ndarray:
    """One to ``most`` different sections of ``depth``, in random order; int64 [n]."""
    count = int(rng.integers(1, min(most, depth) + 1))
    return rng.choice(depth, count, replace=False)


def to_gray(values: np.ndarray) -> np.ndarray:
    """Float gray values of the range [0, 255] as uint8, rounded; what lies beyond is cut off."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
