"""What a run was trained on: volumes by name, what is known of them, and on whose terms."""

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from tokenunify_scale.config import ConfigError, DataError, HostError
from tokenunify_scale.data.copies import is_synthetic
from tokenunify_scale.data.datasets import DATASETS, Dataset
from tokenunify_scale.data.shards.index import INDEX, read_index
from tokenunify_scale.model_card.records import Record
from tokenunify_scale.train.runlog import read_result
from tokenunify_scale.volumes.address import parse_address
from tokenunify_scale.volumes.hdf5 import SUFFIXES, split_spec
from tokenunify_scale.volumes.synthetic import parse_spec
from tokenunify_scale.volumes.volume import open_volume

Terms = Literal["none", "known", "unknown"]
LOCATIONS = {dataset.location: dataset for dataset in DATASETS.values()}
# Names of files that must be fetched, and that hold one data set only.
FILES = {
    split_spec(dataset.copy)[0].name: dataset
    for dataset in DATASETS.values()
    if dataset.access != "open" and split_spec(dataset.copy)[1]
}
HUB = re.compile(r"https://huggingface\.co/datasets/([\w.-]+/[\w.-]+)(?:/.*)?")
LONG = 300  # letters of what a file says of itself


@dataclass(frozen=True, kw_only=True)
class Source:
    """A volume, or a folder of them of which no more is known."""

    name: str
    """Without the folders that it lies in, which are no one's business."""
    synthetic: bool = False
    dataset: Dataset | None = None
    """The data set that it is, or is a part of, as its own records say."""
    alike: Dataset | None = None
    """The data set whose published file has its name."""
    origin: str | None = None
    """Where it is from, as the file says."""
    licence: str | None = None
    """As the file says."""
    shape: tuple[int, ...] | None = None
    """(z, y, x) in voxels."""
    voxel_size: tuple[float, ...] | None = None
    """(z, y, x) in nm."""
    use: str = ""
    """What the run took of it."""

    @property
    def terms(self) -> Terms:
        """Whether someone's terms bind what derives from it, and whether they are known."""
        if self.synthetic:
            return "none"
        known = self.dataset or self.alike
        return "known" if self.licence or (known and known.licence) else "unknown"

    @property
    def repository(self) -> str | None:
        """Its data set on the Hugging Face hub, where that is certain."""
        found = self.dataset and HUB.fullmatch(self.dataset.location)
        return found[1] if found else None

    def __str__(self) -> str:
        """An entry of a list."""
        lines = [f"- `{self.name}`{self._sizes()}{self.use}.", *self._about()]
        if self.origin:
            lines.append(f"Origin, as the file says: {self.origin}.")
        if self.licence:
            lines.append(f"Licence, as the file says: {self.licence}.")
        return "\n  ".join(lines)

    def _sizes(self) -> str:
        shape = f"{times(self.shape)} voxels" if self.shape else ""
        size = f"voxels of {times(self.voxel_size)} nm" if self.voxel_size else ""
        told = ", ".join(filter(None, (shape, size)))
        return f" ({told}; z, y, x)" if told else ""

    def _about(self) -> list[str]:
        if self.synthetic:
            return ["Made up by tokenunify_scale, so no data set's terms bind it."]
        if known := self.dataset or self.alike:
            way = "Of" if self.dataset else "Called like the published file of"
            doi = f", doi:{known.doi}" if known.doi else ""
            return [
                f"{way} {known.title}: {known.tissue}, {known.modality}; see <{known.page}>.",
                f"Licence: {known.licence or 'not documented'}. Cite: {known.citation}{doi}.",
            ]
        return [] if self.licence else ["Licence: not known."]


