"""How well a law describes its points, in numbers."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from tokenunify_scale.scaling.laws.estimate import Estimate
from tokenunify_scale.scaling.laws.law import log_predicted


@dataclass(frozen=True, kw_only=True)
class Goodness:
    """Of ln L."""

    r2: float | None
    """Share of the variance of ln L that the law explains; None where all L are the same."""
    rms: float
    """Root mean square of the residuals of ln L."""
    noise: float | None
    """Robust standard deviation of a run about the law, or the stated noise as one of ln L."""
    scatter: float | None = None
    """Standard deviation of ln L between runs of one size; None where no size has two."""
    lack_of_fit: float | None = None
    """Probability of a misfit this large or larger, were the law true and the scatter all noise."""
    excess: float | None = None
    """Probability of residuals this large or larger, were the stated noise true."""


def goodness(found: Estimate) -> Goodness:
    """Goodness of fit, with tests against the runs' own scatter and the stated noise if any."""
    residual = log_predicted(found.theta[None], found.t + found.shift)[0] - found.log_y
    total = float(((found.log_y - found.log_y.mean()) ** 2).sum())
    facts = {
        "r2": 1 - float((residual**2).sum()) / total if total else None,
        "rms": float(np.sqrt((residual**2).mean())),
        "noise": found.sd,
    }
    if found.region is None:
        return Goodness(**facts)
    # Tests go by the smooth fit, whose residuals are as small as squares can have them.
    smooth = log_predicted(found.region.theta, found.t)[0] - found.log_y
    if found.noise and found.freedom > 0:
        z2 = float(((smooth / found.region.scale[0]) ** 2).sum())
        facts["excess"] = float(stats.chi2.sf(z2, found.freedom))
    _, cell, runs = np.unique(found.t[0], axis=0, return_inverse=True, return_counts=True)
    cells, n = len(runs), len(smooth)
    if n == cells:
        return Goodness(**facts)
    mean = np.bincount(cell.ravel(), found.log_y) / runs
    pure = float(((found.log_y - mean[cell.ravel()]) ** 2).sum())
    facts["scatter"] = float(np.sqrt(pure / (n - cells)))
    more = cells - len(found.theta)
    if more > 0 and pure > 1e-18 * n:
        lack = max(float((smooth**2).sum()) - pure, 0.0)
        facts["lack_of_fit"] = float(stats.f.sf(lack / more * (n - cells) / pure, more, n - cells))
    return Goodness(**facts)
