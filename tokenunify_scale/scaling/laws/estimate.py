"""One fit of a law to points, with all that intervals and predictions are made from."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tokenunify_scale.scaling.laws.bootstrap import Draws, band_of, bootstrap
from tokenunify_scale.scaling.laws.law import (
    NAMES,
    NOTHING,
    Array,
    log_predicted,
    move_origin,
    shares_of_terms,
)
from tokenunify_scale.scaling.laws.points import Points
from tokenunify_scale.scaling.laws.region import Region, region
from tokenunify_scale.scaling.laws.solve import DELTA, minimise, starts

VARIABLES = ("N", "D")
LEAST = 3  # values of each variable
ALIKE = 0.995  # correlation of ln N and ln D above which their terms cannot be told apart
POLISHED = 3
PLAIN = 0.5  # where this share of the starts agrees, resamples need one start


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A law fitted to points, and the state of the fit."""

    points: Points
    noise: float | None
    """Stated standard deviation of a run, in units of L."""
    theta: Array
    """[p] logarithms of the parameters, at the variables' own origin."""
    centred: Array
    """[p] the same with the variables lowered by ``shift``."""
    t: Array
    """[1, n, k] centred logarithms of the variables."""
    shift: Array
    """[k] what was taken off to centre them."""
    log_y: Array
    """[n] logarithms of the losses."""
    huber: float
    share: float
    """Share of the starts that reached the best minimum."""
    region: Region | None
    """What the likelihood says; None where nothing tells the noise."""

    @property
    def freedom(self) -> int:
        """Points less parameters."""
        return len(self.log_y) - len(self.theta)

    @property
    def floorless(self) -> bool:
        """Whether E came out as nothing."""
        return bool(shares_of_terms(self.centred[None], self.t)[0, -1] < NOTHING)

    @property
    def sd(self) -> float | None:
        """Standard deviation of ln L about the curve, of one run."""
        return None if self.region is None else float(np.median(self.region.scale))


def obstacle(points: Points) -> str | None:
    """Why these points cannot hold a law, in words; None if they can."""
    k = points.x.shape[1]
    p = len(NAMES[k])
    for name, column in zip(VARIABLES, points.x.T, strict=False):
        values = len(np.unique(column))
        if k == 1 and values < LEAST:
            return f"{values} size{'s' * (values > 1)}, {p} parameters"
        if values < LEAST:
            return f"{name} takes {values} value{'s' * (values > 1)}, and {LEAST} are the least"
    cells = len(np.unique(points.x, axis=0))
    if cells < p:
        return f"{cells} different points (N, D), {p} parameters"
    if k == 2 and abs(np.corrcoef(np.log(points.x.T))[0, 1]) > ALIKE:
        return "N and D rise together, so that their terms cannot be told apart"
    return None


def estimate(points: Points, *, noise: float | None = None, draft: bool = False) -> Estimate:
    """Fit a law, from many starts.

    Minimises the sum of Huber losses (delta 1e-3) of the residuals of ln L in float64, over the
    logarithms of the parameters, with centred variables.

    Args:
        points: such that ``obstacle`` finds none.
        noise: standard deviation of a run in units of L, where it is known.
        draft: True leaves out the polish of the last digits, for simulations.

    Source: Hoffmann et al. 2022, approach 3; Besiroglu et al. 2024 on sums and stopping too early.
    """
    log_x, log_y = np.log(points.x), np.log(points.y)
    shift = log_x.mean(axis=0)
    t = (log_x - shift)[None]
    begin = starts(t, log_y)
    found = minimise(t, log_y[None], begin=begin, polish=0 if draft else POLISHED)
    around = None
    if noise or len(log_y) > found.theta.shape[1]:
        around = region(t, log_y[None], theta=found.theta, begin=begin, noise=noise)
    return Estimate(
        points=points,
        noise=noise,
        theta=move_origin(found.theta[0], -shift),
        centred=found.theta[0],
        t=t,
        shift=shift,
        log_y=log_y,
        huber=float(found.loss[0] / DELTA),
        share=float(found.share[0]),
        region=around,
    )


def draw(found: Estimate, *, resamples: int, seed: int) -> Draws | None:
    """Bootstrap of an estimate; None where nothing tells the noise, or for no resamples."""
    if found.region is None or resamples < 2:
        return None
    return bootstrap(
        found.t,
        found.log_y,
        shift=found.shift,
        theta=found.centred,
        noise=found.noise,
        resamples=resamples,
        seed=seed,
        plain=found.share > PLAIN,
    )


def widening(*, freedom: int, noise: float | None) -> float:
    """Quantile of t over that of a normal: 1 where the noise is stated."""
    if noise:
        return 1.0
    return float(stats.t.ppf(0.975, max(freedom, 1)) / stats.norm.ppf(0.975))


def predict_run(
    found: Estimate, draws: Draws, x: Array, *, runs: int
) -> tuple[float, float, float]:
    """Predicted loss at ``x`` [k], and the 95 % interval of the mean of ``runs`` new runs there."""
    log_x = np.log(x)[None]
    log_l = float(log_predicted(found.theta[None], log_x[None])[0, 0])
    widen = widening(freedom=found.freedom, noise=found.noise)
    low, high = band_of(draws, found.theta, log_x, widen=widen)
    sd = found.noise / math.exp(log_l) if found.noise else found.sd or 0.0
    run = widen * stats.norm.ppf(0.975) * sd / math.sqrt(runs)
    return (
        math.exp(log_l),
        math.exp(log_l - math.hypot(low[0], run)),
        math.exp(log_l + math.hypot(high[0], run)),
    )
