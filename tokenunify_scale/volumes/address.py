"""Where a chunked volume is, as users write it: paths, URLs, and Neuroglancer's two ways."""

import re
from dataclasses import dataclass
from pathlib import Path

from tokenunify_scale.volumes.store import is_remote, join, local_path

KINDS = ("zarr", "zarr2", "zarr3", "n5", "precomputed")
_KIND_FIRST = re.compile(rf"({'|'.join(sorted(KINDS, reverse=True))})://(.+)", re.IGNORECASE)
_KIND_LAST = re.compile(rf"(.+?)/?\|(?:neuroglancer-)?({'|'.join(KINDS)}):(.*)", re.IGNORECASE)
_SUFFIX = re.compile(r"(.+\.(zarr|n5))(?:[:/](.*))?", re.IGNORECASE)
_URL = re.compile(r"(\w+://[^/]*)([^?]*)(\?.*)?")


@dataclass(frozen=True)
class Address:
    """A spec in its parts."""

    kind: str | None
    """One of ``KINDS``; None where only a look at the metadata can tell."""
    url: str
    """Local path or URL of the container, without a slash at its end."""
    dataset: str
    """Path of an array or group in it, or which scale; "" where the spec names none."""


def parse_address(spec: str) -> Address:
    """A spec in its parts; nothing is opened, but a local path that exists is taken whole.

    Args:
        spec: ``vol.zarr``, ``vol.n5:volumes/raw``, ``vol.zarr/raw/s0``, ``folder:dataset``,
            ``https://host/vol.zarr:s1``, ``precomputed://gs://bucket/vol:8_8_40``,
            ``gs://bucket/vol|neuroglancer-precomputed:``.
    """
    kind, rest, inner = None, spec, ""
    if match := _KIND_FIRST.fullmatch(spec):
        kind, rest = match[1].lower(), match[2]
    elif match := _KIND_LAST.fullmatch(spec):
        rest, kind, inner = match[1], match[2].lower(), match[3]
    scheme, path, query = "", rest, ""
    if (match := _URL.fullmatch(rest)) and not rest.startswith("file://"):
        scheme, path, query = match[1], match[2], match[3] or ""
        if not scheme.startswith("http"):
            # In the names of buckets' objects a question mark is a letter.
            path, query = path + query, ""
    root, suffix, dataset = _split(path, local=not scheme, suffixed=kind != "precomputed")
    return Address(
        kind=kind or suffix,
        url=f"{scheme}{root.rstrip('/')}{query}" or "/",
        dataset="/".join(word for word in re.split("[:/]", f"{dataset}/{inner}") if word),
    )


def parents(url: str, dataset: str) -> list[tuple[str, str]]:
    """The groups above an array, the nearest first, each with the array's path in it.

    Args:
        url: of the container, which is the last of the groups.
        dataset: path of the array in it; where it is "", the folder above is the only group,
            since a user may name an array's own folder, but not one that ends a container.
    """
    if not dataset:
        place, mark, query = url.partition("?") if url.startswith("http") else (url, "", "")
        place = place if is_remote(url) else str(local_path(url).resolve())
        head, _, name = place.rpartition("/")
        inside = head and not head.endswith(":/") and not name.lower().endswith((".zarr", ".n5"))
        return [(head + mark + query, name)] if inside else []
    words = dataset.split("/")
    return [
        (join(url, "/".join(words[:count])), "/".join(words[count:]))
        for count in reversed(range(len(words)))
    ]


def _split(path: str, *, local: bool, suffixed: bool) -> tuple[str, str | None, str]:
    """A path as container, the kind its suffix tells, and dataset."""
    if suffixed and (match := _SUFFIX.fullmatch(path)):
        return match[1], match[2].lower(), match[3] or ""
    head, colon, tail = path.rpartition(":")
    whole = local and local_path(path).exists()
    if whole or not (colon and head.strip("/") and tail) or tail.startswith("//"):
        return path, None, ""
    return head, None, tail


def is_chunked(folder: Path) -> bool:
    """Whether a local folder without a telling name holds a volume in chunks, or a group."""
    names = ("zarr.json", ".zarray", ".zgroup", "attributes.json")
    if any((folder / name).is_file() for name in names):
        return True
    info = folder / "info"
    return info.is_file() and b'"scales"' in info.read_bytes()[: 1 << 20]
