"""One array of a volume in chunks, as its metadata tells it, before anything is opened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenunify_scale.volumes.geometry import NANOMETRES
from tokenunify_scale.volumes.store import is_remote, join, local_path

FOLDERS = 500
"""How many local folders are looked into to say what a container holds."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """What is needed to open an array and to put its axes in order."""

    driver: str
    """tensorstore's name of the format."""
    url: str
    """Of the array; of the whole volume for precomputed."""
    axes: tuple[str, ...]
    """Names in the stored order, the slowest first for Zarr and the fastest first for N5."""
    voxel_size: tuple[float, float, float] | None
    """nm (z, y, x)."""
    attributes: dict[str, Any]
    """Facts for ``Volume.attributes``."""
    options: dict[str, Any] = field(default_factory=dict)
    """More members of tensorstore's spec."""


def axes_of(count: int) -> tuple[str, ...]:
    """Names for ``count`` axes that have none, slowest first: the last three are z, y, x."""
    return (*(f"number {axis}" for axis in range(count - 3)), *"zyx"[max(3 - count, 0) :])


def voxel_size(axes: Sequence[str], sizes: Any, *, units: Any) -> tuple[float, float, float] | None:
    """Sides of a voxel (z, y, x) in nm.

    Args:
        axes: names, in the order of ``sizes``.
        sizes: numbers, one an axis, as metadata has them.
        units: names, one an axis, or one for all.

    Returns:
        None where an axis, a number or a known unit is missing.
    """
    words = [units] * len(axes) if isinstance(units, str) else units
    try:
        sides = {
            axis: float(size) * NANOMETRES[unit if unit in NANOMETRES else unit.lower()]
            for axis, size, unit in zip(axes, sizes, words, strict=True)
            if axis in ("z", "y", "x")
        }
        z, y, x = sides["z"], sides["y"], sides["x"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return (z, y, x) if all(0 < side < float("inf") for side in (z, y, x)) else None


def transform_of(attributes: dict[str, Any]) -> tuple[tuple[str, ...], Any, Any] | None:
    """Axes, scale and units of the ``transform`` that CellMap's volumes carry, slowest first."""
    found = attributes.get("transform")
    if not isinstance(found, dict) or not isinstance(found.get("axes"), list):
        return None
    turn = -1 if found.get("ordering") == "F" else 1
    lists = [found.get(key) for key in ("axes", "scale", "units")]
    axes, scale, units = (
        tuple(values)[::turn] if isinstance(values, list) else () for values in lists
    )
    return tuple(str(axis).lower() for axis in axes), scale, units


def find_below(url: str, is_volume: Callable[[str], bool]) -> list[str]:
    """Paths of the volumes in a local container, breadth first; none are known of a remote one.

    Args:
        url: of the container.
        is_volume: whether the folder of this URL is a volume, which is not looked into further.
    """
    if is_remote(url) or not local_path(url).is_dir():
        return []
    found, waiting, seen = [], [""], 0
    while waiting and seen < FOLDERS:
        path, seen = waiting.pop(0), seen + 1
        if path and is_volume(join(url, path)):
            found.append(path)
            continue
        folder = local_path(join(url, path))
        names = sorted(item.name for item in folder.iterdir() if item.is_dir())
        waiting += [f"{path}/{name}".lstrip("/") for name in names if not name.startswith(".")]
    return found


def holding(paths: Sequence[str]) -> str:
    """The end of a sentence that says what a container holds."""
    shown = ", ".join(paths[:12]) + (", ..." if len(paths) > 12 else "")
    return f"; it holds {shown}" if paths else ""
