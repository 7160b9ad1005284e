"""Pictures of what a training step's time goes into, and of what grows with the patches."""

from collections.abc import Mapping, Sequence
from pathlib import Path

# Okabe and Ito's colours, told apart by colour-blind readers; the scan and its convolution warm.
COLOURS = ("#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#999999")
WIDTH, BAR, AROUND, DPI = 7.2, 0.5, 1.35, 200  # inches
LEAST = 0.05  # of the longest bar: smaller parts have no label
HEIGHT = 3.4  # inches
MARKERS = ("o", "s", "^", "D")
LINEAR, BITS = 0.1, (0, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
LINES = ("#0072B2", "#D55E00", "#E69F00", "#009E73")


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


def draw_noise(
    path: Path,
    curves: Mapping[str, Sequence[float]],
    *,
    shares: Sequence[float],
    worst: float,
    title: str,
) -> None:
    """Score against the share of wrong affinities, one line a way of segmenting.

    Args:
        path: PNG file.
        curves: by way (four at most): VOI in bits at each share.
        shares: of affinities that are flipped, in [0, 1].
        worst: VOI where everything is merged, a dashed line.
        title: stands above.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    percent = [100 * share for share in shares]
    for row, (way, values) in enumerate(curves.items()):
        axes.plot(
            percent,
            values,
            marker=MARKERS[row],
            color=LINES[row],
            linewidth=1.8,
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.8,
            label=way,
        )
    axes.axhline(worst, color="0.5", linewidth=1, linestyle="--", zorder=0)
    axes.text(percent[-1], 0.9 * worst, "everything merged", fontsize=9, ha="right", va="top")
    # Hundredths of a bit and several bits are both to be read, and 0.
    axes.set_yscale("symlog", linthresh=LINEAR)
    axes.set_ylim(0, 2 * worst)
    axes.set_yticks(BITS, [f"{value:g}" for value in BITS])
    axes.set_xticks(percent)
    axes.set_xlabel("affinities flipped, %", fontsize=9)
    axes.set_ylabel("VOI, bits", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_growth(
    path: Path,
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], float]]],
    *,
    counts: Sequence[int],
    label: str,
    title: str,
) -> None:
    """Two logarithmic axes a panel, one line for each way, its fitted exponent in the legend.

    Args:
        path: PNG file.
        panels: by what is on the vertical axis, and by way (four at most): the values at the
            counts, and the exponent fitted to them. The first way lies on top.
        counts: what it grows with.
        label: what they are, under each panel.
        title: stands above.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    for axes, (name, ways) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for row, (way, (values, exponent)) in enumerate(ways.items()):
            axes.plot(
                counts,
                values,
                marker=MARKERS[row],
                color=LINES[row],
                zorder=3 - 0.1 * row,
                linewidth=1.8,
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.8,
                label=f"{way}: $K^{{{exponent:.2f}}}$",
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(counts, [f"{count}" for count in counts])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(label, fontsize=9)
        axes.set_ylabel(name, fontsize=9)
        axes.tick_params(labelsize=9, which="both")
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=9, frameon=False, loc="upper left", handlelength=1.6)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
