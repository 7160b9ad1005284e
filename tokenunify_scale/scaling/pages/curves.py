"""What a scaling figure shows, before it is drawn: curves, their colours, ticks and labels."""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenunify_scale.scaling.laws.points import Points

# Okabe and Ito's colours, told apart by colour-blind readers; markers differ for print in grey.
STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#333333", "D"),
    ("#CC79A7", "v"),
    ("#E69F00", "P"),
    ("#56B4E9", "X"),
    ("#882255", "<"),
)
INIT_STYLES = {"tokenunify": 0, "mae": 1, "autoregressive": 2, "random": 3}
# From dark to light, for a family of curves: cividis without its palest end.
SHADES = ("#00224E", "#2A3F6D", "#575C6D", "#7D7C78", "#A69D75", "#C9B35B")
FAMILY = len(SHADES)  # curves that a family has at most
READABLE = 4.5  # contrast of text on white, as the W3C asks of small print


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points that a line joins, and how it looks."""

    label: str
    group: str
    """Key of its fit."""
    x: NDArray[np.float64]
    """[n]"""
    y: NDArray[np.float64]
    """[n]"""
    colour: str
    marker: str
    beside: float | None = None
    """The second size of its points, or the mean of their logarithms; None where there is none."""

    @property
    def means(self) -> tuple[list[float], list[float]]:
        """Sizes rising, and the mean of y at each."""
        found: dict[float, list[float]] = {}
        for size, value in sorted(zip(self.x.tolist(), self.y.tolist(), strict=True)):
            found.setdefault(size, []).append(value)
        return list(found), [statistics.fmean(values) for values in found.values()]

    def sizes(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sizes as ``fit.predict`` takes them: [m], or [m, 2] where there is a second one."""
        return x if self.beside is None else np.stack([x, np.full_like(x, self.beside)], axis=1)


