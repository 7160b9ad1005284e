"""A curriculum made visible before it is trained with: a chart for the terminal, and a picture."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tokenunify_scale.config import Named
from tokenunify_scale.objectives.curriculum import ROUNDING, Mode, Sampled, Weights
from tokenunify_scale.objectives.tokenunify import restricted
from tokenunify_scale.registry import CURRICULA

# Okabe and Ito's colours, told apart by colour-blind readers; the letters are those of the chart.
TERMS = {"random": ("r", "#0072B2"), "next": ("n", "#D55E00"), "next_all": ("a", "#009E73")}
ALL: tuple[Mode, ...] = Weights._fields
BAR = 40  # letters
MOST_CHANGES = 6  # shown by rows of their own, each with the one before; more fill the screen
SHOWN = 1000  # steps at most that are looked at for a mean or a line
TICKS = 240  # drawn steps below a panel
STRIPE = 20  # points of a stripe, where curves run together
JUMP = 0.02  # of a weight between two points: a change of phase, not joined by a line


def schedule_text(
    curriculum: Named, *, steps: int, seed: int, terms: Sequence[Mode] = ALL
) -> list[str]:
    """Lines of a chart of the weights over training, in 80 columns.

    A row every tenth of training, and two where another term takes the lead: 1 % before and there.
    Of a sampled curriculum the rows have the probabilities; one more line has what is drawn.

    Args:
        curriculum: name and options.
        steps: length of the training.
        seed: of the run.
        terms: what is learned; the weights are those that these have of it.

    Returns:
        ASCII lines. Those of a row have the three weights, and a bar of their shares.

    Raises:
        ConfigError: unknown curriculum, or one that has steps without any of the terms.
    """
    legend = ", ".join(f"{letter} {name}" for name, (letter, _) in TERMS.items() if name in terms)
    expected, run = _expectation(curriculum), {"seed": seed, "terms": terms}
    source = "" if expected is curriculum else f" from {expected.name}"
    lines = [
        f"{curriculum.name}{source} over {steps} steps ({legend})",
        "",  # which also makes YAML give every line a row of its own
        "at   " + "".join(f"{name:>9}" for name in TERMS),
    ]
    for progress in _rows(expected, terms=terms):
        weights = weights_of(expected, progress=progress, **run)
        lines.append(f"{progress:.2f} {_numbers(weights)}  {_bar(weights)}")
    seen = [weights_of(expected, progress=at, **run) for at in _sample(steps, count=SHOWN)]
    mean = Weights(*(sum(column) / len(seen) for column in zip(*seen, strict=True)))
    lines.append(f"mean {_numbers(mean)}")
    if expected is not curriculum:
        drawn = _sample(steps, count=BAR + 28)  # as wide as a row
        names = (_leader(weights_of(curriculum, progress=at, **run)) for at in drawn)
        lines.append("drew  " + "".join(TERMS[name][0] for name in names))
    return lines


def weights_of(
    curriculum: Named, *, progress: float, seed: int, terms: Sequence[Mode] = ALL
) -> Weights:
    """The weights that a named curriculum gives some terms at ``progress`` in [0, 1].

    Raises:
        ConfigError: unknown curriculum, or one that gives none of the terms a weight here.
    """
    factory = CURRICULA.get(curriculum.name).factory
    return restricted(factory(curriculum.options, progress=progress, seed=seed), terms)


def draw_schedules(
    path: Path,
    curricula: Mapping[str, Named],
    *,
    steps: int,
    seed: int,
    terms: Sequence[Mode] = ALL,
) -> None:
    """One panel a curriculum, with the weights of the terms over training.

    Below a sampled curriculum's probabilities stand the terms of single steps, in three lanes.

    Args:
        path: PNG or SVG file.
        curricula: one at least, by the title of its panel.
        steps: length of the training.
        seed: of the run.
        terms: what is learned; others are not drawn.

    Raises:
        ConfigError: as ``schedule_text``.
    """
    from matplotlib.figure import Figure

    columns = min(2, len(curricula))
    rows = -(-len(curricula) // columns)
    figure = Figure(figsize=(4.1 * columns, 0.2 + 2.2 * rows), dpi=160, layout="constrained")
    for place, (title, curriculum) in enumerate(curricula.items(), start=1):
        panel = figure.add_subplot(rows, columns, place)
        run = {"steps": steps, "seed": seed, "terms": terms}
        lowest = _draw_lanes(panel, curriculum, **run)
        highest = _draw_weights(panel, _expectation(curriculum), **run)
        panel.set_title(title, fontsize=10, loc="left")
        panel.set_xlim(0, 1)
        panel.set_ylim(lowest - 0.04, 1.04 * highest)
        panel.set_xlabel("share of training", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_weights(
    panel: Any, curriculum: Named, *, steps: int, seed: int, terms: Sequence[Mode]
) -> float:
    """A labelled curve a term; the height that they need."""
    at = np.linspace(0, 1, SHOWN + 1)
    taken = np.floor(at * steps + ROUNDING) / steps  # a weight holds for a step
    names = [name for name in ALL if name in terms]
    weights = [weights_of(curriculum, progress=float(t), seed=seed, terms=terms) for t in taken]
    curves = np.array([[getattr(one, name) for one in weights] for name in names], dtype=float)
    highest = max(1.0, float(curves.max()))
    stripe = np.arange(len(at)) // STRIPE % len(names)
    heights = _spread(curves[:, -1], gap=0.13 * highest)
    for index, (name, height) in enumerate(zip(names, heights, strict=True)):
        colour, line = TERMS[name][1], curves[index].copy()
        # Of curves that run together all are seen: the later ones leave the first its stripes.
        hidden = np.isclose(curves[:index], line, atol=0.01).any(0) & (stripe != index)
        jumps = np.abs(np.diff(line, prepend=line[0])) > JUMP
        line[hidden | jumps] = np.nan
        panel.plot(at, line, color=colour, linewidth=2.2, solid_capstyle="butt")
        panel.text(1.03, height, name, color=colour, fontsize=8, va="center")
    panel.set_yticks(np.linspace(0, highest, 5))
    panel.spines["left"].set_bounds(0, highest)
    return highest


def _draw_lanes(
    panel: Any, curriculum: Named, *, steps: int, seed: int, terms: Sequence[Mode]
) -> float:
    """Lanes of the terms that single steps draw, if any; how far below 0 they reach."""
    if curriculum is _expectation(curriculum):
        return 0.0
    for at in _sample(steps, count=TICKS):
        name = _leader(weights_of(curriculum, progress=at, seed=seed, terms=terms))
        lane = -0.12 - 0.09 * list(TERMS).index(name)
        panel.vlines(at, lane, lane + 0.07, color=TERMS[name][1], linewidth=0.9)
    return -0.3


def _spread(heights: np.ndarray, *, gap: float) -> list[float]:
    """Heights of the labels: each near its curve's end, ``gap`` from the next one."""
    order = np.argsort(heights, kind="stable")
    placed = heights.copy()
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    placed += heights.mean() - placed.mean()  # none far from its curve
    return placed.tolist()


