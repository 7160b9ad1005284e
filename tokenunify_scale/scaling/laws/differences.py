"""Differences between two curves size by size, and their trend with size."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tokenunify_scale.scaling.laws.law import Array
from tokenunify_scale.scaling.laws.points import Points

SEEDS, MEANS = "pairs of the same seed", "means of each size"
STAYS = 0.25  # an advantage stays where it changes by less than this share of itself


@dataclass(frozen=True, kw_only=True)
class Difference:
    """First curve less second, at one size or over several."""

    size: tuple[float, ...]
    """N, or N and D; empty for the mean over sizes."""
    pairs: int
    value: float
    low: float | None = None
    """95 % interval, for this difference alone; None where nothing tells the noise."""
    high: float | None = None
    p: float | None = None
    """Two-sided probability of a difference this large between equals."""
    p_holm: float | None = None
    """The same, corrected for the number of differences looked at (Holm 1979)."""

    @property
    def significant(self) -> bool | None:
        """Whether it is told from zero after the correction."""
        return None if self.p_holm is None else self.p_holm < 0.05


@dataclass(frozen=True, kw_only=True)
class Trend:
    """Least squares line of the differences over the logarithm of size."""

    slope: float
    """Change of the difference with each tenfold size."""
    low: float
    """95 % interval of the slope."""
    high: float
    p: float
    grows: float
    """Probability that the advantage grows over the sizes measured, by more than ``band``."""
    stays: float
    shrinks: float
    band: float
    """A quarter of the mean advantage, in units of L."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Differences of two curves at the S sizes they share, with what tells their noise."""

    sizes: Array
    """[S, k] rising."""
    values: Array
    """[S] mean difference."""
    counts: Array
    """[S] pairs, or the lesser number of runs."""
    shares: Array
    """[S] variance of each value, in units of that of one pair or one run."""
    how: str
    """``SEEDS`` or ``MEANS``."""
    squares: float
    """Sum of squares within sizes, of pairs about their mean or of runs about theirs."""
    freedom: int
    """Its degrees of freedom."""
    noise: float | None
    """Stated standard deviation of a run."""

    def variance(self, *, squares: float = 0.0, freedom: int = 0) -> tuple[float, float] | None:
        """Variance of one unit of ``shares`` and its degrees of freedom; None where unknown.

        Args:
            squares: further sum of squares that tells it, in the same unit.
            freedom: its degrees of freedom.
        """
        if self.noise:
            return self.noise**2 * (2 if self.how == SEEDS else 1), math.inf
        total = self.freedom + freedom
        return ((self.squares + squares) / total, total) if total else None


def pair(first: Points, second: Points, *, noise: float | None) -> Paired | None:
    """Put two curves' runs side by side; None where they share no size.

    Runs are paired by seed where both curves have seeds, each once a size, and share some at every
    size; otherwise means of the sizes are compared.

    Args:
        first: one curve.
        second: the other.
        noise: stated standard deviation of a run, or None.
    """
    cells = [_cells(points) for points in (first, second)]
    shared = sorted(set(cells[0]) & set(cells[1]))
    if not shared:
        return None
    by_seed = [
        [_by_seed(points, cell[size]) for size in shared]
        for points, cell in zip((first, second), cells, strict=True)
    ]
    common = [sorted(set(a or ()) & set(b or ())) for a, b in zip(*by_seed, strict=True)]
    runs = [[p.y[cell[s]] for s in shared] for p, cell in zip((first, second), cells, strict=True)]
    facts = {"sizes": np.array(shared), "noise": noise}
    if all(common):
        groups = [
            np.array([a[seed] - b[seed] for seed in seeds])
            for a, b, seeds in zip(*by_seed, common, strict=True)
        ]
        counts = np.array([len(g) for g in groups])
        values = np.array([g.mean() for g in groups])
        how, shares, within = SEEDS, 1 / counts, groups
    else:
        values = np.array([a.mean() - b.mean() for a, b in zip(*runs, strict=True)])
        counts = np.array([min(len(a), len(b)) for a, b in zip(*runs, strict=True)])
        shares = np.array([1 / len(a) + 1 / len(b) for a, b in zip(*runs, strict=True)])
        how, within = MEANS, runs[0] + runs[1]
    return Paired(
        **facts,
        values=values,
        counts=counts,
        shares=shares,
        how=how,
        squares=float(sum(((g - g.mean()) ** 2).sum() for g in within)),
        freedom=int(sum(len(g) - 1 for g in within)),
    )


