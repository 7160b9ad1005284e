"""One PNG, JPEG or TIFF: as a grey section, as it is stored or refused; or as its colours."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from tokenunify_scale.config import DataError

# Not through Image.open, which refuses sections above 179 million pixels as an attack.
KINDS = {".png": PngImageFile, ".tif": TiffImageFile, ".tiff": TiffImageFile}
KINDS |= {".jpg": JpegImageFile, ".jpeg": JpegImageFile}
STARTS = {b"\x89PNG": PngImageFile, b"\xff\xd8": JpegImageFile}
STARTS |= {b"II*\0": TiffImageFile, b"MM\0*": TiffImageFile}
"""The first bytes of each: collections of photographs hold a PNG that is called .jpeg."""
MODES = {"L": "u1", "I;16": "u2", "I": "u2", "P": "u1"}
"""Types of PNG and JPEG pixels by Pillow's names; older versions call 16 bits ``I``."""
SAMPLES = {(8, 1): "u1", (16, 1): "u2", (32, 1): "u4", (16, 2): "i2", (32, 2): "i4", (32, 3): "f4"}
"""Types of TIFF pixels by bits and format."""
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, FORMAT = (
    256, 257, 258, 259, 262, 274, 339,
)  # fmt: skip
"""Tags of TIFF; the orientation has the same number in the EXIF of the others."""
COLOURS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
"""Modes of 8 bits or less that become RGB."""
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


def read_colour_sides(path: Path) -> tuple[int, int]:
    """Rows and columns of ``read_colours``, from the header alone.

    Raises:
        DataError: missing or damaged, or not an image that ``read_colours`` takes.
    """
    with _opened(path, kind=_kind_inside(path)) as image:
        _check_colours(image, path=path)
        width, height = image.size
        if image.format == "TIFF":  # Pillow turns these as it loads; what it says before differs
            width, height = image.tag_v2[WIDTH], image.tag_v2[LENGTH]
        return (width, height) if _orientation(image) > 4 else (height, width)


def read_colours(path: Path) -> np.ndarray:
    """The colours uint8 [H, W, 3] of an image, upright, whatever it stores.

    Red, green and blue stay as stored, by convention sRGB; colour profiles are not applied. Grey is
    repeated, palettes are looked up, of 16 bits the upper 8 are taken, CMYK becomes
    (1 - C)(1 - K) and so on, and what is transparent lies on white, as viewers show it.

    Raises:
        DataError: missing, damaged or cut short; several pages; 32 bits a pixel, or CIELAB.
    """
    with _opened(path, kind=_kind_inside(path)) as image:
        _check_colours(image, path=path)
        turn = 1 if image.format == "TIFF" else _orientation(image)
        if image.mode not in COLOURS:
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            colours = np.repeat(grey[:, :, None], 3, axis=2)
        else:
            image.load()
            colours = np.asarray(_on_white(image).convert("RGB"))
    # Orientations 5 to 8 are 1 to 4 of the transposed image.
    colours = colours.swapaxes(0, 1) if turn > 4 else colours
    rows, columns = (-1 if turn in flipped else 1 for flipped in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return colours[::rows, ::columns]


def _on_white(image: Image.Image) -> Image.Image:
    """The image over white, if it is transparent in places."""
    if image.mode not in ("LA", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA"))


def _check_colours(image: ImageFile, *, path: Path) -> None:
    """Refuse what has no one way to become 8 bits of red, green and blue."""
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise DataError(f"{path}: {pages} pages; a photograph is an image of one")
    wide = image.mode.startswith("I;16") or (image.format == "PNG" and image.mode == "I")
    if image.mode not in COLOURS and not wide:
        raise DataError(
            f"{path}: pixels of mode {image.mode} in a {image.format}, not colours or grey of 8 "
            f"or 16 bits; convert it first, as in: mogrify -depth 8 -colorspace sRGB {path.name}"
        )


def _orientation(image: ImageFile) -> int:
    """How the camera was held, 1 to 8 as in EXIF, from the header; 1 where it does not say."""
    # In a PNG it may come after the pixels: Pillow would decode them all to look for it.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    turn = image.getexif().get(ORIENTATION, 1)
    return turn if turn in range(1, 9) else 1


def _kind_inside(path: Path) -> type[ImageFile]:
    """The kind of an image by its first bytes, or else by its name."""
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from error
    found = (kind for begin, kind in STARTS.items() if start.startswith(begin))
    return next(found, KINDS[path.suffix.lower()])


@contextmanager
def _opened(path: Path, *, kind: type[ImageFile] | None = None) -> Iterator[ImageFile]:
    """An image of which the header is read, of the kind that its name says unless it is given."""
    kind = kind or KINDS[path.suffix.lower()]
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
