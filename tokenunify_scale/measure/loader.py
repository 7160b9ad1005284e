"""How fast the stream is: beside its tars' bytes alone, and a whole volume for every crop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tokenunify_scale.config import DataError
from tokenunify_scale.data.augment import AugmentConfig, generator, random_box
from tokenunify_scale.data.shards.index import Sample
from tokenunify_scale.data.shards.pack import write_shards
from tokenunify_scale.data.stream import Stream
from tokenunify_scale.measure.clock import medians
from tokenunify_scale.measure.report import Finding, table
from tokenunify_scale.volumes.geometry import Box, Triple
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.volume import open_volume

SYNTHETIC = "synthetic"
PIECE = 1 << 20
PER_SHARD = 100
BATCH = 8
WORKERS = (0, 1, 2)
EPOCHS = 4
"""Of a turn: the first few batches wait for threads and memory."""
BYTES, WHOLE = "the tars' bytes alone", "a whole volume for each crop"


@dataclass(frozen=True, kw_only=True)
class Data:
    """The same crops in two forms."""

    shards: Path
    """Folder of tars."""
    volume: str
    """The volume they were cut from, as `open_volume` takes it."""
    crop: Triple
    """Their size (z, y, x) in voxels."""
    count: int
    """How many crops the shards hold."""


class Cut(Sequence[Sample]):
    """``count`` random crops of an array [D, H, W], as ``write_shards`` takes them."""

    def __init__(self, array: np.ndarray, *, crop: Triple, count: int) -> None:
        """Cut nothing yet."""
        self.array, self.crop, self.count = array, crop, count

    def __len__(self) -> int:
        """Number of crops."""
        return self.count

    def __getitem__(self, number: int) -> Sample:
        """A crop and where it lies."""
        box = random_box(generator(0, number), self.array.shape, crop=self.crop)
        return self.array[box.slices], {"volume": 0, "box": [list(box.start), list(box.stop)]}


def make_data(folder: Path, *, volume: str, crop: Triple, count: int) -> Data:
    """Cut crops of a volume into shards; a synthetic volume is written to HDF5 first.

    Shards from an earlier call of the same words are used again.

    Raises:
        ConfigError: the folder holds shards of other words.
        DataError: the volume is missing or not uint8, or the crop does not fit into it.
    """
    with open_volume(volume) as opened:
        if opened.dtype != np.uint8 or not Box.of(opened.shape).contains(Box.of(crop)):
            raise DataError(
                f"{volume}: {opened.dtype} of shape {opened.shape}; crops of {crop} are cut from "
                "uint8 volumes at least as large"
            )
        array = opened.read()
    spec = volume
    if volume.startswith(SYNTHETIC):
        spec = f"{folder / 'volume.h5'}:raw"
        write_hdf5(folder / "volume.h5", {"raw": array})
    request = {"volume": volume, "crop": list(crop), "count": count}
    about = {"crop": crop, "voxel_size": None, "volumes": [{"path": volume}], "request": request}
    samples = Cut(array, crop=crop, count=count)
    write_shards(samples, folder / "shards", per_shard=PER_SHARD, index=about)
    return Data(shards=folder / "shards", volume=spec, crop=crop, count=count)


def compare(data: Data, *, repeats: int, wholes: int = 3) -> dict[str, Any]:
    """Crops a second of each way to get them, measured in turns.

    Args:
        data: what is read; in the page cache after the first turn.
        repeats: turns; medians are reported.
        wholes: crops taken by opening the volume for each.

    Returns:
        ``crops_per_s`` by name, and what a crop is.
    """
    works: dict[str, tuple[Callable[[], object], int]] = {
        BYTES: (lambda: read_bytes(data.shards, times=EPOCHS), EPOCHS * data.count),
    }
    stream = Stream([data.shards], seed=0)
    batches = EPOCHS * data.count // BATCH
    for workers in WORKERS:
        name = f"stream, workers: {workers}"
        work = partial(read_stream, stream, batches=batches, workers=workers)
        works[name] = (work, batches * BATCH)
    changing = Stream([data.shards], seed=0, augment=AugmentConfig())
    batches = data.count // BATCH
    work = partial(read_stream, changing, batches=batches, workers=2)
    works["stream, workers: 2, augmented"] = (work, batches * BATCH)
    works[WHOLE] = (lambda: read_wholes(data, count=wholes), wholes)
    seconds = medians({name: work for name, (work, _) in works.items()}, repeats=repeats)
    return {
        "crop": list(data.crop),
        "crops": data.count,
        "crops_per_s": {name: count / seconds[name] for name, (_, count) in works.items()},
    }


def read_bytes(folder: Path, *, times: int) -> None:
    """Read all tars of a folder from end to end into one piece of memory, ``times`` over."""
    piece = bytearray(PIECE)
    for path in times * sorted(folder.glob("shard-*.tar")):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(piece):
                pass


def read_stream(stream: Stream, *, batches: int, workers: int) -> None:
    """Take batches from the stream's beginning; the threads' start and end count."""
    taken = stream.batches(0, global_batch=BATCH, workers=workers)
    for _ in islice(taken, batches):
        pass
    taken.close()


def read_wholes(data: Data, *, count: int) -> None:
    """Open the volume, read all of it and cut one crop, ``count`` times."""
    for number in range(count):
        with open_volume(data.volume) as volume:
            array = volume.read()
            box = random_box(generator(0, number), volume.shape, crop=data.crop)
            np.ascontiguousarray(array[box.slices])


def loader_table(measured: dict[str, Any]) -> str:
    """The table of ``benchmark loader``."""
    sides = "x".join(map(str, measured["crop"]))
    size = np.prod(measured["crop"]) / 1e6
    rows = [
        [name, f"{rate:,.1f}", f"{rate * size:,.0f}"]
        for name, rate in measured["crops_per_s"].items()
    ]
    return table([f"{measured['crops']} crops of {sides}", "crops/s", "MB/s"], rows)


def loader_findings(measured: dict[str, Any]) -> list[Finding]:
    """What of ``benchmark loader`` has a target."""
    rates = measured["crops_per_s"]
    best = max(rates[f"stream, workers: {workers}"] for workers in WORKERS)
    return [
        Finding("stream / the tars' bytes alone", best / rates[BYTES], "loader"),
        Finding("stream / a whole volume for each crop", best / rates[WHOLE], "whole volumes"),
    ]
