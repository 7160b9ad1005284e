"""Neuroglancer's precomputed volumes: choose a scale, and refuse chunks that would read as zero."""

import math
import os
import re
from pathlib import Path
from typing import Any

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.address import Address
from tokenunify_scale.volumes.level import Level, holding, voxel_size
from tokenunify_scale.volumes.ngff import choose
from tokenunify_scale.volumes.store import exists, is_remote, join, local_path, read_json

PACKED = (".gz", ".br", ".zstd", ".xz", ".bz2")
"""What CloudVolume puts behind the names of chunks that it packs on a local disk."""
LOOKED_AT = 1000
"""How many files of a scale's folder tell whether its chunks are packed."""


def find_precomputed(address: Address) -> Level:
    """The scale that an address means: by key, by place in the list, or the finest.

    Raises:
        DataError: no info file, no such scale, or chunks with names that tensorstore, which
            reads what is missing as zero, does not look for.
    """
    info = read_json(join(address.url, "info"))
    scales = info.get("scales") if info is not None else None
    if not isinstance(scales, list) or not scales:
        why = "no info file that can be read" if info is None else "its info file lists no scales"
        raise DataError(f"{address.url}: {why}, so this is no precomputed volume")
    try:
        keys = [str(scale["key"]) for scale in scales]
        sizes = [[float(side) for side in scale["resolution"]] for scale in scales]
        chosen = keys[min(range(len(keys)), key=lambda at: math.prod(sizes[at]))]
        if address.dataset:
            chosen = choose(keys, address.dataset)
        if chosen is None:
            raise DataError(f"{address.url}: no scale {address.dataset!r}{holding(keys)}")
        number = keys.index(chosen)
        offset = [int(side) for side in scales[number].get("voxel_offset") or (0, 0, 0)]
        _refuse_packed(join(address.url, chosen), scales[number], offset=offset)
    except (AttributeError, KeyError, TypeError) as error:
        wrong = f"{type(error).__name__}: {error}"
        raise DataError(f"{address.url}: its info cannot be understood ({wrong})") from error
    return Level(
        driver="neuroglancer_precomputed",
        url=address.url,
        axes=("x", "y", "z", "channel"),
        voxel_size=voxel_size(("x", "y", "z"), sizes[number], units="nm"),
        attributes={"format": "precomputed", "dataset": chosen, "voxel_offset": offset[::-1]},
        options={"scale_index": number},
    )


def _refuse_packed(url: str, scale: dict[str, Any], *, offset: list[int]) -> None:
    """Refuse a scale whose chunks carry a suffix: each of them would silently read as zero.

    Args:
        url: of the scale's folder.
        scale: its entry in the info file.
        offset: first voxel (x, y, z).
    """
    if scale.get("sharding"):
        return
    suffix = _probed(url, scale, offset=offset) if is_remote(url) else _listed(local_path(url))
    if suffix:
        raise DataError(
            f"{url}: its chunks are files ending in {suffix}, which would read as zeros; unpack "
            "them (gunzip -r for .gz), or write them anew with compress=False"
        )


def _listed(folder: Path) -> str | None:
    """The suffix of packed chunks in a local folder that holds no plain ones."""
    suffix = None
    try:
        with os.scandir(folder) as items:
            for _, item in zip(range(LOOKED_AT), items, strict=False):
                match = re.fullmatch(r"(\d+-\d+_){2}\d+-\d+(\.\w+)?", item.name)
                if match and match[2] not in PACKED:
                    return None
                suffix = match[2] if match else suffix
    except FileNotFoundError:
        raise DataError(f"{folder}: no such folder, so all voxels would read as zeros") from None
    return suffix


def _probed(url: str, scale: dict[str, Any], *, offset: list[int]) -> str | None:
    """The suffix of a packed chunk in the corner or the middle of a remote scale."""
    chunks = [int(side) for side in scale["chunk_sizes"][0]]
    sizes = [int(side) for side in scale["size"]]
    middle = [size // chunk // 2 * chunk for size, chunk in zip(sizes, chunks, strict=True)]
    for starts in ([0, 0, 0], middle):
        spans = zip(starts, chunks, sizes, offset, strict=True)
        words = [f"{at + o}-{min(at + chunk, size) + o}" for at, chunk, size, o in spans]
        name = join(url, "_".join(words))
        if not exists(name) and exists(f"{name}.gz"):
            return ".gz"
    return None