def curves(points: Mapping[str, Points], *, second: str = "D") -> list[Curve]:
    """A curve a group; of points with two sizes, a family of curves a group, one a second size.

    Second sizes that differ at nearly every point are put into a few classes of equal ratio.

    Args:
        points: of each group.
        second: what the second size is called in labels.
    """
    found: list[Curve] = []
    for (name, some), (colour, marker) in zip(points.items(), styles(list(points)), strict=True):
        look = {"group": name, "marker": marker}
        if some.x.shape[1] == 1:
            found.append(Curve(label=name, x=some.x[:, 0], y=some.y, colour=colour, **look))
            continue
        classes = _classes(some.x[:, 1])
        for number, (words, members) in enumerate(classes):
            alone = SHADES[number * (FAMILY - 1) // max(1, len(classes) - 1)]
            pale = 0.6 * (1 - (number + 1) / len(classes))
            label = f"{second} {words}"
            found.append(
                Curve(
                    label=f"{name}, {label}" if len(points) > 1 else label,
                    x=some.x[members, 0],
                    y=some.y[members],
                    colour=lighter(colour, pale) if len(points) > 1 else alone,
                    beside=float(np.exp(np.log(some.x[members, 1]).mean())),
                    **look,
                )
            )
    return found


def _classes(sizes: NDArray[np.float64]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Names and members of the second sizes, or of classes of equal ratio where they are many."""
    values = np.unique(sizes)
    if len(values) <= FAMILY:
        return [(short(value), sizes == value) for value in values]
    edges = np.geomspace(values[0], values[-1], FAMILY + 1)
    places = np.clip(np.searchsorted(edges, sizes, side="right"), 1, FAMILY)
    kept = [place for place in range(1, FAMILY + 1) if np.any(places == place)]
    return [(f"{short(edges[p - 1])} to {short(edges[p])}", places == p) for p in kept]


def styles(names: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and marker of each group; an initialisation has the same in every figure."""
    free = [n for n in range(len(STYLES)) if n not in [INIT_STYLES.get(name) for name in names]]
    rest = itertools.cycle(free or range(len(STYLES)))
    numbers = [INIT_STYLES[name] if name in INIT_STYLES else next(rest) for name in names]
    return [STYLES[number] for number in numbers]


def lighter(colour: str, share: float) -> str:
    """A colour #RRGGBB mixed with white; ``share`` 0 leaves it, 1 gives white."""
    return _mixed(colour, 255, share)


def ink(colour: str) -> str:
    """A colour darkened until text in it can be read on white."""
    for share in np.linspace(0, 1, 21):
        dark = _mixed(colour, 0, share)
        if contrast(dark) >= READABLE:
            return dark
    return "#000000"


def contrast(colour: str) -> float:
    """Contrast of a colour with white, 1 to 21, as WCAG 2 defines it."""
    parts = [level / 255 for level in _levels(colour)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 1.05 / (0.05 + sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))


def _levels(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def _mixed(colour: str, level: int, share: float) -> str:
    mixed = [round(own + (level - own) * share) for own in _levels(colour)]
    return "#" + "".join(f"{value:02X}" for value in mixed)


def short(number: float) -> str:
    """A number of three digits with k, M, G or T."""
    for unit, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= unit * 0.9995:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.3g}"


def size_ticks(
    sizes: Sequence[float], names: Mapping[float, str], *, log: bool
) -> list[list[tuple[float, str]]]:
    """Sets of (place, label) for the size axis, the most telling first: the first that fits is it.

    Args:
        sizes: of the points.
        names: what some sizes are called.
        log: whether the axis is logarithmic.
    """
    sizes = sorted(set(sizes))
    sets = [[(s, f"{names[s]}\n{short(s)}" if s in names else short(s)) for s in sizes]]
    if any(s in names for s in sizes):
        sets += [[(s, names.get(s, short(s))) for s in sizes], [(s, short(s)) for s in sizes]]
    if log:
        sets += round_ticks(sizes[0], sizes[-1])
    else:
        sets += even_ticks(0.0 if sizes[0] > 0 else sizes[0], sizes[-1])
    return [*sets, [(s, short(s)) for s in (sizes[0], sizes[-1])], [(sizes[-1], short(sizes[-1]))]]


def round_ticks(low: float, high: float) -> list[list[tuple[float, str]]]:
    """Sets of round numbers in [low, high] for a logarithmic axis, from many to few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    sets = []
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 4, 6, 8), (1, 2, 5), (1, 3), (1,)):
        values = [step * 10.0**decade for decade in decades for step in steps]
        sets.append([v for v in values if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)])
    whole = sets[-1]
    sets += [whole[::step] for step in range(2, len(whole))]
    return [[(v, short(v)) for v in values] for values in sets if len(values) > 1]


def even_ticks(low: float, high: float) -> list[list[tuple[float, str]]]:
    """Sets of evenly spaced round numbers in [low, high], from many to few."""
    span = high - low or abs(high) or 1.0
    sets: dict[float, list[float]] = {}
    for parts in (8, 6, 5, 4, 3, 2, 1):
        raw = span / parts
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * (1 - 1e-9))
        numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        sets[step] = [number * step for number in numbers]
    return [list(zip(v, _alike(v, step), strict=True)) for step, v in sets.items() if len(v) > 1]


def _alike(values: Iterable[float], step: float) -> list[str]:
    """Labels with as many decimals as the step between them needs."""
    values = list(values)
    if max(abs(value) for value in values) >= 1e4 or step < 1e-4:
        return [short(value) for value in values]
    decimals = next(d for d in range(7) if abs(step - round(step, d)) < 1e-3 * step)
    return [f"{value:.{decimals}f}" for value in values]


def spread(heights: Sequence[float], *, gap: float) -> list[float]:
    """Heights moved as little as keeps their order and sets them ``gap`` apart.

    Neighbours that are too near form a block around their common mean.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[tuple[float, list[int]]] = []
    for index in order:
        blocks.append((heights[index], [index]))
        while len(blocks) > 1:
            (below, first), (above, second) = blocks[-2:]
            if above - below >= gap * (len(first) + len(second)) / 2 - 1e-12:
                break
            joined = first + second
            blocks[-2:] = [(statistics.fmean(heights[i] for i in joined), joined)]
    placed = list(heights)
    for centre, members in blocks:
        for place, index in enumerate(members):
            placed[index] = centre + gap * (place - (len(members) - 1) / 2)
    return placed
