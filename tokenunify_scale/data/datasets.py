"""From the name of a public data set to the volumes to read, and to the part that may be read."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenunify_scale.config import ConfigError, did_you_mean
from tokenunify_scale.data.facts.labelled import AC, CREMI, MEC
from tokenunify_scale.data.facts.public import FAFB, FIB25, KASTHURI15, MITOEM, Dataset
from tokenunify_scale.volumes.geometry import Box, Triple

__all__ = ["DATASETS", "GROUPS", "Dataset", "Place", "locate"]

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (FAFB, *MITOEM, FIB25, KASTHURI15, *AC, *CREMI, *MEC)
}
GROUPS: dict[str, tuple[str, ...]] = {
    "mitoem": tuple(dataset.name for dataset in MITOEM),
    "cremi": tuple(dataset.name for dataset in CREMI),
    "mec": tuple(dataset.name for dataset in MEC),
    "paper": ("fafb", "mitoem-h", "mitoem-r", "fib25", "kasthuri15"),
}
"""Names that stand for several data sets; ``paper`` is what the paper pretrains on."""


@dataclass(frozen=True)
class Place:
    """A volume to read, and which part of it."""

    spec: str
    """What `open_volume` takes."""
    voxel_size: tuple[float, float, float]
    """Sides of a voxel (z, y, x) in nm, for a copy that does not say."""
    box: Box | None
    """What may be read of it, or None for all."""
    name: str
    """Of the data set: ``DATASETS[name]`` has its licence and citation."""
    shape: Triple | None = None
    """What the box was made for (z, y, x); in a volume of another shape it means nothing."""


def locate(name: str, *, source: tuple[str, ...] = (), split: str | None = None) -> list[Place]:
    """Where the volumes of a data set are, and which part of them to read.

    Without ``split`` the boxes are for pretraining: the paper's region where it is known, the
    training split where there is one, so that no test section is seen, else the whole volume.
    Volumes that the paper only tests on are left out of a group. A copy of a volume whose published
    shape is not documented is read whole, since a box in it means nothing.

    Args:
        name: a key of `DATASETS`, or of `GROUPS`.
        source: the user's own copies, one spec a volume in the data set's order; or some of them
            by name, as in ``cremi-a=copy.h5:raw``, and the others where they are published.
        split: a key of `Dataset.splits` to read instead, such as ``test``.

    Returns:
        One place a volume, in the data set's order.

    Raises:
        ConfigError: unknown data set or split, another number of sources than volumes, a volume
            that cannot be read in place, or one that only serves for testing.
    """
    datasets = _members(name, split=split)
    copies = _copies(source, datasets, name=name)
    if not source:
        _check_open(datasets, name=name)
    places = []
    for dataset in datasets:
        copy, box = copies.get(dataset.name), dataset.region(split)
        if copy is not None and dataset.shape is None:
            box = None
        shape = None if box is None else dataset.shape
        spec = copy or _in_place(dataset)
        places.append(Place(spec, dataset.voxel_size, box, dataset.name, shape))
    return places


def _members(name: str, *, split: str | None) -> list[Dataset]:
    """The data sets that a name stands for and that have the split."""
    if name not in DATASETS and name not in GROUPS:
        raise ConfigError(f"no data set {name!r}: {did_you_mean(name, [*DATASETS, *GROUPS])}")
    datasets = [DATASETS[member] for member in GROUPS.get(name, (name,))]
    if split is not None:
        if found := [dataset for dataset in datasets if split in dataset.splits]:
            return found
        known = sorted({key for dataset in datasets for key in dataset.splits})
        raise ConfigError(f"{name} has no split {split!r}; it has: {', '.join(known) or 'none'}")
    if found := [dataset for dataset in datasets if not dataset.test_only]:
        return found
    raise ConfigError(
        f"{name}: the paper tests on it, so nothing of it is for pretraining; to read it all the "
        "same, give the file itself to --volumes"
    )


def _copies(source: Sequence[str], datasets: Sequence[Dataset], *, name: str) -> dict[str, str]:
    """The user's copies by the name of their data set."""
    names = [dataset.name for dataset in datasets]
    pairs = [word.partition("=") for word in source]
    named = {key: spec for key, equals, spec in pairs if equals and spec and key in names}
    if named and len(named) == len(source):
        return named
    if named:
        raise ConfigError(
            f"--source {' '.join(source)}: give NAME=SPEC once for each volume you have, or one "
            f"spec for every volume; {_expected(datasets, name=name)}"
        )
    if source and len(source) != len(datasets):
        raise ConfigError(f"--source: {len(source)} given; {_expected(datasets, name=name)}")
    return dict(zip(names, source, strict=False))


def _check_open(datasets: Sequence[Dataset], *, name: str) -> None:
    """Refuse a group of which a part cannot be read in place, and say all that is missing."""
    closed = [dataset for dataset in datasets if dataset.access != "open"]
    if len(datasets) > 1 and closed:
        ways = "; ".join(dict.fromkeys(_way(dataset) for dataset in closed))
        raise ConfigError(f"{name}: {ways}; then --source: {_expected(datasets, name=name)}")


def _in_place(dataset: Dataset) -> str:
    """What is read of a data set in place."""
    if dataset.access == "open":
        return dataset.location
    raise ConfigError(f"{dataset.name}: {_way(dataset)}; then --source {dataset.copy}")


def _way(dataset: Dataset) -> str:
    """How to come by a copy."""
    if dataset.access == "form":
        return f"access needs a form, see {dataset.location}"
    verb = "download and unpack" if ".zip" in dataset.location else "download"
    return f"{verb} {dataset.location} (see {dataset.page})"


def _expected(datasets: Sequence[Dataset], *, name: str) -> str:
    """The volumes of a data set, each with what a copy of it is called."""
    listed = ", ".join(f"{dataset.name} (like {dataset.copy})" for dataset in datasets)
    return f"{name} takes one spec a volume, in this order: {listed}"
