"""How far a law may move before it fits significantly worse, robust to runs gone wrong.

The misfit is Huber's with a corner at 1.5 standard deviations of the noise (3 where that is
stated): nearly as sharp as least squares where noise is normal, and deaf to outliers. Its rise
above the least is scaled so that it follows the F distribution (Schrader and Hettmansperger 1980),
or chi-square where the noise is stated.

The level is 96 % for each parameter of L(N), and 97 % for each of L(N, D), so that all of a law's
together are held 92 times in 100 or more. The degrees of freedom count for three quarters, for a
scale that clips residuals is known less well than a standard deviation. Both were checked by
simulation.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from tokenunify_scale.scaling.laws.law import Array, limits, log_predicted
from tokenunify_scale.scaling.laws.solve import descend, minimise

TOGETHER = 0.92  # of all parameters at once; a coefficient and its exponent count as one
LEVEL = 0.95  # of each, at least
WORTH = 0.75  # of a degree of freedom, under a clipped scale
CORNER, STATED_CORNER = 1.5, 3.0  # of Huber's loss, in standard deviations
NORMAL_MAD = 1.4826  # standard deviation of a normal over its median absolute deviation
EXACT = 1e-9  # noise of ln L below which points count as exact
PRIOR = 10  # points that the normal's share within the corner counts for


@dataclass(frozen=True, kw_only=True)
class Region:
    """What the likelihood says around the best fit of each of M sets of losses."""

    theta: Array
    """[M, p] best logarithms under the smooth loss."""
    scale: Array
    """[M, n] standard deviation of ln L at each point."""
    loss: Array
    """[M] least loss, in squared standard deviations."""
    factor: Array
    """[M] by which twice the loss above the least is multiplied to follow ``limit``'s law."""
    corner: float
    """Of the smooth loss, in standard deviations."""
    limit: float
    """Value that it rarely exceeds at the true parameters."""


def spread(residual: Array, *, parameters: int) -> Array:
    """Robust standard deviation [M] of residuals [M, n] of a fit with narrow Huber loss.

    Such a fit passes through as many points as it has parameters; they say nothing of the noise.
    """
    rest = np.sort(np.abs(residual), axis=1)[:, parameters:]
    return NORMAL_MAD * np.median(rest, axis=1)


def region(t: Array, log_y: Array, *, theta: Array, begin: Array, noise: float | None) -> Region:
    """Fit the smooth robust loss and calibrate it.

    Args:
        t: [1, n, k] centred logarithms of the variables.
        log_y: [M, n] logarithms of the losses.
        theta: [M, p] fits with the narrow loss, whose residuals tell the noise.
        begin: [S, p] starts.
        noise: standard deviation of a run in units of L; None to take it from the residuals, with
            n - p degrees of freedom; then n must exceed p.
    """
    (m, n), p = log_y.shape, theta.shape[1]
    near = log_predicted(theta, t)
    scale = noise / np.exp(near) if noise else spread(near - log_y, parameters=p)[:, None]
    scale = np.broadcast_to(np.maximum(scale, EXACT), (m, n))
    corner = STATED_CORNER if noise else CORNER
    loss_of = {"weights": scale**-2, "delta": corner * scale}
    found = minimise(t, log_y, begin=begin, **loss_of)
    from_theta, value = descend(
        theta, t=t, log_y=log_y, bounds=limits(t, log_y), steps=60, **loss_of
    )
    closer = value < found.loss
    best, least = np.where(closer[:, None], from_theta, found.theta), np.minimum(value, found.loss)
    level = max(LEVEL, TOGETHER ** (1 / (t.shape[-1] + 1)))
    if noise:
        factor, limit = np.full(m, stated_factor()), stats.chi2.ppf(level, 1)
    else:
        z = (log_predicted(best, t) - log_y) / scale
        factor = found_factor(z, parameters=p)
        limit = stats.f.ppf(level, 1, max(WORTH * (n - p), 1.0))
    return Region(
        theta=best, scale=scale, loss=least, factor=factor, corner=corner, limit=float(limit)
    )


def stated_factor() -> float:
    """What twice the misfit's rise is multiplied with to follow chi-square, for normal noise."""
    inside, tail = 2 * stats.norm.cdf(STATED_CORNER) - 1, stats.norm.sf(STATED_CORNER)
    square = inside - 2 * STATED_CORNER * stats.norm.pdf(STATED_CORNER)
    return float(inside / (square + 2 * STATED_CORNER**2 * tail))


def found_factor(z: Array, *, parameters: int) -> Array:
    """What twice the misfit's rise is multiplied with to follow F, for each of M sets.

    Few points tell the share within the corner badly, so that of the normal joins as ten points.

    Args:
        z: [M, n] residuals in standard deviations.
        parameters: p of the fit; n must exceed it.

    Source: Schrader and Hettmansperger 1980; Huber 1981, section 7.6, for the last factor.
    """
    n = z.shape[1]
    inside = 2 * stats.norm.cdf(CORNER) - 1
    share = ((np.abs(z) < CORNER).sum(axis=1) + PRIOR * inside) / (n + PRIOR)
    square = (np.clip(z, -CORNER, CORNER) ** 2).sum(axis=1) / (n - parameters)
    small = 1 + parameters / n * (1 - share) / share
    return share / np.maximum(square, 1e-12) / small**2
