"""Crops that finished runs are measured on: of a volume at random places, or photographs tiled."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.augment import generator, random_box
from tokenunify_scale.data.crops import CropReader
from tokenunify_scale.data.gray import check_no_labels, find_mapping
from tokenunify_scale.volumes.geometry import Triple
from tokenunify_scale.volumes.photos import find_photos, photo_sides, read_photo, root_of
from tokenunify_scale.volumes.volume import open_volume, sections_box


@dataclass(frozen=True, kw_only=True)
class VolumeCrops:
    """Crops at places that depend on the seed and their number alone."""

    volume: str
    sections: tuple[int, int] | None
    """Where the crops lie; None: anywhere."""

    crop: Triple
    crops: int
    seed: int
    channels = 1

    @property
    def name(self) -> str:
        """What the user typed."""
        return self.volume

    @property
    def title(self) -> str:
        """What a picture says of it."""
        return f"{self.crops} crops of {self.volume.rpartition('/')[2]}"

    def check(self) -> None:
        """Open the volume and compare sizes.

        Raises:
            ConfigError: the sections are not in the volume.
            DataError: the volume is missing or damaged, or smaller than a crop.
        """
        with open_volume(self.volume) as volume:
            shape = sections_box(volume, self.sections).shape
        if any(c > side for c, side in zip(self.crop, shape, strict=True)):
            raise DataError(
                f"{self.volume}: a crop of {self.crop} does not fit into {shape} (zyx voxels)"
            )

    @cached_property
    def voxels(self) -> np.ndarray:
        """All crops, uint8 [N, 1, D, H, W]; read once.

        Raises:
            DataError: the volume is damaged, or holds labels.
        """
        with open_volume(self.volume) as volume:
            box = sections_box(volume, self.sections)
            check_no_labels(volume, box=box)
            reader = CropReader(volume, mapping=find_mapping(volume, box=box), box=box)
            places = [
                random_box(generator(self.seed, i), box.shape, crop=self.crop).shift(box.start)
                for i in range(self.crops)
            ]
            return np.stack([reader.read(place) for place in places])[:, None]

    @property
    def voxel_size(self) -> tuple[float, float, float] | None:
        """(z, y, x) in nm, where the volume tells."""
        with open_volume(self.volume) as volume:
            return volume.voxel_size

    @property
    def names(self) -> list[str]:
        """The number of each crop."""
        return [str(number) for number in range(self.crops)]

    def items(self) -> Iterator[np.ndarray]:
        """Each crop, as a batch of one."""
        yield from self.voxels[:, None]

    def drawn(self) -> tuple[np.ndarray, int]:
        """The crop uint8 [1, D, H, W] that stands for all in a picture, and its number."""
        return self.voxels[0], 0

    def facts(self) -> dict[str, Any]:
        """What is measured on, as plain data."""
        return {"volume": self.volume, "crops": self.crops}


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Photographs, each cut into as many whole crops as fit around its middle.

    A network then sees crops of the size that it was trained on, and every image as much of its
    middle as whole crops cover; what is left at the rim is not measured.
    """

    spec: str
    crop: Triple
    channels = 3
    voxel_size = None

    @property
    def name(self) -> str:
        """What the user typed."""
        return self.spec

    @property
    def title(self) -> str:
        """What a picture says of it."""
        return f"{len(self.paths)} photographs of {Path(self.spec).name}"

    @cached_property
    def paths(self) -> list[Path]:
        """The files, sorted."""
        return find_photos(self.spec)

    @cached_property
    def names(self) -> list[str]:
        """Of each file, its place below the folder; without the ending where that tells all."""
        places = [path.relative_to(root_of(self.spec)) for path in self.paths]
        short = [place.with_suffix("").as_posix() for place in places]
        unique = len(set(short)) == len(short)
        return short if unique else [place.as_posix() for place in places]

    def check(self) -> None:
        """Find the files, and hold the sizes in their headers against the crop.

        Raises:
            ConfigError: the crop has several sections.
            DataError: no photographs there, one is damaged, or smaller than a crop.
        """
        if self.crop[0] != 1:
            raise ConfigError(
                f"a crop of {self.crop} (z, y, x) cannot be cut from photographs, which have one "
                "section: give --crop, as 1,256,256"
            )
        for path in self.paths:
            tiling(photo_sides(path), crop=self.crop, name=str(path))

    def items(self) -> Iterator[np.ndarray]:
        """The tiles of each photograph, uint8 [N, 3, 1, H, W].

        Raises:
            DataError: a file is damaged.
        """
        for path in self.paths:
            yield tile_middle(read_photo(path), crop=self.crop, name=str(path))

    def drawn(self) -> tuple[np.ndarray, int]:
        """The tile [3, 1, H, W] that stands for all in a picture, and its number."""
        sides = photo_sides(self.paths[0])
        rows, columns = tiling(sides, crop=self.crop, name=str(self.paths[0]))
        number = rows // 2 * columns + columns // 2
        return next(self.items())[number], number

    def facts(self) -> dict[str, Any]:
        """What is measured on, as plain data."""
        return {"images": self.spec, "photographs": len(self.paths)}


def tiling(sides: tuple[int, int], *, crop: Triple, name: str) -> tuple[int, int]:
    """Rows and columns of whole crops in a photograph.

    Args:
        sides: rows and columns of pixels.
        crop: size (1, h, w) in voxels.
        name: what an error calls the photograph.

    Raises:
        DataError: not one crop fits.
    """
    (height, width), (_, h, w) = sides, crop
    if height < h or width < w:
        raise DataError(f"{name}: {width}x{height} pixels, smaller than a crop of {w}x{h}")
    return height // h, width // w


def tile_middle(photo: np.ndarray, *, crop: Triple, name: str = "photograph") -> np.ndarray:
    """As many whole crops as fit around the middle of a photograph, in raster order.

    Args:
        photo: [C, 1, H, W].
        crop: size (1, h, w) in voxels.
        name: what an error calls the photograph.

    Returns:
        [N, C, 1, h, w], N = (H // h) * (W // w).

    Raises:
        DataError: not one crop fits.
    """
    (_, height, width), (_, h, w) = photo.shape[1:], crop
    rows, columns = tiling((height, width), crop=crop, name=name)
    y, x = (height - rows * h) // 2, (width - columns * w) // 2
    middle = photo[:, :, y : y + rows * h, x : x + columns * w]
    grid = middle.reshape(len(photo), 1, rows, h, columns, w)
    return grid.transpose(2, 4, 0, 1, 3, 5).reshape(rows * columns, len(photo), 1, h, w)
