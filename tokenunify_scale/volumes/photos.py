"""Photographs: images of three channels, each a volume of one section."""

import glob
import os
import re
from pathlib import Path
from typing import NoReturn

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.section import kind_of, read_colour_sides, read_colours

CHANNELS = 3
WILD = re.compile(r"[*?[]")


def find_photos(spec: str) -> list[Path]:
    """The images that a request names, sorted.

    Args:
        spec: a folder, of which all PNG, JPEG and TIFF files are taken, those in its folders too;
            or a pattern such as ``photos/*.jpg``, in which ``**`` stands for any folders; or one
            image. Hidden files and folders, links to folders, and other files are passed over.

    Raises:
        DataError: no such folder or file, no images there, or a folder that cannot be listed.
    """
    if os.path.isdir(spec):
        found = _walk(spec)
    elif os.path.isfile(spec):
        found = [spec]
    elif WILD.search(spec):
        found = glob.glob(spec, recursive=True)
    else:
        raise DataError(f"{spec}: no such folder of images, and no pattern")
    if not (images := sorted(name for name in found if kind_of(name))):
        raise DataError(f"{spec}: no PNG, JPEG or TIFF images there")
    return [Path(name) for name in images]


def root_of(spec: str) -> Path:
    """The folder in which the names of a request's images begin: of a pattern, all before it."""
    if os.path.isdir(spec):
        return Path(spec)
    parts = Path(spec).parts
    if os.path.isfile(spec):
        return Path(*parts[:-1])
    plain = next((n for n, part in enumerate(parts) if WILD.search(part)), len(parts))
    return Path(*parts[:plain])


def photo_sides(path: Path) -> tuple[int, int]:
    """Rows and columns of an image as ``read_photo`` gives it, from its header alone.

    Raises:
        DataError: missing, damaged, or of a kind that ``read_photo`` refuses.
    """
    return read_colour_sides(path)


def read_photo(path: Path) -> np.ndarray:
    """An image as a volume of one section, uint8 [3, 1, H, W]: red, green and blue.

    Colours are as stored, by convention sRGB; grey is repeated, palettes, CMYK and 16 bits are
    converted, what is transparent lies on white, and EXIF's orientation is applied. See
    ``section.read_colours``.

    Raises:
        DataError: missing, damaged, cut short, of several pages, or of 32 bits a pixel.
    """
    return read_colours(path).transpose(2, 0, 1)[:, None]


def _walk(folder: str) -> list[str]:
    """Paths of all files in a folder and its folders, without hidden ones."""

    def refuse(error: OSError) -> NoReturn:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(place, name) for name in names if not name.startswith(".")]
    return found
