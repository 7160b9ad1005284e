"""Compute-optimal sizes: from a fitted L(N, D), and from the points of one budget each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tokenunify_scale.scaling.laws.fit import Fit
from tokenunify_scale.scaling.laws.law import Array
from tokenunify_scale.scaling.laws.points import FLOPS_FACTOR, Points

GAP = 0.1  # ln C between budgets, at least; points of one budget lie closer
FEWEST = 4  # sizes within a budget: a parabola has three parameters
BUDGETS = 2  # for a slope over budgets


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best use of one budget, each number with its 95 % interval (low, high)."""

    flops: float
    size: float
    size_interval: tuple[float, float]
    data: float
    data_interval: tuple[float, float]
    loss: float | None = None
    """Predicted there."""


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Where on N and D to spend FLOPs, by one method."""

    possible: bool
    reason: str
    """Why not, or how it was found."""
    exponent: float | None = None
    """a of N* ~ C^a; D* ~ C^(1 - a)."""
    exponent_interval: tuple[float, float] | None = None
    optima: tuple[Optimum, ...] = ()

    def text(self) -> str:
        """Lines for the screen."""
        if not self.possible:
            return f"compute-optimal sizes: not possible, because {self.reason}"
        lines = [f"compute-optimal sizes, {self.reason}:"]
        if self.exponent is not None:
            ends = self.exponent_interval
            within = f" ({ends[0]:.3g} to {ends[1]:.3g})" if ends else ""
            lines.append(f"  N* ~ C^{self.exponent:.3g}{within}")
        for one in self.optima:
            loss = "" if one.loss is None else f", L {one.loss:.4g}"
            (a, b), (c, d) = one.size_interval, one.data_interval
            lines.append(
                f"  C {one.flops:.3g}: N* {one.size:.3g} ({a:.3g} to {b:.3g}), "
                f"D* {one.data:.3g} ({c:.3g} to {d:.3g}){loss}"
            )
        return "\n".join(lines)


def best_sizes(theta: Array, flops: Array, *, factor: float) -> tuple[Array, Array]:
    """Logarithms [M, c] of N* and D* that minimise L where C = factor N D.

    Args:
        theta: [M, 5] logarithms of (A, B, alpha, beta, E).
        flops: [c] budgets.
        factor: FLOPs per parameter and unit of data.

    Source: Hoffmann et al. 2022, Eq. 4.
    """
    (ln_a, ln_b), (alpha, beta) = theta[:, :2].T, np.exp(theta[:, 2:4]).T
    ln_g = (np.log(alpha) + ln_a - np.log(beta) - ln_b) / (alpha + beta)
    budget = np.log(flops / factor)[None]
    ln_n = ln_g[:, None] + (beta / (alpha + beta))[:, None] * budget
    return ln_n, budget - ln_n


def frontier(fit: Fit, flops: Sequence[float], *, factor: float = FLOPS_FACTOR) -> Frontier:
    """N* and D* for budgets, in closed form from a fitted law, with bootstrap intervals.

    Args:
        fit: of L(N, D).
        flops: budgets C.
        factor: of C = factor N D.
    """
    if fit.beta is None:
        return Frontier(possible=False, reason="there is no fit of L(N, D)")
    if not fit.identified:
        return Frontier(possible=False, reason=f"the law is {fit.verdict}")
    if not fit.draws:
        return Frontier(possible=False, reason="the law was fitted without resamples")
    theta = np.log([[fit.A, fit.B, fit.alpha, fit.beta, fit.E]])
    draws, budgets = np.array(fit.draws), np.asarray(flops, dtype=np.float64)
    n, d = best_sizes(theta, budgets, factor=factor)
    low, high = np.exp(np.quantile(best_sizes(draws, budgets, factor=factor), [0.025, 0.975], 1))
    alpha, beta = np.exp(draws[:, 2:4]).T
    optima = [
        Optimum(
            flops=float(c),
            size=float(np.exp(n[0, i])),
            size_interval=(float(low[0, i]), float(high[0, i])),
            data=float(np.exp(d[0, i])),
            data_interval=(float(low[1, i]), float(high[1, i])),
            loss=fit.E
            + fit.A * math.exp(-fit.alpha * n[0, i])
            + fit.B * math.exp(-fit.beta * d[0, i]),
        )
        for i, c in enumerate(budgets)
    ]
    ends = np.quantile(beta / (alpha + beta), [0.025, 0.975])
    return Frontier(
        possible=True,
        reason=f"from L(N, D) with C = {factor:g} N D, 95 % intervals by bootstrap",
        exponent=fit.beta / (fit.alpha + fit.beta),
        exponent_interval=(float(ends[0]), float(ends[1])),
        optima=tuple(optima),
    )


def budgets_of(points: Points, *, factor: float = FLOPS_FACTOR) -> list[tuple[float, Array]]:
    """Budgets C and which points [n] belong to each: groups of ln C with gaps between them."""
    log_c = np.log(factor) + np.log(points.x).sum(axis=1)
    order = np.argsort(log_c)
    parts = np.split(order, np.flatnonzero(np.diff(log_c[order]) > GAP) + 1)
    return [
        (float(np.exp(log_c[part].mean())), np.isin(np.arange(len(log_c)), part)) for part in parts
    ]


def iso_flop(points: Points, *, factor: float = FLOPS_FACTOR) -> Frontier:
    """N* of each budget as the lowest point of a parabola of ln L in ln N.

    Intervals of each N* by the delta method, and of the exponent from the scatter of the N* about
    their line, both with quantiles of t.

    Args:
        points: of L(N, D); budgets are found by ``budgets_of``.
        factor: of C = factor N D.

    Source: Hoffmann et al. 2022, approach 2.
    """
    if points.x.shape[1] != 2:
        return Frontier(possible=False, reason="the points have no D")
    groups = budgets_of(points, factor=factor)
    optima = []
    for flops, chosen in groups:
        log_n, log_l = np.log(points.x[chosen, 0]), np.log(points.y[chosen])
        spans = np.ptp(np.log(points.x[chosen]).sum(axis=1)) <= GAP
        if spans and len(np.unique(log_n)) >= FEWEST:
            found = _lowest(log_n, log_l)
            if found is not None:
                optima.append(_optimum(flops, *found, factor=factor))
    if not optima:
        why = (
            f"the points make no FLOP budget with {FEWEST} sizes or more on both sides of a lowest "
            "loss"
        )
        return Frontier(possible=False, reason=why)
    reason = f"lowest points of {len(optima)} iso-FLOP parabolas of {len(groups)} budgets"
    if len(optima) < BUDGETS:
        return Frontier(possible=True, reason=reason, optima=tuple(optima))
    log_c = np.log([one.flops for one in optima])
    line = stats.linregress(log_c, np.log([one.size for one in optima]))
    ends = None
    if len(optima) > 2:
        half = stats.t.ppf(0.975, len(optima) - 2) * line.stderr
        ends = (float(line.slope - half), float(line.slope + half))
    return Frontier(
        possible=True,
        reason=reason,
        exponent=float(line.slope),
        exponent_interval=ends,
        optima=tuple(optima),
    )


def _lowest(log_n: Array, log_l: Array) -> tuple[float, float] | None:
    """ln N of a parabola's lowest point and half of its 95 % interval; None if not inside."""
    middle = log_n.mean()
    design = np.vander(log_n - middle, 3)
    coefficients, *_ = np.linalg.lstsq(design, log_l, rcond=None)
    a, b, _ = coefficients
    at = -b / (2 * a) if a > 0 else math.inf
    if not log_n.min() < middle + at < log_n.max():
        return None
    freedom = len(log_l) - 3
    variance = float(((log_l - design @ coefficients) ** 2).sum()) / freedom
    gradient = np.array([b / (2 * a * a), -1 / (2 * a), 0.0])
    spread = float(gradient @ np.linalg.inv(design.T @ design) @ gradient) * variance
    return middle + at, float(stats.t.ppf(0.975, freedom)) * math.sqrt(spread)


def _optimum(flops: float, log_n: float, half: float, *, factor: float) -> Optimum:
    low, size, high = (math.exp(log_n + h) for h in (-half, 0.0, half))
    return Optimum(
        flops=flops,
        size=size,
        size_interval=(low, high),
        data=flops / factor / size,
        data_interval=(flops / factor / high, flops / factor / low),
    )
