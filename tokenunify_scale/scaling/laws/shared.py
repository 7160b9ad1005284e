"""One exponent for all curves: a joint fit of L(N) with own E and A, and whether it is enough."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tokenunify_scale.scaling.laws.estimate import Estimate, estimate, obstacle
from tokenunify_scale.scaling.laws.law import (
    EXPONENTS,
    Array,
    limits,
    log_predicted,
    move_origin,
    named,
)
from tokenunify_scale.scaling.laws.points import Points
from tokenunify_scale.scaling.laws.region import (
    CORNER,
    EXACT,
    LEVEL,
    STATED_CORNER,
    found_factor,
    spread,
    stated_factor,
)
from tokenunify_scale.scaling.laws.solve import descend

COARSE, FINE = 81, 21  # exponents tried over the whole range, and between the best one's neighbours
ROOTS = (-4.0, -1.0, -0.1)  # starts of ln E, from the lowest ln L


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Curves that share an exponent."""

    possible: bool
    reason: str
    """Why not, or in words what came out."""
    alpha: float | None = None
    low: float | None = None
    """95 % interval of the exponent."""
    high: float | None = None
    identified: bool = False
    """False where the interval reaches a bound."""
    curves: dict[str, dict[str, float]] | None = None
    """A, alpha and E of each."""
    p: float | None = None
    """Probability of separate exponents fitting this much better, were one enough."""
    test: str = ""
    """By which p was found."""


def share_exponent(groups: Mapping[str, Points], *, noise: float | None) -> Shared:
    """Fit curves that have one alpha, own E and own A, and test this against separate exponents.

    For a given alpha the curves are fitted apart, so the joint misfit is a function of one number,
    which is searched. The misfit is the smooth robust one of ``intervals``, with one noise for all
    in ln L, or the stated one.

    Args:
        groups: curves of L(N); those that hold no law are left out.
        noise: standard deviation of a run in units of L, or None.
    """
    fitted = {
        name: estimate(points, noise=noise)
        for name, points in groups.items()
        if points.x.shape[1] == 1 and obstacle(points) is None
    }
    if len(fitted) < 2:
        return Shared(possible=False, reason="it takes two curves of L(N) with 3 sizes each")
    n = sum(len(found.log_y) for found in fitted.values())
    rest = n - 3 * len(fitted)
    if not noise and rest < 1:
        return Shared(possible=False, reason=f"{n} points, {3 * len(fitted)} parameters, no noise")
    scales = _scales(fitted, noise=noise)
    smooth = {"scales": scales, "corner": STATED_CORNER if noise else CORNER}
    grid = np.linspace(*np.log(EXPONENTS), COARSE)
    at = int(_misfits(fitted, grid, **smooth)[0].sum(axis=0).argmin())
    grid = np.union1d(grid, np.linspace(grid[max(at - 1, 0)], grid[min(at + 1, COARSE - 1)], FINE))
    loss, theta = _misfits(fitted, grid, **smooth)
    total = loss.sum(axis=0)
    at = int(total.argmin())
    apart = float(loss.min(axis=1).sum())
    factor = stated_factor() if noise else _factor(fitted, theta[:, at], scales=scales)
    curves = {
        name: named(move_origin(theta[i, at], -found.shift), k=1)
        for i, (name, found) in enumerate(fitted.items())
    }
    limit = stats.chi2.ppf(LEVEL, 1) if noise else stats.f.ppf(LEVEL, 1, rest + len(fitted) - 1)
    low, high, closed = _ends(grid, 2 * factor * (total - total[at]), limit=float(limit))
    p, test = _compare(2 * factor * (total[at] - apart), len(fitted) - 1, rest=rest, noise=noise)
    words = "the curves do not differ significantly in their exponents"
    if p < 0.05:
        words = "the curves differ in their exponents: one for all is not enough"
    return Shared(
        possible=True,
        reason=words,
        alpha=float(np.exp(grid[at])),
        low=low,
        high=high,
        identified=closed,
        curves=curves,
        p=p,
        test=test,
    )


def _scales(fitted: Mapping[str, Estimate], *, noise: float | None) -> list[Array]:
    """Standard deviation of ln L at each point of each curve."""
    if noise:
        return [found.region.scale[0] for found in fitted.values()]
    residuals = [log_predicted(e.centred[None], e.t)[0] - e.log_y for e in fitted.values()]
    one = spread(np.concatenate(residuals)[None], parameters=3 * len(fitted))[0]
    return [np.full(len(found.log_y), max(one, EXACT)) for found in fitted.values()]


def _misfits(
    fitted: Mapping[str, Estimate], grid: Array, *, scales: list[Array], corner: float
) -> tuple[Array, Array]:
    """Misfit [G, a] of each curve at each ln alpha, and the laws [G, a, 3] that have it."""
    losses, thetas = [], []
    for found, scale in zip(fitted.values(), scales, strict=True):
        low, high = found.log_y.min(), found.log_y.max()
        floor, exponent = np.meshgrid(low + np.array(ROOTS), grid, indexing="ij")
        # The power starts near the largest loss at the smallest size.
        top = high - 0.5 + np.exp(exponent) * found.t.min()
        begin = np.stack([top.ravel(), exponent.ravel(), floor.ravel()], axis=-1)
        theta, loss = descend(
            begin,
            t=found.t,
            log_y=found.log_y[None],
            delta=corner * scale[None],
            weights=scale[None] ** -2,
            fixed=np.broadcast_to([False, True, False], begin.shape),
            bounds=limits(found.t, found.log_y),
            steps=80,
        )
        loss, theta = loss.reshape(len(ROOTS), -1), theta.reshape(len(ROOTS), len(grid), 3)
        best, every = loss.argmin(axis=0), np.arange(len(grid))
        losses.append(loss[best, every])
        thetas.append(theta[best, every])
    return np.array(losses), np.array(thetas)


def _factor(fitted: Mapping[str, Estimate], theta: Array, *, scales: list[Array]) -> float:
    """``found_factor`` of all curves together; ``theta`` [G, 3]."""
    z = [
        (log_predicted(row[None], found.t)[0] - found.log_y) / scale
        for row, found, scale in zip(theta, fitted.values(), scales, strict=True)
    ]
    return float(found_factor(np.concatenate(z)[None], parameters=2 * len(fitted) + 1)[0])


def _ends(grid: Array, rise: Array, *, limit: float) -> tuple[float, float, bool]:
    """Ends of the interval where the rise of the misfit stays under its limit."""
    root = np.sqrt(np.maximum(rise, 0.0))
    under = np.flatnonzero(root <= math.sqrt(limit))
    first, last = under[0], under[-1]
    ends, closed = [grid[first], grid[last]], first > 0 and last < len(grid) - 1
    for side, (inner, outer) in enumerate(((first, first - 1), (last, last + 1))):
        if 0 <= outer < len(grid):
            part = (math.sqrt(limit) - root[inner]) / (root[outer] - root[inner])
            ends[side] = grid[inner] + part * (grid[outer] - grid[inner])
    return float(np.exp(ends[0])), float(np.exp(ends[1])), bool(closed)


def _compare(above: float, freedom: int, *, rest: int, noise: float | None) -> tuple[float, str]:
    """p of separate exponents against one, and the name of the test."""
    above = max(above, 0.0)
    if noise:
        return float(stats.chi2.sf(above, freedom)), "likelihood ratio with the stated noise"
    return float(stats.f.sf(above / freedom, freedom, rest)), "robust F test"
