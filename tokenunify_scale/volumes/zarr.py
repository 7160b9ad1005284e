"""Zarr v2 and v3: find the array that a user means, its axes and its voxel size."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

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
from tokenunify_scale.volumes.ngff import Scale, choose, multiscale
from tokenunify_scale.volumes.store import exists, is_remote, join, local_path, read_json
from tokenunify_scale.volumes.volume import voxel_size_of

WRITER = ("written_by", "tokenunify_scale")
"""Attribute of the arrays that this package writes."""


@dataclass(frozen=True)
class Node:
    """An array or a group, as its metadata tells it."""

    url: str
    kind: Literal["array", "group", "nothing"]
    version: int = 0
    """2 or 3."""
    metadata: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


Reader = Callable[[str], Node]


def find_zarr(address: Address) -> Level:
    """The array that an address means: itself, the finest level of a group, or the only one.

    Args:
        address: its dataset may be an array, a group, or a level of the group above it, by name
            or by number.

    Raises:
        DataError: nothing there, several arrays and no name, or metadata that make no sense.
    """
    version = {"zarr2": 2, "zarr3": 3}.get(address.kind or "")
    # Groups are asked for twice, and hosts are far away.
    read = functools.cache(functools.partial(read_node, version=version))
    path = address.dataset
    node = read(join(address.url, path))
    if node.kind == "nothing" and path:
        path = _by_level(address.url, path, read=read) or path
        node = read(join(address.url, path))
    if node.kind == "group":
        path = f"{path}/{_inside(node, read=read)}".strip("/")
        node = read(join(address.url, path))
    if node.kind != "array":
        wanted = f"no Zarr array {path!r}" if path else "no Zarr metadata that can be read"
        there = find_below(address.url, lambda url: _is_volume(read(url)))
        raise DataError(f"{address.url}: {wanted}{holding(there)}")
    above = [(read(url), inner) for url, inner in parents(address.url, path)]
    return _level(node, path, above=above)


def read_node(url: str, *, version: int | None = None) -> Node:
    """What lies at a URL.

    Args:
        url: of a folder.
        version: 2 or 3; None takes what there is.

    Raises:
        DataError: metadata that are not JSON, or the host fails.
    """
    if version != 2 and (found := read_json(join(url, "zarr.json"))) is not None:
        kind = "array" if found.get("node_type") == "array" else "group"
        attributes = found.get("attributes")
        return Node(url, kind, 3, found, attributes if isinstance(attributes, dict) else {})
    if version == 3:
        return Node(url, "nothing")
    found = read_json(join(url, ".zarray"))
    attributes = read_json(join(url, ".zattrs"))
    if found is not None:
        return Node(url, "array", 2, found, attributes or {})
    group = read_json(join(url, ".zgroup")) if attributes is None else {}
    kind = "nothing" if group is None else "group"
    return Node(url, kind, 2, group or {}, attributes or {})


def _inside(group: Node, *, read: Reader) -> str:
    """Path, in a group, of the array to open where the group itself was named."""
    if scales := multiscale(group.attributes, place=group.url):
        return scales[0].path
    paths = _consolidated(group)
    paths = paths or find_below(group.url, lambda url: _is_volume(read(url)))
    if len(paths) != 1:
        raise DataError(f"{group.url}: a group, name an array in it, as in :raw{holding(paths)}")
    inner = read(join(group.url, paths[0]))
    scales = multiscale(inner.attributes, place=inner.url) if inner.kind == "group" else []
    return f"{paths[0]}/{scales[0].path}" if scales else paths[0]


def _by_level(url: str, path: str, *, read: Reader) -> str | None:
    """A path whose last word is the number of a level, as the path of its array."""
    head, _, word = path.rpartition("/")
    group = read(join(url, head))
    levels = [scale.path for scale in multiscale(group.attributes, place=group.url)]
    chosen = choose(levels, word)
    if chosen is None and levels:
        raise DataError(f"{group.url}: no array or level {word!r}{holding(levels)}")
    return chosen and f"{head}/{chosen}".strip("/")


def _is_volume(node: Node) -> bool:
    """Whether a node is an array, or a group of levels."""
    return node.kind == "array" or bool(multiscale(node.attributes, place=node.url))


def _consolidated(group: Node) -> list[str]:
    """Paths of the volumes in a group that keeps all its metadata in one place."""
    if group.version == 3:
        held = (group.metadata.get("consolidated_metadata") or {}).get("metadata") or {}
        arrays = [path for path, node in held.items() if node.get("node_type") == "array"]
        told = {path: node.get("attributes") or {} for path, node in held.items()}
    else:
        held = (read_json(join(group.url, ".zmetadata")) or {}).get("metadata") or {}
        arrays = [path[: -len("/.zarray")] for path in held if path.endswith("/.zarray")]
        told = {path[:-8]: held[path] for path in held if path.endswith("/.zattrs")}
    groups = [path for path, attributes in told.items() if multiscale(attributes, place=group.url)]
    alone = [path for path in arrays if not any(path.startswith(f"{g}/") for g in groups)]
    return sorted({*groups, *alone})


def _level(node: Node, path: str, *, above: list[tuple[Node, str]]) -> Level:
    """An array's level: axes and voxel size from the groups above it, or from itself."""
    shape, chunks = node.metadata.get("shape"), node.metadata.get("chunks", [1])
    if not isinstance(shape, list) or not isinstance(chunks, list):
        raise DataError(f"{node.url}: its metadata give no shape")
    count = len(shape)
    axes, sides = _told(node, [group for group, _ in above], count=count)
    for group, inner in above:
        scales: list[Scale] = multiscale(group.attributes, place=group.url)
        if scale := next((scale for scale in scales if scale.path == inner), None):
            axes, sides = scale.axes, scale.voxel_size
            break
    if len(axes) != count:
        raise DataError(f"{node.url}: {count} axes in the array, {len(axes)} in the metadata")
    return Level(
        driver="zarr3" if node.version == 3 else "zarr",
        url=node.url,
        axes=axes,
        voxel_size=sides,
        attributes={**_own(node), "format": f"zarr v{node.version}", "dataset": path},
        options={} if node.version == 3 else _separator(node),
    )


