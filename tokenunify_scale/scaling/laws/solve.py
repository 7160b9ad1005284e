"""Minimise the Huber loss of log residuals for many laws at once, from many starts."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, nnls

from tokenunify_scale.scaling.laws.law import Array, limits, log_predicted, predicted_and_slopes

DELTA = 1e-3  # of ln L, as Hoffmann et al. 2022
# Wider losses lead the way to the one that counts, which is flat or rugged far from its minimum.
WAY = ((1e-1, 25), (1e-2, 25), (DELTA, 80))
STRIDE = 3.0  # longest step of a logarithm
RIDGE = 1e-3  # of a step's matrix, as a share of its diagonal
SAME = 1e-3  # two starts reached the same minimum if their losses differ by less than this share
POLISH = {"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-10, "maxls": 50}


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Best laws for each of M sets of losses."""

    theta: Array
    """[M, p] logarithms."""
    loss: Array
    """[M] sum of the Huber losses, in squared log units."""
    share: Array
    """[M] share of the starts that reached the best."""


def huber(residual: Array, delta: Array | float) -> Array:
    """Half the square within ``delta``, a straight line beyond."""
    size = np.abs(residual)
    return np.where(size <= delta, residual**2 / 2, delta * (size - np.asarray(delta) / 2))


def descend(
    theta: Array,
    *,
    t: Array,
    log_y: Array,
    delta: Array | float,
    weights: Array | float = 1.0,
    fixed: Array | None = None,
    bounds: Array,
    steps: int,
) -> tuple[Array, Array]:
    """Go down from ``theta``, each of the M problems by itself, within the bounds.

    A step solves (H + m G) d = -g: H is the Gauss-Newton matrix of the Huber loss, to which only
    residuals within delta add, and G that of the reweighted squares that lie above the loss and
    touch it. A step with H alone ends at the minimum of a piecewise parabola, one with G alone goes
    down from anywhere; the damping m moves each problem from the second to the first.

    Args:
        theta: [M, p] where to start.
        t: [M or 1, n, k] logarithms of the variables.
        log_y: [M or 1, n] logarithms of the losses.
        delta: Huber's, a number or [M or 1, n or 1].
        weights: of the points, a number or [M or 1, n].
        fixed: [M, p] True where a logarithm is not to move.
        bounds: [p, 2].
        steps: how many to take at most.

    Returns:
        [M, p] logarithms and [M] losses.
    """
    low, high = bounds.T
    theta = np.clip(theta, low, high)
    damping = np.ones(len(theta))

    def loss_of(at: Array) -> Array:
        return (weights * huber(log_predicted(at, t) - log_y, delta)).sum(axis=1)

    loss = loss_of(theta)
    for left in range(steps, 0, -1):
        predicted, slopes = predicted_and_slopes(theta, t)
        stuck = np.zeros(theta.shape, dtype=bool) if fixed is None else fixed
        step = _step(
            slopes,
            predicted - log_y,
            delta=delta,
            weights=weights,
            damping=damping[:, None],
            held=lambda pull, at=theta, stuck=stuck: (
                stuck | ((at <= low) & (pull > 0)) | ((at >= high) & (pull < 0))
            ),
        )
        trial = np.clip(theta + step, low, high)
        trial_loss = loss_of(trial)
        better = trial_loss < loss
        gain = np.where(better, loss - trial_loss, 0.0)
        theta = np.where(better[:, None], trial, theta)
        done = (gain <= 1e-13 * loss) & (better | (damping > 1e5))
        loss = np.where(better, trial_loss, loss)
        damping = np.clip(np.where(better, damping / 4, damping * 6), 1e-9, 1e12)
        if np.mean(done) > 0.5:
            # The rest goes on by itself, so that the many do not wait for the few.
            rest = ~done
            if rest.any() and left > 1:
                theta[rest], loss[rest] = descend(
                    theta[rest],
                    t=_of(t, rest),
                    log_y=_of(log_y, rest),
                    delta=_of(delta, rest),
                    weights=_of(weights, rest),
                    fixed=None if fixed is None else fixed[rest],
                    bounds=bounds,
                    steps=left - 1,
                )
            break
    return theta, loss


