"""What a design could resolve, simulated before it is paid for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tokenunify_scale.config import ConfigError
from tokenunify_scale.scaling.laws.differences import (
    differences,
    holm,
    mean_difference,
    pair,
    trend,
)
from tokenunify_scale.scaling.laws.intervals import profile
from tokenunify_scale.scaling.laws.law import Array
from tokenunify_scale.scaling.laws.points import Points
from tokenunify_scale.scaling.laws.region import region
from tokenunify_scale.scaling.laws.solve import minimise, starts

# The fit of mamba tokenunify in Figure 6, VOI over GMACs: the best curve, which four points leave
# open. The effect is the mean by which it is below mamba mae there, the span that of its sizes.
PAPER = {"E": 0.9228, "A": 100.9, "alpha": 0.9298}
PAPER_EFFECT = 0.138
PAPER_SPAN = (503.0, 4524.0)
SIMULATIONS = 200
WANTED = 0.8  # probability with which the least difference is resolved
EVERY = 3  # of the grid of starts, one in so many is enough for a simulation


@dataclass(frozen=True, kw_only=True)
class Power:
    """What runs of two initialisations at S sizes with some seeds each resolve."""

    seeds: int
    runs: int
    """Of both initialisations."""
    least: float
    """Difference at one size that is resolved with a probability of 80 %, uncorrected."""
    one_size: float
    """Probability to resolve the effect at a size, uncorrected; mean over sizes."""
    corrected: float
    """The same after Holm's correction for the S sizes."""
    mean: float
    """Probability to resolve the mean over sizes."""
    trend: float
    """Probability to resolve that the effect grows from half to one and a half times itself."""
    identified: float
    """Share of the simulations in which the exponent's 95 % interval is closed."""
    half_width: float | None
    """Half of that interval, the median of those that are closed; None where none is."""


def power(
    sizes: int | Sequence[float],
    seeds: Sequence[int],
    noise: float,
    *,
    E: float = PAPER["E"],
    A: float = PAPER["A"],
    alpha: float = PAPER["alpha"],
    effect: float = PAPER_EFFECT,
    span: tuple[float, float] = PAPER_SPAN,
    simulations: int | None = None,
    seed: int = 0,
) -> list[Power]:
    """Simulate a design and analyse it with the functions that judge real runs.

    One initialisation follows the law, the other is worse by the effect. With one seed the noise is
    stated to the analysis, with more it is taken from the runs.

    Args:
        sizes: N of each size, or how many, spread evenly in ln N over ``span``.
        seeds: numbers of seeds to try.
        noise: standard deviation of a run in units of L.
        E: floor of the law.
        A: coefficient of the law.
        alpha: exponent of the law.
        effect: difference between the initialisations, in units of L.
        span: least and largest N, where sizes is a number.
        simulations: of each row.
        seed: of the draws.

    Raises:
        ConfigError: fewer than 3 sizes, or a number that is not positive.
    """
    simulations = simulations or SIMULATIONS
    n = np.geomspace(*span, sizes) if isinstance(sizes, int) else np.unique(sizes)
    given = {"noise": noise, "E": E, "A": A, "alpha": alpha, "effect": effect}
    given |= {"simulations": simulations, "seeds": min(seeds, default=0), "span": min(span)}
    for name, value in given.items():
        if not value > 0:
            raise ConfigError(f"{name} must be positive, got {value}")
    if len(n) < 3 or n[0] <= 0:
        raise ConfigError(f"a law takes 3 sizes or more, all positive, got {n.tolist()}")
    truth = E + A * n**-alpha
    rng = np.random.default_rng(seed)
    return [
        _row(n, truth, runs=runs, noise=noise, effect=effect, simulations=simulations, rng=rng)
        for runs in seeds
    ]


