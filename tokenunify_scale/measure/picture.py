"""A picture of what a training step's time goes into."""

from collections.abc import Mapping
from pathlib import Path

# Okabe and Ito's colours, told apart by colour-blind readers; the scan and its convolution warm.
COLOURS = ("#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#999999")
WIDTH, BAR, AROUND, DPI = 7.2, 0.5, 1.35, 200  # inches
LEAST = 0.05  # of the longest bar: smaller parts have no label


def draw_breakdown(path: Path, steps: Mapping[str, Mapping[str, float]], *, title: str) -> None:
    """One stacked bar a precision, as long as the step, parts in the same order.

    Args:
        path: PNG file.
        steps: seconds by kind of work (eight at most), by name of the step.
        title: stands above.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, AROUND + BAR * len(steps)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    totals = {name: sum(parts.values()) for name, parts in steps.items()}
    longest = max(totals.values())
    start = dict.fromkeys(steps, 0.0)
    for kind, colour in zip(next(iter(steps.values())), COLOURS, strict=False):
        widths = [parts[kind] for parts in steps.values()]
        axes.barh(
            list(steps),
            widths,
            left=list(start.values()),
            height=0.7,
            color=colour,
            edgecolor="white",
            linewidth=0.6,
            label=kind,
        )
        for row, (name, width) in enumerate(zip(steps, widths, strict=True)):
            if width >= LEAST * longest:
                axes.text(
                    start[name] + width / 2,
                    row,
                    f"{width / totals[name]:.0%}",
                    fontsize=9,
                    ha="center",
                    va="center",
                    color="white" if colour in ("#0072B2", "#D55E00") else "black",
                )
            start[name] += width
    for row, total in enumerate(totals.values()):
        axes.text(total + longest * 0.01, row, f"{total:.3g} s", fontsize=9, va="center")
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.1)
    axes.set_xlabel("seconds", fontsize=9)
    axes.set_title(title, fontsize=11, loc="left")
    axes.tick_params(labelsize=10, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(
        loc="outside lower center",
        ncols=4,
        fontsize=9,
        frameon=False,
        handlelength=1.0,
        columnspacing=1.6,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
