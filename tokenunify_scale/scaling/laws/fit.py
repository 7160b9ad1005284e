"""Fit scaling laws to measured points, and say in words what the points do not determine."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from tokenunify_scale.scaling.laws.bootstrap import Draws, band_of, standard_errors
from tokenunify_scale.scaling.laws.doubts import doubts, overlaps, warnings_of
from tokenunify_scale.scaling.laws.estimate import Estimate, draw, estimate, obstacle, widening
from tokenunify_scale.scaling.laws.extrapolate import HeldOut, held_out
from tokenunify_scale.scaling.laws.goodness import Goodness, goodness
from tokenunify_scale.scaling.laws.intervals import Interval, intervals
from tokenunify_scale.scaling.laws.law import NAMES, Array, log_predicted, logarithms, named
from tokenunify_scale.scaling.laws.points import Points, read_points
from tokenunify_scale.train.runlog import write_atomically

RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted law, or what stood in the way of one. Nothing is rounded."""

    points: int
    sizes: int
    """Number of different N."""
    identified: bool
    """Whether the points determine all parameters of the law."""
    verdict: str
    """The same in words."""
    warnings: tuple[str, ...] = ()
    """What a reader should know before using the numbers."""
    E: float | None = None
    A: float | None = None
    alpha: float | None = None
    B: float | None = None
    beta: float | None = None
    intervals: dict[str, Interval] = field(default_factory=dict)
    """Profile-likelihood intervals by parameter, of 95 % or a little more: the ones to quote."""
    bootstrap: dict[str, Interval] = field(default_factory=dict)
    """95 % percentile intervals of refitted resamples, to compare with."""
    errors: dict[str, float] = field(default_factory=dict)
    """Standard errors, of the same resamples."""
    huber: float | None = None
    """Sum of the Huber losses of the log residuals, over delta."""
    share: float | None = None
    """Share of the starts that reached the best minimum."""
    goodness: Goodness | None = None
    line: tuple[float, float] | None = None
    """Slope and intercept of ln L over ln N by least squares: a guide for the eye, not a law."""
    held_out: HeldOut | None = None
    """The largest size, predicted from the others."""
    widen: float = 1.0
    """By which ``band`` stretches the spread of the draws, for noise known from few residuals."""
    draws: tuple[tuple[float, ...], ...] = ()
    """Logarithms of the parameters of refitted resamples; not written to files, for they repeat."""