def _expectation(curriculum: Named) -> Named:
    """The curriculum itself, or the one that gives a sampled one its probabilities."""
    while isinstance(curriculum.options, Sampled):
        curriculum = curriculum.options.probabilities
    return curriculum


def _sample(steps: int, *, count: int) -> list[float]:
    """Progress at ``count`` steps of a training, or at all if it has fewer."""
    count = min(steps, count)
    return [index * steps // count / steps for index in range(count)]


def _rows(curriculum: Named, *, terms: Sequence[Mode]) -> list[float]:
    """Tenths, and both sides of each change of the leading term, in hundredths."""
    grid = [index / 100 for index in range(101)]
    leaders = {at: _leader(weights_of(curriculum, progress=at, seed=0, terms=terms)) for at in grid}
    changes = [pair for pair in pairwise(grid) if leaders[pair[0]] != leaders[pair[1]]]
    sides = changes if len(changes) <= MOST_CHANGES else []
    return sorted({*grid[::10], *(at for pair in sides for at in pair)})


def _leader(weights: Weights) -> str:
    return max(Weights._fields, key=lambda name: getattr(weights, name))


def _numbers(weights: Weights) -> str:
    return "".join(f"{weight:9.3f}" for weight in weights)


def _bar(weights: Weights) -> str:
    """As many letters of each term as its share asks for; the ends are rounded, not the parts."""
    ends = [0, *(round(BAR * end / sum(weights)) for end in accumulate(weights))]
    letters = (letter for letter, _ in TERMS.values())
    return "".join(
        letter * (end - start) for letter, (start, end) in zip(letters, pairwise(ends), strict=True)
    )
