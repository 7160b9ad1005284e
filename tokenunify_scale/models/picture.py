"""A picture of what networks cost: parameters against the work for each voxel they predict."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Okabe and Ito's colours, told apart by colour-blind readers, each with a shape of its own.
FAMILIES = {
    "emmamba": ("#0072B2", "o"),
    "unetr": ("#D55E00", "s"),
    "superhuman": ("#009E73", "^"),
    "pea": ("#CC79A7", "v"),
    "mala": ("#E69F00", "D"),
}


class Spot(NamedTuple):
    """One network."""

    name: str
    """As registered."""

    parameters: float
    """Of the network."""

    mac: float
    """Multiply-accumulates of a forward pass for each predicted voxel."""

    paper: tuple[float, float] | None = None
    """The same two as the paper prints them."""


def draw_costs(path: Path, spots: Sequence[Spot]) -> None:
    """One mark a network, and a ring where the paper has it.

    Args:
        path: PNG or SVG file.
        spots: at least one network.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), dpi=160, layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    labelled = set()
    for spot in spots:
        family, _, rest = spot.name.partition("_")
        colour, shape = FAMILIES.get(family, ("#999999", "x"))
        label = None if family in labelled else family
        labelled.add(family)
        axes.plot(spot.mac, spot.parameters, shape, color=colour, label=label, markersize=7)
        if spot.paper:
            axes.plot(*reversed(spot.paper), shape, color=colour, markersize=13, fillstyle="none")
        below = family == "unetr"
        axes.annotate(
            rest,  # a network that is alone in its family is named by the legend
            (spot.mac, spot.parameters),
            xytext=(9, -11) if below else (-9, 7),
            textcoords="offset points",
            ha="left" if below else "right",
            fontsize=8,
            color="#444444",
        )
    if any(spot.paper for spot in spots):
        axes.plot([], [], "o", color="#666666", markersize=13, fillstyle="none", label="Figure 6")
    axes.set_xlabel("multiply-accumulates for each predicted voxel, forward", fontsize=9)
    axes.set_ylabel("parameters", fontsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.margins(0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
