"""Lines, points and bands of a scaling figure, and the limits of its axes."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from tokenunify_scale.scaling.laws.fit import Fit, band, predict
from tokenunify_scale.scaling.pages.curves import Curve, even_ticks, round_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scale = Literal["loglog", "logx", "linear"]
SCALES = ("loglog", "logx", "linear")
BEYOND = 1.2  # how far curves go beyond the points, as a factor of the size
FINE = 120  # points of a drawn curve
MARGIN = 0.08  # free within the axes, as a share of them


def draw_curve(axes: "Axes", curve: Curve, thick: float) -> None:
    """Every point, and a line of ``thick`` points through the means."""
    sizes, means = curve.means
    axes.plot(sizes, means, color=curve.colour, linewidth=thick, zorder=3)
    rim = {"markeredgecolor": "white", "markeredgewidth": 0.4 * thick}
    axes.plot(
        curve.x,
        curve.y,
        curve.marker,
        color=curve.colour,
        markersize=4 * thick**0.5,
        zorder=4,
        **rim,
    )


def draw_paper(axes: "Axes", curve: Curve, thick: float) -> None:
    """Hollow points and a thin line."""
    axes.plot(
        *curve.means,
        marker=curve.marker,
        color=curve.colour,
        linewidth=0.5 * thick,
        markersize=4 * thick**0.5,
        markerfacecolor="white",
        markeredgewidth=0.8 * thick,
        zorder=2,
    )


def draw_fit(axes: "Axes", curve: Curve, fit: Fit, *, log: bool, thick: float) -> np.ndarray | None:
    """Draw a fit and its band about the curve's sizes; its heights, or None if there is none."""
    low, high = float(curve.x.min()), float(curve.x.max())
    if low == high and curve.beside is None:
        return None
    space = np.geomspace if log else np.linspace
    sizes = space(low / BEYOND, high * BEYOND, FINE)
    heights = predict(fit, curve.sizes(sizes))
    if heights is None:
        return None
    dashes = "--" if fit.identified else ":"
    axes.plot(sizes, heights, dashes, color=curve.colour, linewidth=0.7 * thick, zorder=2.5)
    interval = band(fit, curve.sizes(sizes))
    if interval is not None and np.all(np.isfinite(interval)):
        alpha = 0.15 if fit.identified else 0.06  # wide bands of several curves lie over each other
        axes.fill_between(sizes, *interval, color=curve.colour, alpha=alpha, linewidth=0, zorder=1)
    return heights


def limit(
    axes: "Axes", drawn: Sequence[Curve], fitted: Iterable[np.ndarray], *, scale: Scale
) -> None:
    """Axes about the points and some fitted curves; others and bands may go beyond."""
    if scale != "linear":
        axes.set_xscale("log")
    if scale == "loglog":
        axes.set_yscale("log")
    axes.minorticks_off()
    sizes = np.concatenate([curve.x for curve in drawn])
    losses = np.concatenate([*(curve.y for curve in drawn), *fitted])
    axes.set_xlim(_about(sizes, log=scale != "linear"))
    axes.set_ylim(_about(losses, log=scale == "loglog"))


def _about(values: np.ndarray, *, log: bool) -> tuple[float, float]:
    """Limits with a margin around values; around a single one, wide enough to have a scale."""
    low, high = float(values.min()), float(values.max())
    if log:
        span = np.log(high / low) or np.log(4.0)
        return low / np.exp(MARGIN * span), high * np.exp(MARGIN * span)
    span = high - low or 0.5 * abs(high) or 1.0
    return low - MARGIN * span, high + MARGIN * span


def dress(axes: "Axes", size: float) -> None:
    """Grid, spines and ticks, their labels of ``size`` points."""
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=size, length=3, pad=2)


def loss_ticks(low: float, high: float, *, log: bool) -> list[list[tuple[float, str]]]:
    """Sets of ticks of the losses: round steps where a logarithmic axis is short."""
    if log and high > 20 * low:
        return [*round_ticks(low, high), *even_ticks(low, high)]
    return [*even_ticks(low, high), *(round_ticks(low, high) if log else [])]
