"""N5: find the array that a user means, its axes and its voxel size.

N5 stores the fastest axis first: ``dimensions`` and all lists beside it are x, y, z, whatever the
program that wrote them called its axes, unless ``axes`` names them. A program of numpy that
writes [z, y, x] arrays, as z5py and zarr do, writes them reversed, so reversing gives zyx again.
"""

from typing import Any

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.address import Address, parents
from tokenunify_scale.volumes.level import (
    Level,
    axes_of,
    find_below,
    holding,
    transform_of,
    voxel_size,
)
from tokenunify_scale.volumes.ngff import choose
from tokenunify_scale.volumes.store import exists, is_remote, join, read_json
from tokenunify_scale.volumes.volume import VOXEL_SIZE_KEYS

Sides = tuple[float, float, float] | None


def find_n5(address: Address) -> Level:
    """The array that an address means: itself, the finest level of a group, or the only one.

    Args:
        address: its dataset may be an array, a group, or the number of a level in the group.

    Raises:
        DataError: nothing there, several arrays and no name, or metadata that make no sense.
    """
    path = address.dataset
    facts = _read(join(address.url, path))
    if facts is None and path:
        path = _by_level(address.url, path) or path
        facts = _read(join(address.url, path))
    if facts is not None and "dimensions" not in facts:
        path = f"{path}/{_inside(join(address.url, path), facts)}".strip("/")
        facts = _read(join(address.url, path))
    if facts is None or "dimensions" not in facts:
        there = find_below(address.url, _is_volume)
        wanted = f"no N5 array {path!r}" if path else "no attributes.json that can be read"
        raise DataError(f"{address.url}: {wanted}{holding(there)}")
    url = join(address.url, path)
    if facts.get("isLabelMultiset"):
        raise DataError(f"{url}: label multisets of Paintera, export them as one label a voxel")
    axes, sides = _geometry(facts, address.url, path)
    return Level(
        driver="n5",
        url=url,
        axes=axes,
        voxel_size=sides,
        attributes={"format": "n5", "dataset": path},
    )


def _read(url: str) -> dict[str, Any] | None:
    """The attributes of a folder; a group need not have any."""
    found = read_json(join(url, "attributes.json"))
    group = join(url, "s0/attributes.json") if is_remote(url) else url
    return {} if found is None and exists(group) else found


def _levels(url: str, facts: dict[str, Any]) -> list[str]:
    """Paths of a group's levels, finest first, as far as they are told."""
    told = facts.get("multiscales")
    if isinstance(told, list) and told and isinstance(told[0], dict):
        entries = [entry for entry in told[0].get("datasets") or [] if isinstance(entry, dict)]
        return [str(entry["path"]).strip("/") for entry in entries if "path" in entry]
    steps = facts.get("downsamplingFactors") or facts.get("scales")
    if isinstance(steps, list) and steps and isinstance(steps[0], list):
        return [f"s{number}" for number in range(len(steps))]
    levels: list[str] = []
    while exists(join(url, f"s{len(levels)}/attributes.json")):
        levels.append(f"s{len(levels)}")
    return levels


def _inside(url: str, facts: dict[str, Any]) -> str:
    """Path, in a group, of the array to open where the group itself was named."""
    # Paintera keeps the levels of a source in a group of their own.
    for head in ("data/", "") if "painteraData" in facts else ("",):
        if levels := _levels(join(url, head), facts if not head else {}):
            return head + levels[0]
    paths = find_below(url, _is_volume)
    if len(paths) != 1:
        raise DataError(f"{url}: a group, name an array in it, as in :raw{holding(paths)}")
    inner = join(url, paths[0])
    found = _read(inner) or {}
    return paths[0] if "dimensions" in found else f"{paths[0]}/{_inside(inner, found)}"


def _by_level(url: str, path: str) -> str | None:
    """A path whose last word is the number of a level, as the path of its array."""
    head, _, word = path.rpartition("/")
    group = join(url, head)
    levels = _levels(group, _read(group) or {})
    chosen = choose(levels, word)
    if chosen is None and levels:
        raise DataError(f"{group}: no array or level {word!r}{holding(levels)}")
    return chosen and f"{head}/{chosen}".strip("/")


def _is_volume(url: str) -> bool:
    """Whether a folder is an array, or a group of levels."""
    facts = _read(url)
    return facts is not None and ("dimensions" in facts or bool(_levels(url, facts)))


def _geometry(facts: dict[str, Any], root: str, path: str) -> tuple[tuple[str, ...], Sides]:
    """Axes in the stored order, and the voxel size, of an array with these attributes."""
    count = len(facts["dimensions"])
    above = [(_read(url) or {}, inner) for url, inner in parents(root, path)]
    named = next((f["axes"] for f in (facts, *(f for f, _ in above)) if f.get("axes")), None)
    axes = axes_of(count)[::-1]
    if isinstance(named, list) and len(named) == count:
        axes = tuple(str(name).lower() for name in named)
    for transform in (transform_of(facts), *(_transform(f, inner) for f, inner in above)):
        # CellMap lists the slowest axis first here, against the rule of the file.
        if transform and len(transform[0]) == count:
            names, scale, units = transform
            return names[::-1], voxel_size(names, scale, units=units)
    for told, inner in ((facts, ""), *above):
        if found := _resolution(told):
            sizes, units = found
            factors = _factors(facts, told, inner, count=count)
            scaled = [a * b for a, b in zip(sizes, factors or [], strict=False)]
            return axes, voxel_size(axes[: len(scaled)], scaled, units=units)
    return axes, None


def _transform(group: dict[str, Any], path: str) -> Any:
    """The transform that a group's multiscales tell of one of its arrays."""
    told = group.get("multiscales")
    entries = told[0].get("datasets") or [] if isinstance(told, list) and told else []
    found = (entry for entry in entries if str(entry.get("path")).strip("/") == path)
    return transform_of(next(found, {}))


def _resolution(facts: dict[str, Any]) -> tuple[list[float], Any] | None:
    """Sizes along the stored axes, and their units, that attributes tell."""
    pixel = facts.get("pixelResolution")
    sizes = next((facts[key] for key in VOXEL_SIZE_KEYS if key in facts), None)
    units = facts.get("units") or "nm"
    if isinstance(pixel, dict):
        sizes, units = pixel.get("dimensions"), pixel.get("unit")
    try:
        return [float(size) for size in sizes], units
    except (TypeError, ValueError):
        return None


def _factors(
    facts: dict[str, Any], told: dict[str, Any], path: str, *, count: int
) -> list[float] | None:
    """How many voxels of the finest level one of this array's is, along the stored axes."""
    steps = told.get("downsamplingFactors") or told.get("scales") if told is not facts else None
    number = path[1:] if path[:1] == "s" else path
    if isinstance(steps, list) and number.isdecimal() and int(number) < len(steps):
        return steps[int(number)]
    own = facts.get("downsamplingFactors")
    if own is None and (told is facts or number in ("", "0")):
        return [1.0] * count
    return own
