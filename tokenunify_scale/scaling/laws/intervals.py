"""Profile-likelihood intervals of a law's parameters.

For each value of a parameter the others are fitted anew, and the values are kept at which the fit
is not significantly worse, as ``region`` measures it. Such intervals do not depend on how a
parameter is written, may be lopsided, and end at a bound where the points leave a side open.
"""

import math
from dataclasses import dataclass

import numpy as np

from tokenunify_scale.scaling.laws.law import EXPONENTS, NAMES, Array, limits, predicted_and_slopes
from tokenunify_scale.scaling.laws.region import Region
from tokenunify_scale.scaling.laws.solve import descend

WIDEN, NARROW = 22, 10  # how often an end is pushed out, and then pinned down
FARTHER = 1.7  # by which each push is longer than the last
PROFILE = "profile likelihood"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % interval of one number."""

    low: float
    high: float
    method: str
    """How it was found."""
    identified: bool = True
    """False where a side is open: the end is then a bound of the search, not a finding."""


class _Search:
    """The ends of many intervals, looked for side by side: one problem for each set, column, side.

    An inner value is one that the interval holds, an outer one it does not hold.
    """

    def __init__(self, t: Array, log_y: Array, *, shift: Array, found: Region, which: Array):
        k, p = t.shape[-1], found.theta.shape[1]
        self.sets, self.column, self.side = which.T
        # A coefficient's own variable is put back to its origin, where the coefficient is itself.
        origin = np.where(self.column[:, None] == np.arange(k), shift, 0.0)
        self.t, self.log_y, self.found = t + origin[:, None, :], log_y[self.sets], found
        theta = found.theta[self.sets].copy()
        theta[:, :k] += np.exp(theta[:, k : 2 * k]) * origin
        self.bounds = limits(t + np.abs(shift), log_y)
        self.scale, self.fixed = found.scale[self.sets], self.column[:, None] == np.arange(p)
        self.rows = np.arange(len(which))
        self.inner, self.at = theta[self.rows, self.column].copy(), theta
        self.inner_rise = np.full(len(which), -math.sqrt(found.limit))
        self.outer, self.outer_rise = self.inner.copy(), np.full(len(which), np.nan)
        self.open = np.zeros(len(which), dtype=bool)

    def look(self, active: Array, values: Array) -> Array:
        """Fit the others anew at ``values``; note them; whether the interval leaves them out."""
        begin = self.at[active]
        begin[np.arange(len(active)), self.column[active]] = values
        at, loss = descend(
            begin,
            t=self.t[active],
            log_y=self.log_y[active],
            delta=self.found.corner * self.scale[active],
            weights=self.scale[active] ** -2,
            fixed=self.fixed[active],
            bounds=self.bounds,
            steps=40,
        )
        own = self.sets[active]
        above = np.maximum(2 * (loss - self.found.loss[own]) * self.found.factor[own], 0.0)
        # The root of the statistic is nearly straight in the parameter.
        rise = np.sqrt(above) - math.sqrt(self.found.limit)
        out, stay = rise >= 0, active[rise < 0]
        self.outer[active[out]], self.outer_rise[active[out]] = values[out], rise[out]
        self.inner[stay], self.inner_rise[stay] = values[~out], rise[~out]
        self.at[stay] = at[~out]
        return out

    def widen(self, step: Array) -> None:
        """Push each end out from the best fit until the interval is left, or a bound reached."""
        bound = self.bounds[self.column, (self.side > 0).astype(int)]
        active = self.rows
        for _ in range(WIDEN):
            values = self.inner[active] + self.side[active] * step[active]
            beyond = (values - bound[active]) * self.side[active] >= 0
            out = self.look(active, np.where(beyond, bound[active], values))
            self.open[active[~out & beyond]] = True
            active = active[~out & ~beyond]
            step[active] *= FARTHER
            if not len(active):
                return
        self.open[active] = True

    def ends(self) -> Array:
        """Pin down the ends between inner and outer values; where open, the farthest looked at."""
        active = self.rows[~self.open]
        for _ in range(NARROW if len(active) else 0):
            # False position, kept off the ends so that both of them move.
            part = np.clip(self._part(active), 0.1, 0.9)
            inner = self.inner[active]
            self.look(active, inner + part * (self.outer[active] - inner))
        ends = self.inner.copy()
        ends[active] += self._part(active) * (self.outer[active] - self.inner[active])
        return ends

    def _part(self, active: Array) -> Array:
        """Where a straight line crosses the limit, from inner (0) to outer (1)."""
        rise = -self.inner_rise[active]
        return rise / (self.outer_rise[active] + rise)


def profile(
    t: Array, log_y: Array, *, shift: Array, found: Region, which: tuple[int, ...]
) -> tuple[Array, Array]:
    """Ends of the intervals of chosen logarithms, for M sets of losses side by side.

    Args:
        t: [1, n, k] centred logarithms of the variables.
        log_y: [M, n].
        shift: [k] what was taken off to centre.
        found: the regions of these sets.
        which: columns of the row of logarithms; coefficients are those of the variables as they
            are, not centred.

    Returns:
        ends [M, len(which), 2], and whether each side is open, of the same shape.
    """
    each = [(i, j, side) for i in range(len(log_y)) for j in which for side in (-1, 1)]
    search = _Search(t, log_y, shift=shift, found=found, which=np.array(each))
    step = _first_steps(search, factor=found.factor[search.sets])
    search.widen(np.clip(step * math.sqrt(found.limit), 1e-12, 2.0))
    shape = (len(log_y), len(which), 2)
    return search.ends().reshape(shape), search.open.reshape(shape)


def _first_steps(search: _Search, *, factor: Array) -> Array:
    """One standard error of each problem's own logarithm, by the curvature at the best fit."""
    slopes = predicted_and_slopes(search.at, search.t)[1] / search.scale[..., None]
    matrix = slopes.swapaxes(1, 2) @ slopes
    largest = np.einsum("mii->mi", matrix).max(axis=1)
    matrix += 1e-10 * largest[:, None, None] * np.eye(matrix.shape[1])
    variances = np.einsum("mii->mi", np.linalg.inv(matrix))
    return np.sqrt(np.maximum(variances[search.rows, search.column], 0.0) / factor)


def intervals(
    t: Array, log_y: Array, *, shift: Array, found: Region, theta: Array
) -> dict[str, Interval]:
    """Profile intervals by name, for one set of losses; each holds the estimate.

    Args:
        t: [1, n, k].
        log_y: [1, n].
        shift: [k].
        found: the region of the set.
        theta: [p] the estimate at the variables' own origin; the narrow loss may have put it beside
            the interval of the smooth one, which is then drawn out to it.
    """
    k = t.shape[-1]
    names = NAMES[k]
    ends, open_side = profile(t, log_y, shift=shift, found=found, which=tuple(range(len(names))))
    result = {}
    for j, name in enumerate(names):
        low, high = np.exp(np.clip(ends[0, j], -700, 700))
        low, high = min(low, math.exp(theta[j])), max(high, math.exp(theta[j]))
        closed = not open_side[0, j].any()
        if j < k:  # a coefficient is no better known than its exponent
            closed = closed and not open_side[0, j + k].any()
        elif j < 2 * k:
            low, high = max(low, EXPONENTS[0]), min(high, EXPONENTS[1])
        elif open_side[0, j, 0]:
            low = 0.0
        result[name] = Interval(
            low=float(low), high=float(high), method=PROFILE, identified=bool(closed)
        )
    return result
