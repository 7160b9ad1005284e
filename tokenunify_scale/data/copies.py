"""Whole volumes as HDF5 files, a synthetic one together with its labels."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.data.inputs import Source
from tokenunify_scale.data.team import Team
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.volume import Volume, open_volume

SYNTHETIC = "synthetic"


def names(sources: Sequence[Source]) -> list[str]:
    """A file name for each source: its data set's or its own, numbered where two have the same."""
    found: list[str] = []
    for source in sources:
        path = source.volume.path
        local = path if "://" in path else path.partition(":")[0]
        stem = SYNTHETIC if is_synthetic(path) else source.dataset or Path(local).stem
        name, number = f"{stem}.h5", 2
        while name in found:
            name, number = f"{stem}_{number}.h5", number + 1
        found.append(name)
    return found


def missing(sources: Sequence[Source], out: Path) -> list[int]:
    """Numbers of the sources of which there is no copy yet.

    Raises:
        ConfigError: a file of that name is the copy of something else.
    """
    pairs = zip(sources, names(sources), strict=True)
    return [n for n, (source, name) in enumerate(pairs) if not _is_copy(out / name, of=source)]


def write_copies(
    sources: Sequence[Source], out: Path, *, numbers: Sequence[int], team: Team | None = None
) -> None:
    """Write some of the sources to files of their own, each whole or not at all.

    Args:
        sources: all of a request; the part of each that may be used is copied.
        out: folder of the files.
        numbers: which of the sources.
        team: the processes that share the work; all of them call this.

    Raises:
        HostError: the disk has no room for them uncompressed, or is not writable.
    """
    team, files = team or Team(), names(sources)
    team.ask(lambda: _check_room([sources[number] for number in numbers], out))

    def copy(number: int) -> None:
        source, path = sources[number], out / files[number]
        datasets = {"raw": source.volume.read(source.box)}
        if (labels := read_labels(source.volume, source.box)) is not None:
            datasets["labels"] = labels
        told = {"source": source.volume.path, "voxel_size": source.voxel_size}
        try:
            write_hdf5(path, datasets, attributes={name: told for name in datasets})
        except (OSError, RuntimeError) as error:
            what = getattr(error, "strerror", None) or error
            raise HostError(f"cannot write {path}: {what}") from error
        team.done()

    with team.progress(len(numbers), description="volumes", unit="volume"):
        team.deal(numbers, copy)


def _check_room(sources: Sequence[Source], out: Path) -> None:
    """Refuse a disk that may turn out too small: HDF5 crashes when it fills up under its hands."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    # Labels take hardly any room once they are compressed.
    need = sum(math.prod(source.box.shape) * source.volume.dtype.itemsize for source in sources)
    if need > free:
        size = f"{need / 1e6:.1f} MB are to be written (less when compressed)"
        raise HostError(f"cannot write {out}: {size}, {free / 1e6:.1f} MB are free")


def read_labels(volume: Volume, box: Box) -> np.ndarray | None:
    """The labels [D, H, W] in a box of a volume that brings some, a synthetic one; else None."""
    if not is_synthetic(volume.path):
        return None
    words = [word for word in volume.path.partition(":")[2].split(",") if word]
    words = [word for word in words if not word.startswith("dataset=")]
    with open_volume(f"{SYNTHETIC}:{','.join((*words, 'dataset=labels'))}") as labels:
        return labels.read(box)


def is_synthetic(path: str) -> bool:
    """Whether a spec is of a volume that is made up."""
    return path.partition(":")[0] == SYNTHETIC


def _is_copy(path: Path, *, of: Source) -> bool:
    """Whether a file is the finished copy of a source; another file of its name is an error."""
    if not path.exists():
        return False
    with open_volume(f"{path}:raw") as held:
        source, shape = held.attributes.get("source"), Box.of(held.shape).shape
    if source != of.volume.path or shape != of.box.shape:
        raise ConfigError(f"{path} exists and is no copy of {of.volume.path}; choose another --out")
    return True