def fit_law(
    points: Points, *, noise: float | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Fit:
    """Fit L(N) = E + A N^-alpha, or L(N, D) = E + A N^-alpha + B D^-beta, as the points have it.

    Args:
        points: runs; several may share a size.
        noise: standard deviation of a run in units of L, where it is known; without it the noise is
            taken from the residuals.
        resamples: of the bootstrap; 0 for none, and then there is no band either.
        seed: of the bootstrap.

    Source: Hoffmann et al. 2022, approach 3, and Besiroglu et al. 2024 for its traps; intervals as
    in ``intervals`` and ``bootstrap``.
    """
    k = points.x.shape[1]
    facts = {"points": len(points.y), "sizes": len(points.sizes), "line": _line(points)}
    why = obstacle(points)
    if why:
        guide = "; the straight line in log-log is only a guide" if facts["line"] else ""
        return Fit(**facts, identified=False, verdict=f"not identified: {why}{guide}")
    found = estimate(points, noise=noise)
    draws = draw(found, resamples=resamples, seed=seed)
    around = {} if found.region is None else _intervals(found)
    known = goodness(found)
    beyond = held_out(points, noise=noise, resamples=resamples, seed=seed)
    doubt = doubts(found, around)
    count = f"{len(points.sizes)} sizes, {len(points.y)} points, {len(found.theta)} parameters"
    return Fit(
        **facts,
        **(named(found.theta, k=k) | ({"E": 0.0} if found.floorless else {})),
        **(_resampled(draws, k=k) if draws else {}),
        identified=not doubt,
        verdict=f"not identified: {'; '.join(doubt)}" if doubt else f"fitted: {count}",
        warnings=warnings_of(found, around, known=known, beyond=beyond),
        intervals=around,
        huber=found.huber,
        share=found.share,
        goodness=known,
        held_out=beyond,
        widen=widening(freedom=found.freedom, noise=noise),
    )


def fit_csv(
    path: Path | str,
    *,
    x: Sequence[str],
    y: str,
    group: str | None = None,
    flops: str | None = None,
    noise: float | None = None,
    seed: int = 0,
) -> dict[str, Fit]:
    """A fit for each group of a CSV file; arguments as ``read_points`` and ``fit_law``."""
    groups = read_points(path, x=x, y=y, group=group, flops=flops)
    return {name: fit_law(points, noise=noise, seed=seed) for name, points in groups.items()}


def _line(points: Points) -> tuple[float, float] | None:
    """Slope and intercept of ln L over ln N; None where N has one value or is not alone."""
    if points.x.shape[1] > 1 or len(points.sizes) < 2:
        return None
    log_x, log_y = np.log(points.x[:, 0]), np.log(points.y)
    slope, middle = np.polyfit(log_x - log_x.mean(), log_y, 1)
    return float(slope), float(middle - slope * log_x.mean())


def _intervals(found: Estimate) -> dict[str, Interval]:
    return intervals(
        found.t,
        found.log_y[None],
        shift=found.shift,
        found=found.region,
        theta=found.theta,
    )


def _resampled(draws: Draws, *, k: int) -> dict:
    """What a fit keeps of its resamples."""
    low, high = np.exp(np.clip(np.quantile(draws.theta, [0.025, 0.975], axis=0), -700, 700))
    return {
        "bootstrap": {
            name: Interval(low=float(a), high=float(b), method=draws.method)
            for name, a, b in zip(NAMES[k], low, high, strict=True)
        },
        "errors": standard_errors(draws, k=k),
        "draws": tuple(tuple(row) for row in draws.theta.tolist()),
    }


def _theta(fit: Fit) -> Array | None:
    """The row of logarithms of a fitted law, None where there is none."""
    if fit.E is None:
        return None
    return logarithms(dataclasses.asdict(fit), k=1 if fit.beta is None else 2)


def _log_x(x: ArrayLike, *, k: int) -> Array:
    return np.log(np.asarray(x, dtype=np.float64).reshape(-1, k))


def predict(fit: Fit, x: ArrayLike) -> Array | None:
    """The fitted law [m] at ``x``, or the guide line where there is no law, or None.

    Args:
        fit: of ``fit_law``.
        x: [m] sizes, or [m, 2] sizes and data for a law of both.
    """
    theta = _theta(fit)
    if theta is not None:
        log_x = _log_x(x, k=len(theta) // 2)
        return np.exp(log_predicted(theta[None], log_x[None])[0])
    if fit.line is not None:
        return np.exp(fit.line[0] * np.log(np.asarray(x, dtype=np.float64)) + fit.line[1])
    return None


def band(fit: Fit, x: ArrayLike) -> tuple[Array, Array] | None:
    """The pointwise 95 % interval of the law, low [m] and high [m]; None where it is not known.

    From the bootstrap; of the curve, not of a new run, whose own noise comes on top. Arguments as
    ``predict``.
    """
    theta = _theta(fit)
    if theta is None or not fit.draws:
        return None
    log_x = _log_x(x, k=len(theta) // 2)
    low, high = band_of(Draws(np.array(fit.draws), ""), theta, log_x, widen=fit.widen)
    middle = log_predicted(theta[None], log_x[None])[0]
    return np.exp(middle + low), np.exp(middle + high)


def describe(fits: Mapping[str, Fit]) -> str:
    """Fits in words: a paragraph for each curve, and what holds between them."""
    parts = [_paragraph(name or "all", fit) for name, fit in fits.items()]
    between = overlaps({name: fit.intervals for name, fit in fits.items()})
    return "\n".join([*parts, *(f"warning: {text}" for text in between)])


def _paragraph(name: str, fit: Fit) -> str:
    if fit.E is None:
        return f"{name}: {fit.verdict}"
    law = f"L = {fit.E:.4g} + {fit.A:.4g} N^-{fit.alpha:.4g}"
    law += "" if fit.beta is None else f" + {fit.B:.4g} D^-{fit.beta:.4g}"
    lines = [f"{name}: {law}; {fit.verdict}"]
    if fit.intervals:
        ends = [f"{key} {_ends(value)}" for key, value in fit.intervals.items()]
        lines.append(f"  95 % intervals: {', '.join(ends)}")
    if fit.errors and fit.identified:
        ends = [f"{key} {value:.2g}" for key, value in fit.errors.items()]
        lines.append(f"  standard errors ({fit.bootstrap['E'].method}): {', '.join(ends)}")
    good = fit.goodness
    r2 = "" if good.r2 is None else f"R2 {good.r2:.4f}, "
    lines.append(
        f"  {r2}rms of ln L {good.rms:.2g}; {fit.share:.0%} of the starts reached this minimum"
    )
    if fit.held_out:
        lines.append(f"  {fit.held_out.text()}")
    return "\n".join([*lines, *(f"  warning: {text}" for text in fit.warnings)])


def _ends(interval: Interval) -> str:
    text = f"{interval.low:.3g} to {interval.high:.3g}"
    return text if interval.identified else f"not identified ({text})"


def write_fits(fits: Mapping[str, Fit], path: Path) -> None:
    """Write fits as JSON, nothing rounded; the draws of the bootstrap are left out."""
    record = {}
    for name, fit in fits.items():
        record[name] = dataclasses.asdict(dataclasses.replace(fit, draws=()))
        del record[name]["draws"]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(_finite(record), indent=1) + "\n")


def _finite(value):
    """JSON has no infinity: a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
