"""Refit resampled points: standard errors, and what hangs on several parameters at once."""

from typing import NamedTuple

import numpy as np

from tokenunify_scale.scaling.laws.law import NAMES, Array, log_predicted, move_origin
from tokenunify_scale.scaling.laws.solve import minimise

STATED = "bootstrap with the stated noise"
WITHIN = "bootstrap of the runs within each size"
RESIDUALS = "bootstrap of the residuals"
STEP_ASIDE = 1.5  # resamples are also fitted from exponents this factor off


class Draws(NamedTuple):
    """Laws fitted to resampled points."""

    theta: Array
    """[R, p] logarithms, at the variables' own origin."""
    method: str
    """How the points were resampled."""


def resample(
    t: Array, log_y: Array, *, theta: Array, noise: float | None, resamples: int, seed: int
) -> tuple[Array, str]:
    """Sets of losses [R, n] like those measured, and how they were made.

    With a stated noise: the fitted curve and normal noise. Where every size has two runs or more:
    runs drawn within their size, so that every size stays. Otherwise: the fitted curve and drawn
    residuals. Deviations are widened by sqrt(m / (m - 1)) of m runs of a size, and residuals by
    sqrt(n / (n - p)), for they are smaller than those from the truth.

    Args:
        t: [1, n, k] logarithms of the variables.
        log_y: [n] logarithms of the losses.
        theta: [p] the fit.
        noise: standard deviation of a run in units of L, or None.
        resamples: R.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    n, p = len(log_y), len(theta)
    curve = log_predicted(theta[None], t)[0]
    if noise:
        y = np.exp(curve) + noise * rng.normal(size=(resamples, n))
        return np.log(np.maximum(y, 0.05 * np.exp(curve))), STATED
    _, cell, runs = np.unique(t[0], axis=0, return_inverse=True, return_counts=True)
    cell = cell.ravel()
    if runs.min() < 2:
        rest = log_y - curve
        rest = (rest - np.median(rest)) * np.sqrt(n / (n - p))
        return curve + rest[rng.integers(0, n, size=(resamples, n))], RESIDUALS
    mean = np.bincount(cell, log_y) / runs
    widened = mean[cell] + (log_y - mean[cell]) * np.sqrt(runs / (runs - 1))[cell]
    members = [np.flatnonzero(cell == c) for c in range(len(runs))]
    drawn = np.empty((resamples, n), dtype=int)
    for own in members:
        drawn[:, own] = own[rng.integers(0, len(own), size=(resamples, len(own)))]
    return widened[drawn], WITHIN


def bootstrap(
    t: Array,
    log_y: Array,
    *,
    shift: Array,
    theta: Array,
    noise: float | None,
    resamples: int,
    seed: int,
    plain: bool,
) -> Draws:
    """Fit the law anew to resampled points; arguments as ``resample``.

    Args:
        shift: [k] what was taken off the logarithms of the variables to centre them.
        plain: one minimum was found from most starts, so that one start is enough.
    """
    log_ys, method = resample(t, log_y, theta=theta, noise=noise, resamples=resamples, seed=seed)
    k = t.shape[-1]
    aside = np.log(STEP_ASIDE)
    begin = np.repeat(theta[None], 3, axis=0)
    begin[1, k : 2 * k] += aside
    begin[2, k : 2 * k] -= aside
    # A floor that vanished in the fit may be there in a resample.
    begin[1:, -1] = np.maximum(begin[1:, -1], log_y.min() - 1)
    found = minimise(t, log_ys, begin=begin[:1] if plain else begin)
    return Draws(move_origin(found.theta, -shift), method)


def standard_errors(draws: Draws, *, k: int) -> dict[str, float]:
    """Standard deviation of each parameter over the draws, by name."""
    values = np.exp(np.clip(draws.theta, -700, 700))
    with np.errstate(over="ignore"):
        return dict(zip(NAMES[k], values.std(axis=0, ddof=1).tolist(), strict=True))


def band_of(draws: Draws, theta: Array, log_x: Array, *, widen: float) -> tuple[Array, Array]:
    """Pointwise 95 % interval of ln L, as deviations below and above the fit.

    Args:
        draws: R laws.
        theta: [p] the fit.
        log_x: [m, k] where.
        widen: quantile of t over that of a normal, for noise known from few residuals.

    Returns:
        [m] at most 0 and [m] at least 0.
    """
    off = log_predicted(draws.theta, log_x[None]) - log_predicted(theta[None], log_x[None])
    low, high = widen * np.quantile(off, [0.025, 0.975], axis=0)
    return np.minimum(low, 0.0), np.maximum(high, 0.0)
