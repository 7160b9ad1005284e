"""A part of a source volume, and where it lies in other volumes that were cut from that source."""

from dataclasses import dataclass

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.volumes.geometry import Box, Triple
from tokenunify_scale.volumes.volume import Volume


@dataclass(frozen=True)
class Part:
    """A part of the source volume, and where an array that covers it begins."""

    box: Box
    """What is evaluated, in source voxels."""

    origin: Triple
    """Source voxel of the array's first voxel."""


def part_of(volume: Volume, *, sections: tuple[int, int] | None = None) -> Part:
    """Where a volume lies in its source, by its attribute ``offset``, cut to some sections.

    Args:
        volume: of the source; without an offset it begins where the source does.
        sections: [start, stop), counted in the source; None: all of them.

    Raises:
        ConfigError: the sections are not in the volume.
    """
    z, y, x = (int(o) for o in volume.attributes.get("offset", (0, 0, 0)))
    box = Box.of(volume.shape).shift((z, y, x))
    if sections is not None:
        start, stop = sections
        if not box.start[0] <= start < stop <= box.stop[0]:
            raise ConfigError(
                f"sections {start}:{stop} must be within {box.start[0]}:{box.stop[0]}, where "
                f"{volume.path} lies, and not empty"
            )
        box = Box((start, *box.start[1:]), (stop, *box.stop[1:]))
    return Part(box, (z, y, x))


def place(other: Volume, volume: Volume, part: Part) -> Box:
    """Where the part of ``volume`` lies in another volume of the same source.

    A volume without an offset must have the other's shape; one with an offset is looked up there,
    and where it begins at 0 in plane the other must be as wide and high.

    Raises:
        DataError: the two are not of one volume.
    """
    shape, wanted = other.shape, volume.shape
    first = 0 if "offset" not in volume.attributes else 1
    start = tuple(int(o) for o in other.attributes.get("offset", (0, 0, 0)))
    alike = all(
        shape[axis] == wanted[axis] for axis in range(first, 3) if part.origin[axis] == start[axis]
    )
    box = part.box.shift(tuple(-o for o in start))
    if not alike or min(box.start) < 0 or not Box.of(shape).contains(box):
        raise DataError(
            f"{other.path} has shape {shape} and {volume.path} {wanted} from voxel "
            f"{part.origin} on: they are not of one volume (zyx voxels)"
        )
    return box
