"""Volumes to what training reads: WebDataset shards of random crops, or HDF5 files."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tokenunify_scale.config import ConfigError, DataError, to_dict
from tokenunify_scale.data.augment import generator, random_box
from tokenunify_scale.data.crops import CropReader, check_raw, find_mapping
from tokenunify_scale.data.index import Sample
from tokenunify_scale.data.pack import finished, shard_bytes, write_shards
from tokenunify_scale.train.runlog import RunFolder, read_result, track
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.volume import Volume, open_volume

SYNTHETIC = "synthetic"
IN_MEMORY = 512 << 20


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to prepare, from which volumes, and where."""

    volumes: tuple[str, ...]
    """Volumes to read: FILE.h5:DATASET, a TIFF stack, or synthetic:seed=7,shape=64x512x512."""
    out: Path
    """Folder to write to."""
    crops: int = 1000
    """Random crops taken from each volume."""
    crop: tuple[int, int, int] = (16, 160, 160)
    """Size of a crop (z, y, x) in voxels."""
    seed: int = 0
    """Seed of the places of the crops."""
    per_shard: int = 500
    """Crops in one tar."""
    write: Literal["shards", "hdf5"] = "shards"
    """shards: random crops. hdf5: whole volumes, a synthetic one with its labels."""

    def __post_init__(self) -> None:
        """Refuse counts below 1."""
        if not self.volumes:
            raise ValueError("volumes is empty: name at least one")
        if min(self.crops, self.per_shard, *self.crop) < 1 or self.seed < 0:
            raise ValueError(
                f"crops ({self.crops}), per_shard ({self.per_shard}) and crop {self.crop} start "
                f"at 1, seed ({self.seed}) at 0"
            )


def plan(config: Config) -> dict:
    """What ``run`` would write, without writing: counts, bytes before compression, files.

    Raises:
        DataError: a volume is missing, is not raw, or is smaller than the crop.
    """
    with _volumes(config) as volumes:
        facts = [_facts(volume) for volume in volumes]
        if config.write == "hdf5":
            files = [str(config.out / name) for name in _names(config.volumes)]
            size = sum(math.prod(v.shape) * v.dtype.itemsize for v in volumes)
            return {"volumes": facts, "files": files, "bytes": size}
    samples = config.crops * len(facts)
    whole, rest = divmod(samples, config.per_shard)
    shards = whole + (rest > 0)
    size = whole * shard_bytes(config.per_shard, crop=config.crop)
    size += shard_bytes(rest, crop=config.crop) if rest else 0
    first, last = (str(config.out / f"shard-{n:06d}.tar") for n in (0, shards - 1))
    files = [first] if shards == 1 else [first, "...", last]
    return {"volumes": facts, "samples": samples, "shards": shards, "bytes": size, "files": files}


def run(config: Config) -> dict:
    """Write the shards (or HDF5 files), and result.json; what is finished is not written again.

    Raises:
        ConfigError: ``out`` holds what another request wrote.
        DataError: a volume is missing, is not raw, has NaNs, or is smaller than the crop.
        HostError: the disk is full.
    """
    with _volumes(config) as volumes:
        return _copy(config, volumes) if config.write == "hdf5" else _shards(config, volumes)


def _shards(config: Config, volumes: Sequence[Volume]) -> dict:
    """Write the crops of all volumes as shards."""
    facts = [_facts(volume) for volume in volumes]
    chosen = {key: value for key, value in to_dict(config).items() if key not in ("out", "volumes")}
    request = {"volumes": facts, **chosen}
    index = finished(config.out, request=request)
    result = read_result(config.out)
    if index is not None and result is not None:
        print(f"{config.out}: all {index.count} crops are there already, nothing to do")
        return result
    folder = RunFolder.create(config.out, verb="prepare", config=to_dict(config))
    if index is None:
        samples = RandomCrops(volumes, count=config.crops, crop=config.crop, seed=config.seed)
        sizes = {volume.voxel_size for volume in volumes}
        described = {
            "crop": config.crop,
            "voxel_size": sizes.pop() if len(sizes) == 1 else None,
            "volumes": [
                {**fact, "mapping": mapping and asdict(mapping)}
                for fact, mapping in zip(facts, samples.mappings, strict=True)
            ],
            "request": request,
        }
        index = write_shards(samples, config.out, per_shard=config.per_shard, index=described)
    size = sum(shard.bytes for shard in index.shards)
    counts = f"crops: {index.count}, shards: {len(index.shards)}"
    print(f"{config.out}: {counts}, {size / 1e6:.1f} MB")
    return folder.finish(samples=index.count, shards=len(index.shards), bytes=size, volumes=facts)


