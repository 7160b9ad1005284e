"""One section of a volume: a grey PNG, JPEG or TIFF image, read as it is stored or refused."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from tokenunify_scale.config import DataError

# Not through Image.open, which refuses sections above 179 million pixels as an attack.
KINDS = {".png": PngImageFile, ".tif": TiffImageFile, ".tiff": TiffImageFile}
KINDS |= {".jpg": JpegImageFile, ".jpeg": JpegImageFile}
MODES = {"L": "u1", "I;16": "u2", "I": "u2", "P": "u1"}
"""Types of PNG and JPEG pixels by Pillow's names; older versions call 16 bits ``I``."""
SAMPLES = {(8, 1): "u1", (16, 1): "u2", (32, 1): "u4", (16, 2): "i2", (32, 2): "i4", (32, 3): "f4"}
"""Types of TIFF pixels by bits and format."""
BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, FORMAT = 258, 259, 262, 274, 339
"""Tags of TIFF."""
WORDS = {"1": "1 bit a pixel", "P": "a palette of colours", "LA": "grey with transparency"}


def kind_of(name: str) -> str | None:
    """PNG, JPEG or TIFF, by a file's name; None for other files."""
    kind = KINDS.get(os.path.splitext(name)[1].lower())
    return kind and kind.format


def read_facts(path: Path) -> tuple[tuple[int, int], np.dtype]:
    """Rows and columns, and the type of the pixels, from an image's header.

    Grey images of 8 or 16 bits, TIFF of 32 too, with a palette only if it is all grey. Others are
    refused rather than converted, since a conversion is a choice.

    Raises:
        DataError: damaged, not grey, or several pages.
    """
    with _opened(path) as image:
        return image.size[::-1], _type(image, path=path)


def read_section(path: Path) -> np.ndarray:
    """The pixels [H, W] of an image, in native byte order.

    Raises:
        DataError: as from ``read_facts``; cut short. PNG has checksums, which are checked.
    """
    with _opened(path) as image:
        dtype = _type(image, path=path)
        # 16 and 32 bits may come in a wider or a signed type, with the same low bits.
        return np.asarray(image.convert("L") if image.mode == "P" else image).astype(dtype)


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile]:
    """An image of which the header is read."""
    kind = KINDS[path.suffix.lower()]
    try:
        with kind(path) as image:
            yield image
    except DataError:
        raise
    except Exception as error:  # On damaged files Pillow raises nearly every kind there is.
        raise DataError(f"{path}: not a readable {kind.format} image ({error})") from error


def _type(image: ImageFile, *, path: Path) -> np.dtype:
    """The type of the pixels, if they are grey."""
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise DataError(f"{path}: {pages} pages; a section is an image of one")
    name = _tiff_type(image) if image.format == "TIFF" else MODES.get(image.mode)
    palette = image.getpalette() if image.mode == "P" else []
    if name is None or not palette[::3] == palette[1::3] == palette[2::3]:
        words = WORDS.get(image.mode, f"pixels of mode {image.mode}")
        raise DataError(
            f"{path}: {words} in a {image.format}, not plain grey; convert the sections first, as "
            f"in: mkdir grey; mogrify -path grey -colorspace Gray -depth 8 *{path.suffix}"
        )
    return np.dtype(name)


def _tiff_type(image: TiffImageFile) -> str | None:
    """The type of a TIFF's pixels, or None where Pillow would not give them as they are stored."""
    tags = image.tag_v2
    bits, formats = tags.get(BITS, (1,)), tags.get(FORMAT, (1,))
    # Black where 0 is stored, or a palette, and upright: others are inverted or turned.
    if tags.get(PHOTOMETRIC) not in (1, 3) or tags.get(ORIENTATION, 1) != 1 or len(bits) > 1:
        return None
    # The bytes of these are not swapped, silently.
    wide = (bits[0], formats[0]) not in ((8, 1), (16, 1))
    if wide and tags.prefix == b"MM" and tags.get(COMPRESSION, 1) != 1:
        return None
    return SAMPLES.get((bits[0], formats[0]))
