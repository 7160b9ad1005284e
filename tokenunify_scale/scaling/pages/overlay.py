"""The paper's Figure 6 behind curves of our own: hollow, lighter, and named as what it is."""

from collections.abc import Sequence

from tokenunify_scale.scaling.pages.curves import Curve, ink, lighter, styles
from tokenunify_scale.scaling.pages.legend import Entry
from tokenunify_scale.scaling.pages.published import figure6

PALE = 0.45  # share of white in its colours
ELSEWHERE = (
    "Hollow: Figure 6 of the paper ({}), from another data set and another length of training: "
    "to look at, not to join with ours."
)


def paper_curves(backbone: str, own: Sequence[Curve], *, x: str) -> list[Curve]:
    """The curves of Figure 6, in lighter colours of what ours of the same name have.

    Args:
        backbone: mamba or transformer.
        own: our curves.
        x: which of Figure 6's sizes, as in ``published.figure6``.

    Raises:
        ConfigError: as ``published.figure6``.
    """
    points = figure6(backbone, x=x)
    looks = {curve.group: (curve.colour, curve.marker) for curve in own}
    rest = [name for name in points if name not in looks]
    looks |= dict(zip(rest, styles([*looks, *rest])[len(looks) :], strict=True))
    return [
        Curve(
            label=name,
            group=name,
            x=some.x[:, 0],
            y=some.y,
            colour=lighter(looks[name][0], PALE),
            marker=looks[name][1],
        )
        for name, some in points.items()
    ]


def paper_entries(others: Sequence[Curve], own: Sequence[Curve], paper: str | None) -> list[Entry]:
    """One legend entry for the paper's curves that ours name, one each for the rest."""
    named = {curve.group for curve in own}
    hollow = {"markerfacecolor": "white", "linewidth": 0.6, "markersize": 4}
    entries = []
    if any(curve.group in named for curve in others):
        handle = {"color": "#999999", "marker": "o", **hollow}
        entries.append(Entry(name=f"paper, {paper}", colour="#555555", end=None, handle=handle))
    for curve in others:
        if curve.group not in named:
            handle = {"color": curve.colour, "marker": curve.marker, **hollow}
            name = f"paper, {paper}, {curve.label}"
            entries.append(Entry(name=name, colour=ink(curve.colour), end=None, handle=handle))
    return entries
