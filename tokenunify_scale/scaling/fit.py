"""Fit L(N) = E + A N^-alpha to measured points, and say in words what they do not determine."""

import csv
import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from tokenunify_scale.config import ConfigError, DataError, did_you_mean
from tokenunify_scale.train.runlog import write_atomically

# Huber's delta, in units of log L. The last is the one that counts (Hoffmann et al. 2022); the
# wider ones before it lead L-BFGS to it from starts where the last alone is flat.
DELTAS = (1e-1, 1e-2, 1e-3)
EXPONENTS = (1e-2, 10.0)
PARAMETERS = 3
ENOUGH = 6  # sizes: with four or five, realistic noise leaves the exponent open
SAME = 1e-3  # two starts reached the same minimum if their losses differ by less than this share
OPTIONS = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-10, "maxls": 50}

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted curve, or what stood in the way of one."""

    points: int
    sizes: int
    """Number of different N."""
    identified: bool
    """Whether the points determine the three parameters."""
    verdict: str
    """The same in words."""
    E: float | None = None
    A: float | None = None
    alpha: float | None = None
    huber: float | None = None
    """Sum of the Huber losses of the log residuals, over delta."""
    share: float | None = None
    """Share of the starts that reached the best minimum."""
    line: tuple[float, float] | None = None
    """Slope and intercept of ln L over ln N by least squares: a guide for the eye, not a law."""


def predict(fit: Fit, x: ArrayLike) -> NDArray[np.float64] | None:
    """The fitted curve at sizes ``x``, or the guide line where there is no curve, or None."""
    x = np.asarray(x, dtype=np.float64)
    if fit.E is not None and fit.A is not None and fit.alpha is not None:
        return fit.E + np.exp(math.log(fit.A) - fit.alpha * np.log(x))
    if fit.line is not None:
        return np.exp(fit.line[0] * np.log(x) + fit.line[1])
    return None


def fit_power_law(points: Points) -> Fit:
    """Fit one curve to (N, L) pairs; several pairs may share an N.

    Minimises the sum of Huber losses of ln L residuals over (ln A, ln E, ln alpha) in float64,
    with L-BFGS from a grid of starts.

    Args:
        points: size and loss, both positive.

    Raises:
        DataError: no points, or one that is not positive and finite.

    Source: Hoffmann et al. 2022, approach 3, in one variable.
    """
    data = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if not len(data) or not np.all(np.isfinite(data)) or data.min() <= 0:
        raise DataError(f"a fit needs points that are positive and finite, got {data.tolist()}")
    log_x, log_y = np.log(data).T
    sizes = len(np.unique(data[:, 0]))
    facts = {"points": len(data), "sizes": sizes}
    count = f"{sizes} size{'s' * (sizes > 1)}, {PARAMETERS} parameters"
    if sizes < 2:
        return Fit(**facts, identified=False, verdict=f"not identified: {count}")
    slope, intercept = np.polyfit(log_x - log_x.mean(), log_y, 1)
    line = (float(slope), float(intercept - slope * log_x.mean()))
    if sizes < PARAMETERS:
        verdict = f"not identified: {count}; the straight line in log-log is only a guide"
        return Fit(**facts, identified=False, verdict=verdict, line=line)
    (ln_a, ln_e, ln_alpha), huber, share = _minimise(log_x, log_y)
    alpha = math.exp(ln_alpha)
    doubt = _doubt(ln_a, ln_e, alpha, sizes=sizes, log_x=log_x, log_y=log_y)
    return Fit(
        **facts,
        identified=doubt is None,
        verdict=f"not identified: {doubt}" if doubt else f"fitted: {count}",
        E=math.exp(ln_e),
        A=math.exp(ln_a + alpha * log_x.mean()),
        alpha=alpha,
        huber=huber,
        share=share,
        line=line,
    )


def _minimise(log_x: NDArray, log_y: NDArray) -> tuple[NDArray, float, float]:
    """Best (ln A at the mean of log_x, ln E, ln alpha), its loss, and the share of starts there."""
    t = log_x - log_x.mean()  # centred, so that A and alpha do not trade off against each other
    low, high = log_y.min(), log_y.max()
    bounds = _bounds(log_y)
    starts = itertools.product(
        high + np.linspace(-4.0, 1.0, 4),
        low + np.array([-3.0, -0.1]),
        np.log(np.geomspace(0.03, 4.0, 6)),
    )
    ends = []
    for start in starts:
        at = np.array(start)
        for delta in DELTAS:
            arguments = (t, log_y, delta)
            done = minimize(
                _loss, at, arguments, "L-BFGS-B", jac=True, bounds=bounds, options=OPTIONS
            )
            at = done.x
        ends.append((float(done.fun), at))
    best, at = min(ends, key=lambda end: end[0])
    reached = sum(loss <= best * (1 + SAME) + 1e-9 for loss, _ in ends)
    return at, best, reached / len(ends)


def _bounds(log_y: NDArray) -> list[tuple[float, float]]:
    """Limits of (ln A, ln E, ln alpha); E stays under the lowest point but for noise."""
    low, high = float(log_y.min()), float(log_y.max())
    return [(low - 25, high + 5), (low - 25, low + 1), tuple(np.log(EXPONENTS))]


def _loss(
    parameters: NDArray, t: NDArray, log_y: NDArray, delta: float
) -> tuple[float, NDArray[np.float64]]:
    """Sum of Huber losses over delta, and its gradient."""
    ln_a, ln_e, ln_alpha = parameters
    alpha = np.exp(ln_alpha)
    power = ln_a - alpha * t
    predicted = np.logaddexp(power, ln_e)
    share = np.exp(power - predicted)  # of the power term in the prediction
    residual = predicted - log_y
    size = np.abs(residual)
    huber = np.where(size <= delta, residual**2 / (2 * delta), size - delta / 2)
    slope = np.clip(residual / delta, -1, 1)
    gradient = [slope * share, slope * (1 - share), slope * share * -t * alpha]
    return float(huber.sum()), np.sum(gradient, axis=1)


def _doubt(ln_a, ln_e, alpha: float, *, sizes: int, log_x: NDArray, log_y: NDArray) -> str | None:
    """Why the points do not determine the parameters, in words; None if all is well."""
    ends = np.array([log_x.min(), log_x.max()]) - log_x.mean()
    drop = -float(np.diff(np.exp(ln_a - alpha * ends))[0])
    if drop < 1e-3 * math.exp(ln_e):
        return "L does not fall with N"
    if not EXPONENTS[0] * 1.01 < alpha < EXPONENTS[1] / 1.01:
        return f"the exponent ran into its bound {alpha:.3g}"
    if ln_e < float(log_y.min()) - 7:
        return "E came out as 0, a plain power law; larger sizes would have to show the floor"
    if sizes == PARAMETERS:
        return f"{sizes} sizes, {PARAMETERS} parameters; no size is left to test the curve"
    if sizes < ENOUGH:
        return f"{sizes} sizes, {PARAMETERS} parameters; noise leaves the exponent open"
    return None


def read_points(
    path: Path | str, *, x: str, y: str, group: str | None = None
) -> dict[str, list[tuple[float, float]]]:
    """Points of a CSV file by group; rows where x or y is empty are left out.

    Args:
        path: a CSV file with a header.
        x: column of the sizes.
        y: column of the losses.
        group: column whose values make one curve each, joined by commas; None for one.

    Raises:
        ConfigError: a column that the file does not have.
        DataError: the file is missing or a value is not a number.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    groups = group.split(",") if group else []
    points: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        columns = table.fieldnames or []
        for name in (x, y, *groups):
            if name not in columns:
                raise ConfigError(f"{path} has no column {name!r}: {did_you_mean(name, columns)}")
        for number, row in enumerate(table, start=2):
            if not row[x] or not row[y]:
                continue
            try:
                pair = (float(row[x]), float(row[y]))
            except ValueError as error:
                raise DataError(f"{path}, row {number}: {error}") from None
            points.setdefault(" ".join(row[name] for name in groups), []).append(pair)
    return points


def fit_csv(path: Path | str, *, x: str, y: str, group: str | None = None) -> dict[str, Fit]:
    """A fit for each group of a CSV file; arguments and errors as ``read_points``."""
    points = read_points(path, x=x, y=y, group=group)
    return {name: fit_power_law(pairs) for name, pairs in points.items()}


def describe(fits: Mapping[str, Fit]) -> str:
    """Fits in words, a line each."""
    lines = []
    for name, fit in fits.items():
        text = fit.verdict
        if fit.E is not None:
            text = f"L = {fit.E:.4g} + {fit.A:.4g} N^-{fit.alpha:.4g}; {text}"
            text += f"; {fit.share:.0%} of the starts reached this minimum"
        lines.append(f"{name or 'all'}: {text}")
    return "\n".join(lines)


def write_fits(fits: Mapping[str, Fit], path: Path) -> None:
    """Write fits as JSON, nothing rounded."""
    record = {name: dataclasses.asdict(fit) for name, fit in fits.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(record, indent=1) + "\n")
