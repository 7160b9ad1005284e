"""What the paper printed: the points of its Figure 6 and the rows of its tables."""

import csv
from functools import cache
from importlib.resources import files

import numpy as np

from tokenunify_scale.config import ConfigError, did_you_mean
from tokenunify_scale.scaling.laws.points import Points

PAPER = "TokenUnify (ICCV 2025)"
BACKBONES = ("mamba", "transformer")
UNITS = {"parameters": ("parameters", 1.0), "gmacs": ("gmacs", 1.0), "flops": ("gmacs", 2e9)}
"""Sizes that Figure 6 has, by our name: its column, and what to multiply it with."""


@cache
def facts(name: str) -> tuple[dict[str, str], ...]:
    """Lines of a file of the paper's numbers: scaling (Figure 6) or segmentation (the tables).

    Each line has its place in the paper in the column ``source``.
    """
    file = files("tokenunify_scale.scaling.pages") / "paper" / f"{name}.csv"
    return tuple(csv.DictReader(file.read_text().splitlines()))


def figure6(backbone: str, *, x: str = "parameters") -> dict[str, Points]:
    """Points (x, VOI in bits) of each initialisation in the paper's Figure 6, x rising.

    Args:
        backbone: mamba, which has three curves, or transformer, which has four.
        x: parameters, as the figure rounds them (100M to 1B), gmacs of one crop, or flops, twice
            that.

    Raises:
        ConfigError: another backbone, or another x.

    Source: Figure 6; four sizes, one value each.
    """
    if backbone not in BACKBONES:
        raise ConfigError(f"no backbone {backbone!r}: {did_you_mean(backbone, BACKBONES)}")
    if x not in UNITS:
        raise ConfigError(f"Figure 6 has no {x!r}: {did_you_mean(x, list(UNITS))}")
    column, unit = UNITS[x]
    pairs: dict[str, list[tuple[float, float]]] = {}
    for line in facts("scaling"):
        if line["backbone"] == backbone:
            pair = float(line[column]) * unit, float(line["voi"])
            pairs.setdefault(line["init"], []).append(pair)
    curves = {name: np.array(sorted(some)) for name, some in pairs.items()}
    return {name: Points(x=c[:, :1], y=c[:, 1], seed=None) for name, c in curves.items()}