def _row(
    n: Array,
    truth: Array,
    *,
    runs: int,
    noise: float,
    effect: float,
    simulations: int,
    rng: np.random.Generator,
) -> Power:
    x = n.repeat(runs)
    labels = tuple(str(i) for i in range(runs)) * len(n)
    stated = noise if runs == 1 else None
    position = (np.log(x) - np.log(x).mean()) / np.ptp(np.log(x))
    better, worse = (
        np.maximum(truth.repeat(runs) + noise * rng.normal(size=(simulations, len(x))), 1e-3)
        for _ in range(2)
    )
    singles, means, trends = [], [], []
    for a, b in zip(better, worse, strict=True):
        first = Points(x=x, y=a, seed=labels)
        steady = pair(first, Points(x=x, y=b + effect, seed=labels), noise=stated)
        singles.append([one.p for one in differences(steady)])
        means.append(mean_difference(steady).p)
        growing = effect * (1 + position)
        trends.append(trend(pair(first, Points(x=x, y=b + growing, seed=labels), noise=stated)).p)
    freedom = np.inf if stated else len(n) * (runs - 1)
    quantiles = stats.t.ppf(0.975, freedom) + stats.t.ppf(WANTED, freedom)
    identified, half = _exponent(x, better, noise=stated)
    return Power(
        seeds=runs,
        runs=2 * len(x),
        least=float(quantiles * noise * np.sqrt(2 / runs)),
        one_size=float((np.array(singles) < 0.05).mean()),
        corrected=float((np.array([holm(p) for p in singles]) < 0.05).mean()),
        mean=float((np.array(means) < 0.05).mean()),
        trend=float((np.array(trends) < 0.05).mean()),
        identified=identified,
        half_width=half,
    )


def _exponent(x: Array, y: Array, *, noise: float | None) -> tuple[float, float | None]:
    """Share of the sets of losses [M, n] that identify alpha, and half of its median interval."""
    log_x, log_y = np.log(x)[:, None], np.log(y)
    shift = log_x.mean(axis=0)
    t = (log_x - shift)[None]
    begin = starts(t, log_y.mean(axis=0))[::EVERY]
    theta = minimise(t, log_y, begin=begin).theta
    found = region(t, log_y, theta=theta, begin=begin, noise=noise)
    ends, open_side = profile(t, log_y, shift=shift, found=found, which=(1,))
    closed = ~open_side[:, 0].any(axis=1)
    widths = np.exp(ends[closed, 0, 1]) - np.exp(ends[closed, 0, 0])
    return float(closed.mean()), float(np.median(widths) / 2) if closed.any() else None


def table(rows: Sequence[Power], *, effect: float = PAPER_EFFECT) -> str:
    """Rows as text, with what the columns mean."""
    head = ("seeds", "runs", "least d", "one size", "Holm", "mean", "trend", "alpha +-", "closed")
    cells = [
        (
            str(row.seeds),
            str(row.runs),
            f"{row.least:.3f}",
            *(f"{value:.0%}" for value in (row.one_size, row.corrected, row.mean, row.trend)),
            "-" if row.half_width is None else f"{row.half_width:.2g}",
            f"{row.identified:.0%}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in (head, *cells)
    ]
    meaning = (
        "least d: difference of two initialisations at one size that is found 8 times in 10.\n"
        f"one size, Holm, mean: how often a difference of {effect:g} is significant at a size, "
        "after\ncorrection for the number of sizes, and in the mean over sizes. trend: how often "
        "its growth\nfrom half to one and a half times itself is. alpha +-: half of the exponent's "
        "95 % interval\nwhere it is closed, and how often it is: otherwise the exponent is not "
        "identified."
    )
    return "\n".join([*lines, "", meaning])


def assumption(*, E: float, A: float, alpha: float, noise: float) -> str:
    """What the simulation takes for true, in words."""
    law = f"L = {E:.4g} + {A:.4g} N^-{alpha:.4g}, noise {noise:g} a run"
    if (E, A, alpha) == tuple(PAPER.values()):
        return f"{law} (the law: our fit of mamba tokenunify in the paper's Figure 6, N in GMACs)"
    return law