def sources(stage: Record) -> list[Source]:
    """The volumes of a training, as far as its records and the files that they name tell."""
    if stage.verb == "pretrain":
        return [source for folder in stage.listed("shards") for source in _of_shards(folder, stage)]
    labels, sections = stage.listed("labels"), stage.config.get("sections")
    part = f", sections {sections[0]}:{sections[1]}" if sections else ""
    labelled = [f" with labels `{told(each)}`{part}" for each in labels]
    volumes = stage.listed("volume")
    uses = labelled if len(labelled) == len(volumes) else [part] * len(volumes)
    return [replace(describe(v, stage), use=use) for v, use in zip(volumes, uses, strict=True)]


def describe(spec: str, run: Record) -> Source:
    """What is known of a volume that a run names; nothing is asked of another machine."""
    if is_synthetic(spec):
        return Source(name=spec, synthetic=True)
    source = Source(name=told(spec), dataset=LOCATIONS.get(spec))
    if "://" in spec:
        return source
    place = run.find(spec)
    path = split_spec(str(place))[0]
    source = replace(source, dataset=source.dataset or _prepared(path), alike=FILES.get(path.name))
    try:
        with open_volume(str(place)) as volume:
            said, size = volume.attributes, volume.voxel_size
            sizes: dict[str, Any] = {"shape": tuple(volume.shape), "voxel_size": size}
    except (ConfigError, DataError, HostError, OSError):
        return source
    origin = str(said.get("source", ""))
    return replace(
        source,
        **sizes,
        synthetic=_made_up(origin),
        dataset=source.dataset or LOCATIONS.get(origin),
        origin=None if _made_up(origin) or origin in LOCATIONS else _plain(origin),
        licence=_plain(str(said.get("license", ""))),
    )


def told(spec: str) -> str:
    """A volume's name: of a path or an address the last part, with the dataset inside."""
    if is_synthetic(spec):
        return spec
    path, inside = split_spec(spec)
    if path.suffix.lower() not in SUFFIXES:
        address = parse_address(spec)
        path, inside = address.url.partition("?")[0], address.dataset
    name = PurePosixPath(path).name or "volume"
    return f"{name}:{inside}" if inside else name


def times(sides: tuple[float, ...] | list[float]) -> str:
    """Sides as ``4x16x16``."""
    return "x".join(f"{side:g}" for side in sides)


def _of_shards(folder: str, stage: Record) -> list[Source]:
    """The volumes of a folder of shards; the folder itself where its index is not there."""
    name = told(folder)
    try:
        index = read_index(stage.find(folder) / INDEX)
    except DataError:
        return [Source(name=name)]
    use = f", by way of the shards `{name}`: {index.count:,} crops of {times(index.crop)} voxels"
    found = []
    for facts in index.volumes:
        source = describe(facts["path"], stage)
        known = source.dataset or DATASETS.get(facts.get("dataset", ""))
        size = facts.get("voxel_size") or source.voxel_size
        shape = facts.get("shape") or source.shape
        found.append(replace(source, dataset=known, use=use, shape=shape, voxel_size=size))
    return found


def _prepared(path: Path) -> Dataset | None:
    """The data set of a copy that ``prepare`` wrote, as its own record beside it says."""
    try:
        result = read_result(path.parent) or {}
    except DataError:
        return None
    if result.get("verb") != "prepare":
        return None
    pairs = zip(result.get("files", []), result.get("volumes", []), strict=False)
    found = (facts.get("dataset") for file, facts in pairs if Path(file).name == path.name)
    return DATASETS.get(next(found, None) or "")


def _made_up(origin: str) -> bool:
    """Whether a file says that it is the copy of a volume that the code made up."""
    try:
        return ":" in origin and is_synthetic(origin) and bool(parse_spec(origin))
    except ConfigError:
        return False


def _plain(text: str) -> str | None:
    """What a file says of itself in a line of ASCII, without places and links; None for nothing."""
    words = (told(word) if re.match(r"/\w", word) else word for word in text.split())
    line = " ".join(word for word in words if "://" not in word)
    line = line.encode("ascii", "replace").decode().rstrip(".")
    return (line if len(line) <= LONG else f"{line[:LONG]} ...") or None
