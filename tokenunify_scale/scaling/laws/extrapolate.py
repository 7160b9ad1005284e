"""Fit without the largest size, predict it, and compare: what a law is worth beyond its points."""

import math
from dataclasses import dataclass

import numpy as np

from tokenunify_scale.scaling.laws.estimate import draw, estimate, obstacle, predict_run
from tokenunify_scale.scaling.laws.law import NAMES, log_predicted
from tokenunify_scale.scaling.laws.points import Points

EXACT = 1e-6  # a relative error that is none, whatever the interval


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The largest size, measured and as predicted from the others."""

    size: float
    points: int
    """Runs of that size."""
    measured: float
    """Geometric mean of their losses."""
    predicted: float
    low: float | None
    """95 % interval of the predicted mean, of the curve's error and the runs'; None if unknown."""
    high: float | None
    error: float
    """Predicted over measured, less one."""

    @property
    def inside(self) -> bool | None:
        """Whether the measured mean lies in the interval."""
        if self.low is None:
            return None
        return self.low <= self.measured <= self.high or abs(self.error) < EXACT

    def text(self) -> str:
        """One line for the screen."""
        within = "" if self.low is None else f" ({self.low:.4g} to {self.high:.4g})"
        return (
            f"without size {self.size:.4g}: predicted {self.predicted:.4g}{within}, measured "
            f"{self.measured:.4g}, error {self.error:+.2%}"
        )


def split(points: Points) -> tuple[Points | None, Points]:
    """Points without the largest size, None if nothing is left, and those of the largest size."""
    last = points.x[:, 0] == points.x[:, 0].max()
    parts = []
    for chosen in (~last, last):
        seed = points.seed and tuple(s for s, c in zip(points.seed, chosen, strict=True) if c)
        part = {"x": points.x[chosen], "y": points.y[chosen], "seed": seed}
        parts.append(Points(**part) if chosen.any() else None)
    return parts[0], parts[1]


def held_out(points: Points, *, noise: float | None, resamples: int, seed: int) -> HeldOut | None:
    """The law of the smaller sizes at the largest one; None where they hold no law.

    Runs of the largest size at several D are compared by the geometric mean of their losses.

    Args:
        points: all of them.
        noise: standard deviation of a run in units of L, or None.
        resamples: of the bootstrap behind the interval.
        seed: of the bootstrap.
    """
    rest, last = split(points)
    if rest is None or obstacle(rest) or len(rest.y) < len(NAMES[points.x.shape[1]]):
        return None
    found = estimate(rest, noise=noise)
    draws = draw(found, resamples=resamples, seed=seed)
    places, runs = np.unique(last.x, axis=0, return_counts=True)
    measured = math.exp(np.log(last.y).mean())
    facts = {"size": float(last.x[0, 0]), "points": len(last.y), "measured": measured}
    if draws is None:
        logs = log_predicted(found.theta[None], np.log(places)[None])[0]
        predicted = math.exp(np.average(logs, weights=runs))
        return HeldOut(
            **facts, predicted=predicted, low=None, high=None, error=predicted / measured - 1
        )
    # Errors of the curve at one size go together, so ends are averaged like the losses; the runs'
    # own errors shrink with their number.
    ends = [predict_run(found, draws, place, runs=len(last.y)) for place in places]
    predicted, low, high = (
        math.exp(np.average(np.log(end), weights=runs)) for end in zip(*ends, strict=True)
    )
    return HeldOut(**facts, predicted=predicted, low=low, high=high, error=predicted / measured - 1)