def _cells(points: Points) -> dict[tuple[float, ...], list[int]]:
    """Rows of each size."""
    found: dict[tuple[float, ...], list[int]] = {}
    for index, row in enumerate(points.x.tolist()):
        found.setdefault(tuple(row), []).append(index)
    return found


def _by_seed(points: Points, rows: list[int]) -> dict[str, float] | None:
    """Losses of some rows by seed; None where seeds are missing or repeat."""
    if points.seed is None:
        return None
    found = {points.seed[row]: float(points.y[row]) for row in rows}
    return found if len(found) == len(rows) and "" not in found else None


def differences(paired: Paired) -> tuple[Difference, ...]:
    """The difference at each size, with t intervals from the scatter pooled over sizes.

    With a stated noise, normal intervals; with neither runs to compare nor noise, none.
    """
    known = paired.variance()
    found = []
    for size, value, count, share in zip(
        paired.sizes.tolist(), paired.values, paired.counts, paired.shares, strict=True
    ):
        facts = {"size": tuple(size), "pairs": int(count), "value": float(value)}
        found.append(Difference(**facts, **_test(value, share, known)))
    return tuple(found)


def mean_difference(paired: Paired) -> Difference:
    """The mean of the differences at all sizes, each size counting the same.

    Where no size has two runs and no noise is stated, the sizes' own scatter tells the error.
    """
    value, share = paired.values.mean(), paired.shares.mean() / len(paired.values)
    known = paired.variance()
    if known is None and len(paired.values) > 1:
        known = (
            float(((paired.values - value) ** 2 / paired.shares).sum()),
            len(paired.values) - 1,
        )
        known = (known[0] / known[1], known[1])
    facts = {"size": (), "pairs": int(paired.counts.sum()), "value": float(value)}
    return Difference(**facts, **_test(value, share, known))


def _test(value: float, share: float, known: tuple[float, float] | None) -> dict[str, float]:
    """Interval and p of a value, by t, or by the normal for infinite degrees of freedom."""
    if known is None:
        return {}
    variance, freedom = known
    error = math.sqrt(variance * share)
    half = float(stats.t.ppf(0.975, freedom)) * error
    p = 2 * float(stats.t.sf(abs(value) / error, freedom)) if error else float(value == 0)
    return {"low": float(value - half), "high": float(value + half), "p": p}


def trend(paired: Paired) -> Trend | None:
    """The line through the differences; None for fewer than two sizes or an unknown noise.

    The error of the slope comes from the differences' scatter about the line, within sizes and
    between them, or from the stated noise. The probabilities are those of the slope's t
    distribution about its estimate, which is the posterior for a flat prior.
    """
    x, weights = np.log10(paired.sizes[:, 0]), 1 / paired.shares
    if len(np.unique(x)) < 2:
        return None
    x = x - np.average(x, weights=weights)
    middle = np.average(paired.values, weights=weights)
    sxx = float((weights * x**2).sum())
    slope = float((weights * x * paired.values).sum() / sxx)
    rest = float((weights * (paired.values - middle - slope * x) ** 2).sum())
    known = paired.variance(squares=rest, freedom=len(x) - 2)
    if known is None:
        return None
    error, law = math.sqrt(known[0] / sxx), stats.t(known[1])
    half = float(law.ppf(0.975)) * error
    # Lower losses are better: an advantage grows where the difference moves away from zero.
    mean = float(paired.values.mean())
    band, span = STAYS * abs(mean), float(np.ptp(x))
    change = math.copysign(slope, slope * mean) * span if mean else slope * span
    if error:
        grows = float(law.sf((band - change) / (error * span)))
        shrinks = float(law.cdf((-band - change) / (error * span)))
    else:
        grows, shrinks = float(change > band), float(change < -band)
    return Trend(
        slope=slope,
        low=slope - half,
        high=slope + half,
        p=2 * float(law.sf(abs(slope) / error)) if error else float(slope == 0),
        grows=grows,
        stays=1 - grows - shrinks,
        shrinks=shrinks,
        band=band,
    )


def holm(values: list[float]) -> list[float]:
    """Holm's adjusted p values, in the order given.

    Source: Holm 1979.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted
