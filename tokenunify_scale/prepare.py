"""Volumes and photographs to what training reads: shards of random crops, or HDF5 files."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from tokenunify_scale.config import to_dict
from tokenunify_scale.data.augment import AugmentConfig
from tokenunify_scale.data.changes.preview import draw_contact_sheet
from tokenunify_scale.data.content import ContentConfig, check_source, find_crops
from tokenunify_scale.data.copies import missing, names, read_labels, write_copies
from tokenunify_scale.data.gray import PERCENTILES
from tokenunify_scale.data.inputs import Source, open_sources
from tokenunify_scale.data.photos import PhotoCrops, left_out_line, open_photos
from tokenunify_scale.data.shards.index import Sample
from tokenunify_scale.data.shards.request import Find, plan_request, write_request
from tokenunify_scale.data.shards.target import run_folder, whole_file
from tokenunify_scale.data.shards.verify import read_facts, report_on
from tokenunify_scale.data.team import Team, assemble
from tokenunify_scale.train.runlog import read_result
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.photos import CHANNELS


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to prepare, from which volumes or photographs, and where."""

    volumes: tuple[str, ...] = ()
    """Volumes to read: FILE.h5:DATASET, a TIFF stack, or synthetic:seed=7,shape=64x512x512."""
    dataset: tuple[str, ...] = ()
    """Public data sets to read instead, by name; the part of each that pretraining may see."""
    source: tuple[str, ...] = ()
    """Your own copies of the volumes of the data set, one a volume in its order."""
    split: str | None = None
    """Another part of the data set, such as test."""
    images: tuple[str, ...] = ()
    """Photographs to read instead: folders of PNG, JPEG or TIFF, or patterns; crops are RGB."""
    out: Path | None = None
    """Folder to write to."""
    crops: int = 1000
    """Random crops taken from each volume, or image."""
    crop: tuple[int, int, int] = (16, 160, 160)
    """Size of a crop (z, y, x) in voxels."""
    sample: Literal["uniform", "content"] = "uniform"
    """uniform: crops from anywhere. content: blank, padded and saturated places are left out."""
    content: ContentConfig = field(default_factory=ContentConfig)
    """When a crop shows nothing."""
    seed: int = 0
    """Seed of the places of the crops."""
    per_shard: int = 500
    """Crops in one tar."""
    percentiles: tuple[float, float] = PERCENTILES
    """Of a sample: the intensities that become black and white. uint8 is stored as it is."""
    looks_like_labels: Literal["refuse", "allow"] = "refuse"
    """What to do with a volume of 8 or 16 bits whose neighbours are as equal as in no image."""
    write: Literal["shards", "hdf5"] = "shards"
    """shards: random crops. hdf5: whole volumes, a synthetic one with its labels."""
    verify: Path | None = None
    """Check this folder of shards instead: sizes, sha256, and that each crop can be read."""
    preview: Path | None = None
    """Draw a PNG of what each augmentation does to a crop of the first volume, and stop."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """What the preview draws; the shards hold crops as they are."""

    def __post_init__(self) -> None:
        """Refuse requests for nothing or for two things, and counts below 1."""
        asked = {"--volumes": self.volumes, "--dataset": self.dataset, "--images": self.images}
        given = [flag for flag, value in {**asked, "--verify": self.verify}.items() if value]
        if self.preview and (self.verify or self.images):
            given.append("--preview")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one")
        if not given and self.preview is None:
            raise ValueError(
                "name what to read: --volumes FILE, --dataset NAME or --images FOLDER; or --verify "
                "FOLDER to check shards, or --preview FILE.png"
            )
        if self.images and self.crop[0] != 1:
            raise ValueError(
                f"a photograph is one section, so the depth of crop {self.crop} must be 1, as in "
                "--crop 1,160,160"
            )
        if self.images and (self.write, self.sample) != ("shards", "uniform"):
            raise ValueError("--images are written as shards of uniform crops, and in no other way")
        if (self.source or self.split) and len(self.dataset) != 1:
            raise ValueError("--source and --split belong to one --dataset, by its name")
        if self.out is None and self.verify is None and self.preview is None:
            raise ValueError("out is missing: say where to write with --out FOLDER")
        if self.preview is not None and self.preview.suffix.lower() != ".png":
            raise ValueError(f"preview is a PNG: {self.preview} should end in .png")
        if min(self.crops, self.per_shard, *self.crop) < 1 or self.seed < 0:
            raise ValueError(
                f"crops ({self.crops}), per_shard ({self.per_shard}) and crop {self.crop} start "
                f"at 1, seed ({self.seed}) at 0"
            )
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"percentiles rise within [0, 100], got {self.percentiles}")


def plan(config: Config) -> dict:
    """What ``run`` would do, without doing it: counts, bytes before compression, files.

    Raises:
        ConfigError: no such data set, or it cannot be read in place.
        DataError: a volume is missing, is not raw, or is smaller than the crop; no images, or none
            that holds a crop; no such shards.
    """
    if config.verify:
        index = read_facts(config.verify)
        size = sum(shard.bytes for shard in index.shards)
        counts = {"samples": index.count, "shards": len(index.shards), "bytes": size}
        return {"folder": str(config.verify), **counts}
    if config.images:
        facts = [folder.facts() for folder in open_photos(config.images, crop=config.crop)]
        sources, stored = sum(fact["images"] for fact in facts), (CHANNELS, *config.crop[1:])
    else:
        with _sources(config) as opened:
            facts = [source.facts() for source in opened]
            if config.preview:
                return {"volumes": facts[:1], "files": [str(config.preview)]}
            if config.write == "hdf5":
                files = [str(config.out / name) for name in names(opened)]
                size = sum(math.prod(s.box.shape) * s.volume.dtype.itemsize for s in opened)
                return {"volumes": facts, "files": files, "bytes": size}
        sources, stored = len(facts), config.crop
    samples, where = config.crops * sources, {"out": config.out, "per_shard": config.per_shard}
    return plan_request(facts, samples=samples, stored=stored, **where)


def run(config: Config) -> dict:
    """Write the shards (or HDF5 files), and result.json; what is finished is not written again.

    All processes that an MPI launcher started share the work; rank 0 speaks, and gets the result.

    Raises:
        ConfigError: ``out`` holds what another request wrote.
        DataError: a volume is missing, is not raw, has NaNs, shows nothing, or is smaller than
            the crop; an image is damaged, or none holds a crop; shards that were to be checked
            are damaged.
        HostError: the disk is full; another process writes to ``out``; no mpi4py under MPI.
    """
    with assemble() as team, ExitStack() as stack:
        if config.verify:
            report_on(config.verify, team=team)
            return {}
        if config.images:
            result = _photo_shards(config, team)
        else:
            with team.together():
                sources = stack.enter_context(_sources(config))
            if config.preview:
                return _preview(config, sources, team)
            write = _copies if config.write == "hdf5" else _volume_shards
            result = write(config, sources, team)
        return result if team.leads else {}


def _photo_shards(config: Config, team: Team) -> dict:
    """Write the crops of all photographs as shards."""
    folders = open_photos(config.images, crop=config.crop, team=team)
    facts = [folder.facts() for folder in folders]

    def find() -> tuple[Sequence[Sample], dict]:
        if team.leads and (line := left_out_line(folders, crop=config.crop)):
            print(line, flush=True)
        known = {"crop": config.crop, "channels": CHANNELS, "voxel_size": None, "volumes": facts}
        return PhotoCrops(folders, **_random(config)), known

    return _write(find, config, facts, team)


def _volume_shards(config: Config, sources: Sequence[Source], team: Team) -> dict:
    """Write the crops of all volumes as shards."""
    facts = [source.facts() for source in sources]

    def find() -> tuple[Sequence[Sample], dict]:
        samples = find_crops(sources, team=team, **_places(config))
        sizes = {source.voxel_size for source in sources}
        size = sizes.pop() if len(sizes) == 1 else None
        volumes = [
            {**fact, "mapping": mapping and asdict(mapping)}
            for fact, mapping in zip(facts, samples.mappings, strict=True)
        ]
        return samples, {"crop": config.crop, "voxel_size": size, "volumes": volumes}

    return _write(find, config, facts, team)


def _write(find: Find, config: Config, facts: list[dict], team: Team) -> dict:
    """Write the shards of sources with these facts."""
    request = {"volumes": facts, **_request(config)}
    return write_request(find, out=config.out, config=to_dict(config), request=request, team=team)


def _request(config: Config) -> dict:
    """What of a config decides the shards, as plain data."""
    keys = ["crops", "crop", "sample", "seed", "per_shard", "write"]
    keys += [] if config.images else ["percentiles"]
    keys += ["content"] if config.sample == "content" else []
    return {key: value for key, value in to_dict(config).items() if key in keys}


def _random(config: Config) -> dict:
    """What of a config decides where uniform crops are."""
    return {"count": config.crops, "crop": config.crop, "seed": config.seed}


def _places(config: Config) -> dict:
    """What of a config decides where crops are, and how they become uint8."""
    return {
        **_random(config),
        "content": config.content if config.sample == "content" else None,
        "percentiles": config.percentiles,
        "labels": config.looks_like_labels,
    }


def _copies(config: Config, sources: Sequence[Source], team: Team) -> dict:
    """Write each volume to an HDF5 file of its own."""

    def there() -> tuple[list[int], dict | None]:
        return missing(sources, config.out), read_result(config.out)

    todo, result = team.ask(there)
    paths = [str(config.out / name) for name in names(sources)]
    if not todo and result is not None:
        if team.leads:
            print(f"{config.out}: all {len(paths)} volumes are there already, nothing to do")
        return result

    def check(number: int) -> None:
        check_source(sources[number], labels=config.looks_like_labels)

    team.deal(todo, check)
    with run_folder(config.out, config=to_dict(config), results="*.h5", team=team) as folder:
        write_copies(sources, config.out, numbers=todo, team=team)
        facts = [source.facts() for source in sources]
        result = team.ask(lambda: folder.finish(files=paths, volumes=facts))
    if team.leads:
        print("\n".join(paths))
    return result


def _preview(config: Config, sources: Sequence[Source], team: Team) -> dict:
    """Draw what augmentation does to the first crop of the first volume."""
    samples = find_crops(sources[:1], team=team, **_places(config))

    def draw() -> None:
        (crop, meta), source = samples[0], sources[0]
        labels = read_labels(source.volume, Box(*map(tuple, meta["box"])))
        with whole_file(config.preview) as path:
            size = source.voxel_size
            draw_contact_sheet(
                path, crop, labels, config=config.augment, seed=config.seed, voxel_size=size
            )
        print(f"{config.preview}: {source.volume.path} at {meta['box'][0]} (zyx voxels)")

    team.ask(draw)
    return {}


def _sources(config: Config) -> AbstractContextManager[list[Source]]:
    """All volumes of the request, open and checked; one made up where a preview names none."""
    volumes = config.volumes
    if not volumes and not config.dataset:
        z, y, x = config.crop
        volumes = (f"synthetic:seed={config.seed},shape={z}x{max(y, 16)}x{max(x, 16)}",)
    return open_sources(
        volumes,
        datasets=config.dataset,
        copies=config.source,
        split=config.split,
        crop=config.crop if config.write == "shards" or config.preview else None,
    )