class RandomCrops(Sequence[Sample]):
    """The samples of a request: ``count`` uniform crops of each volume, one volume after another.

    Sample ``i`` is a function of the seed and ``i``, so any part can be written by anyone.
    """

    def __init__(
        self, volumes: Sequence[Volume], *, count: int, crop: tuple[int, int, int], seed: int
    ) -> None:
        """Find each volume's mapping to uint8; ``crop`` in zyx voxels."""
        self.volumes, self.count, self.crop, self.seed = volumes, count, crop, seed
        self.mappings = [find_mapping(volume) for volume in volumes]
        self._current: tuple[int, CropReader] | None = None

    def __len__(self) -> int:
        """Number of samples of all volumes."""
        return self.count * len(self.volumes)

    def __getitem__(self, sample: int) -> Sample:
        """The crop, uint8 [D, H, W], and the number of its volume and its box there."""
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)}")
        number, turn = divmod(sample, self.count)
        rng = generator(self.seed, number, turn)
        box = random_box(rng, self.volumes[number].shape, crop=self.crop)
        meta = {"volume": number, "box": [list(box.start), list(box.stop)]}
        return self._reader(number).read(box), meta

    def _reader(self, number: int) -> CropReader:
        """The reader of a volume; only the latest is kept, and with it one volume in memory."""
        if self._current is None or self._current[0] != number:
            volume, mapping = self.volumes[number], self.mappings[number]
            self._current = (number, CropReader(volume, mapping=mapping, in_memory=IN_MEMORY))
        return self._current[1]


def _copy(config: Config, volumes: Sequence[Volume]) -> dict:
    """Write each volume to an HDF5 file of its own, a synthetic one with labels."""
    paths = [config.out / name for name in _names(config.volumes)]
    pairs = list(zip(volumes, paths, strict=True))
    todo = [(volume, path) for volume, path in pairs if not _is_copy(path, of=volume)]
    result = read_result(config.out)
    if not todo and result is not None:
        print(f"{config.out}: all {len(paths)} volumes are there already, nothing to do")
        return result
    folder = RunFolder.create(config.out, verb="prepare", config=to_dict(config))
    for volume, path in track(todo, total=len(todo), description="volumes", unit="volume"):
        datasets = {"raw": volume.read()}
        if _is_synthetic(volume.path):
            with open_volume(_labels_of(volume.path)) as labels:
                datasets["labels"] = labels.read()
        attributes = {"source": volume.path}
        if volume.voxel_size is not None:
            attributes["voxel_size"] = volume.voxel_size
        write_hdf5(path, datasets, attributes={name: attributes for name in datasets})
    for path in paths:
        print(path)
    facts = [_facts(volume) for volume in volumes]
    return folder.finish(files=[str(path) for path in paths], volumes=facts)


def _is_copy(path: Path, *, of: Volume) -> bool:
    """Whether a file is the finished copy of a volume; another file of its name is an error."""
    if not path.exists():
        return False
    with open_volume(f"{path}:raw") as held:
        source, shape = held.attributes.get("source"), tuple(held.shape)
    if source != of.path or shape != tuple(of.shape):
        raise ConfigError(f"{path} exists and is no copy of {of.path}; choose another --out")
    return True


@contextmanager
def _volumes(config: Config) -> Iterator[list[Volume]]:
    """All volumes of the request, open and checked."""
    with ExitStack() as stack:
        volumes = [stack.enter_context(open_volume(path)) for path in config.volumes]
        for volume in volumes:
            check_raw(volume)
            fits = Box.of(volume.shape).contains(Box.of(config.crop))
            if config.write == "shards" and not fits:
                raise DataError(
                    f"{volume.path} has shape {tuple(volume.shape)}: a crop of {config.crop} "
                    f"(zyx voxels) does not fit; choose a smaller --crop"
                )
        yield volumes


def _facts(volume: Volume) -> dict:
    """Path, shape, type and voxel size of a volume, as plain data."""
    return {
        "path": volume.path,
        "shape": [int(side) for side in volume.shape],
        "dtype": str(volume.dtype),
        "voxel_size": volume.voxel_size and [float(side) for side in volume.voxel_size],
    }


def _names(volumes: Sequence[str]) -> list[str]:
    """A file name for each volume: its own stem, numbered where two have the same."""
    names: list[str] = []
    for path in volumes:
        stem = SYNTHETIC if _is_synthetic(path) else Path(path.partition(":")[0]).stem
        name, number = f"{stem}.h5", 2
        while name in names:
            name, number = f"{stem}_{number}.h5", number + 1
        names.append(name)
    return names


def _is_synthetic(path: str) -> bool:
    return path.partition(":")[0] == SYNTHETIC


def _labels_of(path: str) -> str:
    """The labels of a synthetic volume."""
    words = [word for word in path.partition(":")[2].split(",") if word]
    words = [word for word in words if not word.startswith("dataset=")]
    return f"{SYNTHETIC}:{','.join((*words, 'dataset=labels'))}"
