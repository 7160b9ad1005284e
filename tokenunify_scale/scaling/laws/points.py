"""Points of scaling curves, and how they are read from a table."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenunify_scale.config import ConfigError, DataError, did_you_mean
from tokenunify_scale.scaling.laws.law import NAMES, Array

FLOPS_FACTOR = 6.0  # C = 6 N D (Kaplan et al. 2020)


@dataclass(frozen=True, kw_only=True)
class Points:
    """Runs of one curve.

    Raises:
        DataError: no points, or one that is not positive and finite.
    """

    x: Array
    """[n, k] size N, or size N and data D."""
    y: Array
    """[n] loss."""
    seed: tuple[str, ...] | None = None
    """Labels that pair the runs of one curve with those of another, where the table has them."""

    def __post_init__(self) -> None:
        """Refuse what has no logarithm."""
        x = np.asarray(self.x, dtype=np.float64)
        y = np.asarray(self.y, dtype=np.float64).ravel()
        object.__setattr__(self, "x", x.reshape(len(y), -1) if len(y) else x.reshape(0, 1))
        object.__setattr__(self, "y", y)
        if not len(y):
            raise DataError("a curve needs points, got none")
        if self.x.shape[1] not in NAMES:
            raise DataError(f"a law has one or two variables, got {self.x.shape[1]}")
        for row in np.column_stack([self.x, y]):
            if not np.all(np.isfinite(row)) or row.min() <= 0:
                raise DataError(f"points must be positive and finite, got {row.tolist()}")

    @property
    def sizes(self) -> Array:
        """Different sizes N, rising."""
        return np.unique(self.x[:, 0])


def read_points(
    path: Path | str,
    *,
    x: Sequence[str],
    y: str,
    group: str | None = None,
    flops: str | None = None,
    factor: float = FLOPS_FACTOR,
) -> dict[str, Points]:
    """Points of a CSV file by group; rows where x or y is empty are left out.

    Args:
        path: a CSV file with a header; spaces around names and numbers do not matter, nor does a
            byte order mark.
        x: one column, of the sizes, or two, of sizes and data.
        y: column of the losses.
        group: columns, joined by commas, whose values make one curve each; None for one curve.
        flops: column of the FLOPs C that stands in for data: D = C / (factor N).
        factor: FLOPs of training per parameter and unit of data.

    Raises:
        ConfigError: a column that the file does not have, or too many variables.
        DataError: the file is missing, a value is not a number, or not positive and finite.
    """
    path = Path(path)
    x = [x] if isinstance(x, str) else list(x)
    if len(x) + bool(flops) not in NAMES:
        raise ConfigError(f"x is {','.join(x)}: a law has N, or N and D (or N and --flops)")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    groups = [name.strip() for name in group.split(",")] if group else []
    numbers = [*x, *([flops] if flops else []), y]
    rows: dict[str, list[list[float]]] = {}
    seeds: dict[str, list[str]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file, skipinitialspace=True)
        columns = table.fieldnames = [name.strip() for name in table.fieldnames or []]
        for name in (*numbers, *groups):
            if name not in columns:
                raise ConfigError(f"{path} has no column {name!r}: {did_you_mean(name, columns)}")
        for number, row in enumerate(table, start=2):
            cells = [(row[name] or "").strip() for name in numbers]
            if not all(cells):
                continue
            curve = " ".join((row[name] or "").strip() for name in groups)
            rows.setdefault(curve, []).append(_numbers(cells, numbers, f"{path}, row {number}"))
            seeds.setdefault(curve, []).append((row.get("seed") or "").strip())
    result = {}
    for curve, values in rows.items():
        data = np.array(values)
        if flops:
            data[:, 1] /= factor * data[:, 0]
        labels = tuple(seeds[curve]) if "seed" in columns else None
        result[curve] = Points(x=data[:, :-1], y=data[:, -1], seed=labels)
    return result


def _numbers(cells: Sequence[str], names: Sequence[str], where: str) -> list[float]:
    """Numbers of cells, all positive and finite."""
    found = []
    for cell, name in zip(cells, names, strict=True):
        try:
            value = float(cell)
        except ValueError:
            raise DataError(f"{where}: {name} is {cell!r}, not a number") from None
        if not 0 < value < float("inf"):
            raise DataError(f"{where}: {name} is {cell}, expected a positive, finite number")
        found.append(value)
    return found
