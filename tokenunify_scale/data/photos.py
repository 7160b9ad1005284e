"""Random crops of photographs, samples of three channels and one section."""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.data.augment import generator, random_box
from tokenunify_scale.data.shards.index import Sample
from tokenunify_scale.data.team import Team
from tokenunify_scale.volumes.geometry import Triple
from tokenunify_scale.volumes.photos import find_photos, photo_sides, read_photo, root_of

SHOWN = 4
"""Images that one line names."""


@dataclass(frozen=True)
class PhotoFolder:
    """The images of one folder or pattern that hold a crop."""

    spec: str
    """As it was asked for."""
    names: tuple[str, ...] = field(repr=False)
    """Relative to ``root_of`` the spec, sorted."""
    sides: tuple[tuple[int, int], ...] = field(repr=False)
    """Rows and columns of each."""
    left_out: int
    """How many more there are, smaller than the crop."""

    def facts(self) -> dict:
        """Path and counts as plain data, and a digest of the names and sizes of the images."""
        digest = hashlib.sha256()
        for name, (height, width) in zip(self.names, self.sides, strict=True):
            digest.update(os.fsencode(f"{name}\0{height}x{width}\0"))
        return {
            "path": self.spec,
            "images": len(self.names),
            "left_out": self.left_out,
            "names_sha256": digest.hexdigest(),
        }


def open_photos(
    specs: Sequence[str], *, crop: Triple, team: Team | None = None
) -> list[PhotoFolder]:
    """Find the images of a request and read each header once; those that hold no crop are left out.

    Args:
        specs: folders or patterns, as ``find_photos`` takes them.
        crop: size (1, y, x) in pixels.
        team: the processes that share the work; all of them call this.

    Raises:
        DataError: no images; some that are damaged, which are named at once; none that holds a
            crop.
    """
    team = team or Team()
    found = team.ask(lambda: [find_photos(spec) for spec in specs])
    paths = [path for part in found for path in part]

    def look(number: int) -> tuple[int, int] | str:
        team.done()
        try:
            return photo_sides(paths[number])
        except DataError as error:
            return str(error)

    with team.progress(len(paths), description="reading headers", unit="image"):
        sides = team.deal(range(len(paths)), look)
    if faults := [found for found in sides if isinstance(found, str)]:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        told = "; ".join(faults[:SHOWN]) + more
        raise DataError(f"{len(faults)} of {len(paths)} images cannot be used: {told}")
    _, height, width = crop
    fits = [h >= height and w >= width for h, w in sides]
    if not any(fits):
        # That which would do if the crop were smaller: of panoramas the larger area says little.
        scales = [min(h / height, w / width) for h, w in sides]
        number = scales.index(max(scales))
        raise DataError(
            f"{', '.join(specs)}: a crop of {height}x{width} fits into no image; the largest, "
            f"{paths[number]}, has {sides[number][0]}x{sides[number][1]} pixels (y, x); choose a "
            "smaller --crop"
        )
    folders, first = [], 0
    for spec, part in zip(specs, found, strict=True):
        kept = [n for n in range(first, first + len(part)) if fits[n]]
        root = root_of(spec)
        names = tuple(paths[n].relative_to(root).as_posix() for n in kept)
        left_out = len(part) - len(kept)
        folders.append(PhotoFolder(spec, names, tuple(sides[n] for n in kept), left_out))
        first += len(part)
    return folders


class PhotoCrops(Sequence[Sample]):
    """The samples of a request: ``count`` crops of each image, one image after another.

    Sample ``i`` is a function of the seed and ``i``, so any part can be written by anyone.
    """

    def __init__(
        self, folders: Sequence[PhotoFolder], *, count: int, crop: Triple, seed: int
    ) -> None:
        """Read nothing yet.

        Args:
            folders: as from ``open_photos`` with the same crop.
            count: crops of each image.
            crop: size (1, y, x) in pixels.
            seed: of the places.
        """
        self.folders, self.count, self.crop, self.seed = folders, count, crop, seed
        self._roots = [root_of(folder.spec) for folder in folders]
        self._ends = list(accumulate(len(folder.names) for folder in folders))
        self._current: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Number of samples of all images."""
        return self.count * self._ends[-1]

    def __getitem__(self, sample: int) -> Sample:
        """The crop, uint8 [3, y, x], and its folder's number, its image, and its box there.

        Raises:
            DataError: the image is damaged, or of another size than when it was found.
        """
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)}")
        number, turn = divmod(sample, self.count)
        folder = bisect_right(self._ends, number)
        held = self.folders[folder]
        within = number - (self._ends[folder] - len(held.names))
        sides, name = held.sides[within], held.names[within]
        box = random_box(generator(self.seed, number, turn), (1, *sides), crop=self.crop)
        crop = self._photo(number, self._roots[folder] / name, sides)[(slice(None), *box.slices)]
        meta = {"volume": folder, "image": name, "box": [list(box.start), list(box.stop)]}
        return crop[:, 0], meta

    def _photo(self, number: int, path: os.PathLike, sides: tuple[int, int]) -> np.ndarray:
        """An image; only the latest is kept."""
        if self._current is None or self._current[0] != number:
            photo = read_photo(path)
            if photo.shape[2:] != sides:
                now, then = (f"{h}x{w}" for h, w in (photo.shape[2:], sides))
                raise DataError(f"{path}: has {now} pixels (y, x), its header said {then}")
            self._current = (number, photo)
        return self._current[1]


def left_out_line(folders: Sequence[PhotoFolder], *, crop: Triple) -> str | None:
    """How many images are smaller than the crop, in words; None if all hold one."""
    left = sum(folder.left_out for folder in folders)
    total = left + sum(len(folder.names) for folder in folders)
    height, width = crop[1:]
    return f"{left} of {total} images are smaller than {height}x{width}: left out" if left else None
