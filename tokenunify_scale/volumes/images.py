"""A folder of sections, one grey image each: PNG, JPEG or TIFF, in the order of their numbers."""

import fnmatch
import logging
import math
import os
import re
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.registry import READERS
from tokenunify_scale.volumes.section import kind_of, read_facts, read_section
from tokenunify_scale.volumes.volume import Claim, Volume

log = logging.getLogger(__name__)

# A TIFF can be a volume by itself, unless its name is a pattern.
SUFFIXES = (".png", ".jpg", ".jpeg", "*.tif", "*.tiff")
METADATA = ("info", "zarr.json", ".zarray", ".zgroup", "attributes.json")
"""Files that tell of a chunked volume: its folder may hold images too, but is not made of them."""
CACHE = 512 << 20
"""Bytes of decoded sections that a volume keeps: two crops' depth of sections of 4096 squared."""
LOCKS = 64
NUMBER = re.compile("([0-9]+)")


class Sections:
    """Images stacked along z; those a crop touches are decoded, and the last of them kept."""

    def __init__(self, paths: list[Path], *, cache: int = CACHE) -> None:
        """Read the headers of the first and the last image.

        Only two, since a header costs 0.05 ms on a local disk but milliseconds on a network's, in
        every process: of 10,000 sections that is a minute. Each image is checked when it is read.

        Args:
            paths: of images of one kind, in order of z, at least one.
            cache: bytes of decoded images to keep; at least one image is kept.

        Raises:
            DataError: an image cannot be read, is not grey, or the two differ in shape or type.
        """
        self.paths = paths
        sides, self.dtype = read_facts(paths[0])
        self.shape = (len(paths), *sides)
        self._check(*read_facts(paths[-1]), path=paths[-1])
        section = max(math.prod(sides) * self.dtype.itemsize, 1)
        self._section = lru_cache(max(cache // section, 1))(self._decode)
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """The voxels of three slices."""
        sections, rows, columns = index
        wanted = range(*sections.indices(self.shape[0]))
        sides = (len(range(*s.indices(n))) for s, n in zip(index, self.shape, strict=True))
        voxels = np.empty(tuple(sides), self.dtype)
        for out, z in zip(voxels, wanted, strict=True):
            # Threads that want one section wait for one of them to decode it.
            with self._locks[z % LOCKS]:
                out[:] = self._section(z)[rows, columns]
        return voxels

    def close(self) -> None:
        """Forget the decoded sections."""
        self._section.cache_clear()

    def _decode(self, z: int) -> np.ndarray:
        pixels = read_section(self.paths[z])
        self._check(pixels.shape, pixels.dtype, path=self.paths[z])
        return pixels

    def _check(self, shape: tuple[int, ...], dtype: np.dtype, *, path: Path) -> None:
        if (shape, dtype) != (self.shape[1:], self.dtype):
            sides, others = ("x".join(map(str, s)) for s in (shape, self.shape[1:]))
            first = f"{self.paths[0].name} is {others} {self.dtype}"
            raise DataError(f"{path}: a section of {sides} {dtype}, but {first}")


def open_images(spec: str) -> Volume:
    """A volume in a folder of images, one a section; images do not tell a voxel size.

    Sections are in the order of the numbers in their names (2 before 10). Numbers that are left
    out are warned of, once, and the sections on either side become neighbours: series do lose
    sections, and refusing them would make their owners rename files. The attribute ``missing``
    lists them. Hidden files and those that are not images are passed over.

    Images are grey, and read as they are stored: PNG of 8 or 16 bits, JPEG, TIFF of one page.
    Others are refused, as ``read_facts`` says. A crop decodes the sections it touches, whole;
    ``Sections`` says what is kept, and what is checked when.

    Args:
        spec: the folder, or a pattern of names in it, as in ``sections/*.png``. A pattern of TIFF
            ends in ``*.tif`` or ``*.tiff``.

    Raises:
        DataError: no such folder, no images or several kinds of them in it, two names with the
            same numbers, or what ``Sections`` refuses.
    """
    folder, names = _find(Path(spec))
    kinds = {kind_of(name): name for name in names}
    if len(kinds) > 1:
        found = " and ".join(f"{kind} ({name})" for kind, name in kinds.items())
        raise DataError(
            f"{spec}: holds {found}; choose one kind by a pattern, as in "
            f"{folder}/*{Path(names[0]).suffix}"
        )
    missing = _missing(names, spec=spec)
    sections = Sections([folder / name for name in names])
    attributes = {"sections": [names[0], names[-1]], "missing": missing}
    return Volume(spec, sections, voxel_size=None, attributes=attributes, close=sections.close)


def holds_sections(folder: Path) -> bool:
    """Whether a folder holds images and is not a chunked volume."""
    return not any((folder / name).exists() for name in METADATA) and bool(_images(folder))


def _find(path: Path) -> tuple[Path, list[str]]:
    """The folder, and the names of its images in the order of z."""
    if path.is_file():
        raise DataError(
            f"{path}: a single image; a volume is a folder of sections, as {path.parent}, or a "
            f"pattern, as {path.parent}/*{path.suffix}"
        )
    folder, pattern = (path, "*") if path.is_dir() else (path.parent, path.name)
    if not folder.is_dir() or not set(pattern) & set("*?["):
        raise DataError(f"{path}: no such folder of sections")
    ordered = sorted((_order(name), name) for name in _images(folder, pattern=pattern))
    if not ordered:
        raise DataError(f"{path}: no PNG, JPEG or TIFF images there")
    for (one, name), (other, second) in zip(ordered, ordered[1:], strict=False):
        if one == other:
            raise DataError(f"{path}: {name} and {second} have the same number")
    return folder, [name for _, name in ordered]


def _images(folder: Path, *, pattern: str = "*") -> list[str]:
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_file()]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error})") from error
    seen = (name for name in fnmatch.filter(names, pattern) if not name.startswith("."))
    return [name for name in seen if kind_of(name)]


def _order(name: str) -> list[str | int]:
    """Texts and numbers in turns, a text first."""
    return [int(word) if i % 2 else word for i, word in enumerate(NUMBER.split(name))]


def _missing(names: list[str], *, spec: str) -> list[int]:
    """Warn of numbers that the names leave out, if they count in one place only; those numbers."""
    if len({NUMBER.sub("0", name) for name in names}) > 1:
        return []
    columns = zip(*(map(int, NUMBER.findall(name)) for name in names), strict=True)
    counts = [column for column in columns if len(set(column)) > 1]
    if len(counts) > 1 and math.prod(len(set(count)) for count in counts) == len(names):
        by = " x ".join(str(len(set(count))) for count in counts)
        _warn(
            f"{spec}: the names count {by}, as tiles or channels do; read as {len(names)} sections"
        )
    if len(counts) != 1:
        return []
    count = counts[0]
    step = min(b - a for a, b in zip(count, count[1:], strict=False))
    # Dates are numbers too, but most of theirs never were sections.
    if (count[-1] - count[0]) // step >= 2 * len(count):
        return []
    missing = sorted(set(range(count[0], count[-1], step)) - set(count))
    if not missing:
        return []
    some = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    _warn(f"{spec}: no section has the number {some}; its neighbours are read as adjacent")
    return missing


@lru_cache
def _warn(text: str) -> None:
    """Log a warning; the cache makes it once a process, however often a volume is opened."""
    log.warning("%s", text)


CLAIM = Claim(suffixes=SUFFIXES, folder=holds_sections)
READERS.add("images", open_images, CLAIM, source="PNG, JPEG and TIFF 6.0")