def _step(
    slopes: Array,
    residual: Array,
    *,
    delta: Array | float,
    weights: Array | float,
    damping: Array,
    held: Callable[[Array], Array],
) -> Array:
    """One step [M, p] of ``descend``; ``held`` says from the gradient what is not to move."""
    outside = np.maximum(np.abs(residual) / delta, 1.0)
    pull = (slopes * (weights * residual / outside)[..., None]).sum(axis=1)
    # A logarithm at a bound that the loss pushes against rests for this step.
    rests = held(pull)
    slopes, pull = np.where(rests[:, None, :], 0.0, slopes), np.where(rests, 0.0, pull)
    newton = slopes.swapaxes(1, 2) @ (slopes * (weights * (outside <= 1.0))[..., None])
    above = slopes.swapaxes(1, 2) @ (slopes * (weights / outside)[..., None])
    scale = np.einsum("mii->mi", above)
    ridge = RIDGE * np.maximum(scale, 1e-12 * scale.max(axis=1, keepdims=True))
    eye = np.eye(scale.shape[1])
    # Where a term vanishes, so does its diagonal: without this its steps would dwarf all others.
    bend = np.abs(pull) / STRIDE
    matrix = newton + damping[..., None] * (above + ridge[..., None] * eye) + bend[..., None] * eye
    norm = np.sqrt(np.maximum(np.einsum("mii->mi", matrix), 1e-300))
    scaled = matrix / norm[:, :, None] / norm[:, None, :] + 1e-13 * eye
    step = -np.linalg.solve(scaled, (pull / norm)[..., None])[..., 0] / norm
    step = np.where(rests, 0.0, np.nan_to_num(step))
    return step * np.minimum(1.0, STRIDE / np.maximum(np.abs(step).max(axis=1), 1e-300))[:, None]


def _of(values: Array | float, chosen: Array) -> Array | float:
    """What belongs to the chosen problems of an array that may be one for all."""
    return values if np.ndim(values) == 0 or len(values) == 1 else values[chosen]


def starts(t: Array, log_y: Array) -> Array:
    """A grid of exponents, each with the coefficients of its non-negative linear fit.

    Args:
        t: [1, n, k] centred logarithms of the variables.
        log_y: [n].

    Returns:
        [S, p]; S is 20 for one variable and 81 for two.
    """
    k = t.shape[-1]
    grid = np.geomspace(0.03, 4.0, 20) if k == 1 else np.geomspace(0.04, 2.0, 9)
    found = []
    for exponents in itertools.product(grid, repeat=k):
        # Columns over L: a small residual of this fit is one of ln L.
        columns = np.append(-np.array(exponents) * t[0], np.zeros((len(log_y), 1)), axis=1)
        columns = columns - log_y[:, None]
        tops = columns.max(axis=0)
        coefficients, _ = nnls(np.exp(columns - tops), np.ones(len(log_y)))
        # A term that starts at nothing has no slope to grow by.
        logs = np.log(np.maximum(coefficients, 1e-2)) - tops
        found.append([*logs[:k], *np.log(exponents), logs[k]])
    return np.array(found)


def minimise(
    t: Array,
    log_y: Array,
    *,
    begin: Array,
    delta: Array | float | None = None,
    weights: Array | float = 1.0,
    polish: int = 0,
) -> Solution:
    """The best law for each set of losses.

    Args:
        t: [1, n, k] centred logarithms of the variables.
        log_y: [M, n] sets of losses at the same points.
        begin: [S, p] starts, the same for each set.
        delta: Huber's; None for DELTA, which is approached from wider ones.
        weights: of the points, a number or [M or 1, n].
        polish: how many of the best ends L-BFGS goes on from, for a single set.
    """
    (m, n), (s, p) = log_y.shape, begin.shape
    bounds = limits(t, log_y)
    repeat = {"t": t, "log_y": np.repeat(log_y, s, axis=0), "bounds": bounds}
    if not np.isscalar(weights):
        weights = np.repeat(np.broadcast_to(weights, (m, n)), s, axis=0)
    theta = np.tile(begin, (m, 1))
    way = WAY
    if delta is not None:
        wide = np.asarray(delta, dtype=np.float64)
        wide = np.repeat(np.broadcast_to(wide, (m, n)), s, axis=0) if wide.ndim else wide
        way = ((wide * 10, 15), (wide, 60))
    for narrow, steps in way:
        theta, loss = descend(theta, delta=narrow, weights=weights, steps=steps, **repeat)
    if polish:
        # The kinks of a narrow loss can hold a Gauss-Newton step back where a line search slips by.
        for index in np.argsort(loss)[:polish]:
            theta[index], loss[index] = _polish(
                theta[index], t=t, log_y=log_y, delta=way[-1][0], bounds=bounds
            )
    theta, loss = theta.reshape(m, s, p), loss.reshape(m, s)
    best = loss.argmin(axis=1)
    at = np.arange(m)
    least = loss[at, best]
    reached = loss <= (least * (1 + SAME) + 1e-12 * n)[:, None]
    return Solution(theta=theta[at, best], loss=least, share=reached.mean(axis=1))


def _polish(theta: Array, *, t: Array, log_y: Array, delta: float, bounds: Array):
    """L-BFGS on the loss over delta, a sum and not a mean: a small loss makes it stop at once."""

    def loss(at: Array) -> tuple[float, Array]:
        predicted, slopes = predicted_and_slopes(at[None], t)
        residual = predicted - log_y
        pull = np.clip(residual / delta, -1, 1)[..., None] * slopes
        return float(huber(residual, delta).sum() / delta), pull.sum(axis=(0, 1))

    done = minimize(loss, theta, method="L-BFGS-B", jac=True, bounds=bounds, options=POLISH)
    again, value = descend(done.x[None], t=t, log_y=log_y, delta=delta, bounds=bounds, steps=40)
    return again[0], value[0]