def _own(node: Node) -> dict[str, Any]:
    """Attributes of an array of ours; what ``offset`` and others mean elsewhere differs."""
    return node.attributes if node.attributes.get(WRITER[0]) == WRITER[1] else {}


def _told(
    node: Node, groups: list[Node], *, count: int
) -> tuple[tuple[str, ...], tuple[float, float, float] | None]:
    """Axes and voxel size of an array that no multiscale group lists."""
    if found := transform_of(node.attributes):
        axes, scale, units = found
        return axes, voxel_size(axes, scale, units=units)
    names = node.metadata.get("dimension_names") or node.attributes.get("_ARRAY_DIMENSIONS")
    names = tuple(str(name).lower() for name in names or ())
    axes = names if {"z", "y", "x"} <= set(names) else axes_of(count)
    space = [axis for axis in axes if axis in ("z", "y", "x")]
    for attributes in (source.attributes for source in (node, *groups)):
        if sizes := voxel_size_of(attributes):
            units = attributes.get("units")
            units = units[-3:] if isinstance(units, list) else units or "nm"
            return axes, voxel_size(space, sizes, units=units)
    return axes, None


def _separator(node: Node) -> dict[str, str]:
    """How chunks are named where the metadata do not say: nested folders need to be told.

    Stores of that age exist in both ways, and the wrong one reads as empty.
    """
    if "dimension_separator" in node.metadata:
        return {}
    if is_remote(node.url):
        grid = zip(node.metadata["shape"], node.metadata["chunks"], strict=False)
        corner, middle = zip(*((0, side // chunk // 2) for side, chunk in grid), strict=True)
        keys = ["/".join(map(str, key)) for key in (corner, middle)]
        return {"key_encoding": "/"} if any(exists(join(node.url, k)) for k in keys) else {}
    names = (item.name for item in local_path(node.url).iterdir() if item.is_dir())
    nested = any(re.fullmatch(r"\d+", name) for name in names)
    return {"key_encoding": "/"} if nested else {}
