"""The picture of a rollout: a crop as it was continued, and how the errors of all add up."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tokenunify_scale.objectives.growth import growth
from tokenunify_scale.objectives.rollout import Rollout, psnr
from tokenunify_scale.tokens.patches import expand_patches, patch_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Size3 = tuple[int, int, int]
WIDTH, LEFT, RIGHT, GAP = 7.2, 0.3, 0.06, 0.06  # inches
TITLE, NAMES, BETWEEN = 0.34, 0.2, 0.2  # inches: over all, over the images, under them
TALL, FOOT, ASIDE, APART, GUIDED = 2.6, 0.45, 0.55, 0.65, 0.4  # inches, of the two diagrams
TALLEST = 1.5  # of an xz cut, as a share of its width
DPI = 200
WORDS = "#444444"
HIDDEN = 0.82  # gray of what is not shown
SMOOTH = 15  # windows of the running mean that a curve has room for

# Okabe and Ito's colours, told apart by colour-blind readers; the lines differ in print as well.
METHODS = {
    "sequential": ("one after another", "#D55E00", "-"),
    "at_once": ("all at once", "#0072B2", "-"),
    "flat": ("mean of the prefix", "#777777", "--"),
}
GUIDES = {"K": lambda k: k, "\u221aK": np.sqrt, "log K": lambda k: 1 + np.log(k)}


def draw_rollout(
    path: Path,
    errors: Mapping[str, np.ndarray],
    *,
    truth: np.ndarray,
    whole: Rollout,
    patch: Size3,
    voxel_size: tuple[float, float, float] | None = None,
    title: str = "",
) -> None:
    """The first crop in a section and an xz cut, PSNR by position, the cumulative error.

    Args:
        path: PNG or SVG file.
        errors: for each method of ``METHODS`` [B, n], mean squares a voxel in visiting order.
        truth: the first crop, float [D, H, W] in [0, 1].
        whole: predictions; its first crop is drawn.
        patch: patch size (z, y, x) in voxels.
        voxel_size: (z, y, x) in nm, for the aspect of the images.
        title: one line over all.
    """
    from matplotlib.figure import Figure

    volumes, place = _volumes(truth, whole, patch=patch)
    side = (WIDTH - LEFT - RIGHT - GAP * (len(volumes) - 1)) / len(volumes)
    dz, dy, dx = (d * s for d, s in zip(voxel_size or (1, 1, 1), truth.shape, strict=True))
    talls = [side * dy / dx, side * min(dz / dx, TALLEST)]
    height = TITLE + NAMES + sum(talls) + GAP + BETWEEN + TALL + FOOT
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    figure.text(LEFT / WIDTH, 1 - 0.22 / height, title, fontsize=9.5, color=WORDS)
    bottom = height - TITLE - NAMES
    cuts = [("section", lambda v: v[place[0]]), ("xz cut", lambda v: v[:, place[1]])]
    for (name, cut), tall in zip(cuts, talls, strict=True):
        bottom -= tall
        for column, (label, volume) in enumerate(volumes.items()):
            axes = _axes(figure, LEFT + column * (side + GAP), bottom, side, tall)
            _show(axes, cut(volume))
            if name == "section":
                axes.set_title(label, fontsize=8.5, color=WORDS, pad=3)
            if column == 0:
                axes.set_ylabel(name, fontsize=8, color=WORDS)
        bottom -= GAP
    wide = (WIDTH - ASIDE - APART - GUIDED) / 2
    _draw_psnr(_axes(figure, ASIDE, FOOT, wide, TALL), errors)
    _draw_growth(_axes(figure, ASIDE + wide + APART, FOOT, wide, TALL), errors)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _volumes(
    truth: np.ndarray, whole: Rollout, *, patch: Size3
) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
    """What the columns show of the first crop, and where to cut it (z, y).

    The section is among the first that are predicted, the xz cut amid what is.
    """
    positions = whole.positions[0]
    grid = patch_grid(truth.shape, patch=patch)
    predicted = torch.zeros(1, int(np.prod(grid)), dtype=torch.bool)
    predicted[0, positions] = True
    hidden = expand_patches(predicted, crop=truth.shape, patch=patch)[0, 0].numpy()
    places = np.unravel_index(positions.numpy(), grid)
    z, y = places[0][0], places[1][len(positions) // 2]
    volumes = {
        "truth": truth,
        "shown": np.where(hidden, np.nan, truth),
        METHODS["sequential"][0]: whole.sequential[0, 0].numpy(),
        METHODS["at_once"][0]: whole.at_once[0, 0].numpy(),
    }
    return volumes, (int(z) * patch[0] + patch[0] // 2, int(y) * patch[1] + patch[1] // 2)


def _axes(figure: "Figure", left: float, bottom: float, wide: float, tall: float) -> "Axes":
    """Axes at a place in inches."""
    total_wide, total_tall = figure.get_size_inches()
    place = (left / total_wide, bottom / total_tall, wide / total_wide, tall / total_tall)
    return figure.add_axes(place)


def _show(axes: "Axes", image: np.ndarray) -> None:
    axes.set_facecolor(str(HIDDEN))
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_psnr(axes: "Axes", errors: Mapping[str, np.ndarray]) -> None:
    """PSNR of the mean error at each position, and its running mean."""
    for name, (label, colour, dashes) in METHODS.items():
        mean = errors[name].mean(0)
        k = np.arange(1, len(mean) + 1)
        axes.plot(k, psnr(mean), color=colour, linewidth=0.6, alpha=0.35)
        window = max(len(mean) // SMOOTH, 1)
        smooth = np.convolve(mean, np.ones(window) / window, mode="valid")
        middle = k[: len(smooth)] + (window - 1) / 2
        axes.plot(middle, psnr(smooth), dashes, color=colour, linewidth=1.8, label=label)
    axes.set_xlabel("position behind the prefix, in patches", fontsize=8.5)
    axes.set_ylabel("PSNR (dB)", fontsize=8.5)
    axes.legend(fontsize=7.5, frameon=False)
    _tidy(axes)


def _draw_growth(axes: "Axes", errors: Mapping[str, np.ndarray]) -> None:
    """Cumulative error on logarithmic axes with the fitted powers, and what theory promises."""
    k = np.arange(1, errors["at_once"].shape[1] + 1)
    axes.set_xscale("log")
    if any(error.any() for error in errors.values()):
        axes.set_yscale("log")
    for name, (label, colour, dashes) in METHODS.items():
        curve = errors[name].mean(0).cumsum()
        power = _power(growth(errors[name]))
        axes.plot(k, curve, dashes, color=colour, linewidth=1.8, label=f"{label}: {power}")
    start = errors["at_once"].mean(0).cumsum()[0]
    for name, guide in GUIDES.items():
        line = start * guide(k)
        axes.plot(k, line, color="0.75", linewidth=0.8, zorder=1)
        axes.annotate(
            name,
            (k[-1], line[-1]),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=7,
            color="0.5",
            va="center",
            annotation_clip=False,
        )
    axes.set_ylim(top=axes.get_ylim()[1] * 4)  # room for the legend
    axes.set_xlabel("K, patches predicted", fontsize=8.5)
    axes.set_ylabel("cumulative squared error", fontsize=8.5)
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    _tidy(axes)


def _power(fit: tuple[float, float, float]) -> str:
    """A fitted power with its interval, as far as they are known."""
    exponent, low, high = fit
    if not np.isfinite(exponent):
        return "no error"
    interval = f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else ""
    return f"K$^{{{exponent:.2f}}}${interval}"


def _tidy(axes: "Axes") -> None:
    axes.tick_params(labelsize=7.5)
    axes.grid(color="0.92", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
