"""OME-NGFF multiscales: which arrays are the levels of a volume, their axes and voxel sizes.

Versions 0.1 to 0.4 keep them in ``.zattrs``, 0.5 under ``ome`` in ``zarr.json``.
"""

import math
from dataclasses import dataclass
from typing import Any

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.level import voxel_size

OLD_AXES = ("t", "c", "z", "y", "x")
"""What versions 0.1 and 0.2, which name no axes, always store."""


@dataclass(frozen=True)
class Scale:
    """One level of a multiscale volume."""

    path: str
    """Of the array, in the group."""
    axes: tuple[str, ...]
    """Names in the stored order."""
    voxel_size: tuple[float, float, float] | None
    """nm (z, y, x)."""


def multiscale(attributes: dict[str, Any], *, place: str) -> list[Scale]:
    """The levels that a group's attributes tell of its first multiscale volume, finest first.

    Args:
        attributes: of the group.
        place: for messages.

    Returns:
        As the group lists them; empty where it is no multiscale group.

    Raises:
        DataError: there is a list of multiscales that cannot be understood.
    """
    found = attributes.get("ome", attributes)
    found = found.get("multiscales") if isinstance(found, dict) else None
    if not found:
        return []
    try:
        names, units = _axes(found[0])
        shared = _scale(found[0], len(names))
        scales = []
        for dataset in found[0]["datasets"]:
            sizes = [a * b for a, b in zip(_scale(dataset, len(names)), shared, strict=True)]
            sides = voxel_size(names, sizes, units=units)
            scales.append(Scale(str(dataset["path"]).strip("/"), names, sides))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        wrong = f"{type(error).__name__}: {error}"
        raise DataError(f"{place}: its OME multiscales cannot be understood ({wrong})") from error
    return scales


def choose(paths: list[str], word: str) -> str | None:
    """The path that a word means: the path itself, or its place in the list, 0 the finest."""
    if word in paths:
        return word
    return paths[int(word)] if word.isdecimal() and int(word) < len(paths) else None


def _axes(entry: dict[str, Any]) -> tuple[tuple[str, ...], list[Any]]:
    """Names of the axes, space as z, y, x; and their units, None where not told."""
    told = entry.get("axes")
    if told is None:
        return OLD_AXES, [None] * len(OLD_AXES)
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in told]
    names = [str(axis["name"]).lower() for axis in axes]
    space = [at for at, axis in enumerate(axes) if axis.get("type") == "space"]
    if len(space) == 3 and {names[at] for at in space} != {"z", "y", "x"}:
        for at, name in zip(space, "zyx", strict=True):
            names[at] = name
    return tuple(names), [axis.get("unit") for axis in axes]


def _scale(entry: dict[str, Any], count: int) -> list[float]:
    """The product of an entry's scale transformations."""
    product = [1.0] * count
    for step in entry.get("coordinateTransformations") or []:
        if step.get("type") == "scale" and "scale" in step:
            pairs = zip(product, step["scale"], strict=True)
            product = [a * float(b) for a, b in pairs]
    if not all(math.isfinite(size) for size in product):
        raise ValueError(f"scale {product}")
    return product
