"""The data sets as tables: what docs/datasets.md prints, from the facts and nothing else."""

from collections.abc import Iterable, Sequence
from typing import Literal

from tokenunify_scale.data.datasets import DATASETS, GROUPS
from tokenunify_scale.data.facts.public import Dataset
from tokenunify_scale.volumes.geometry import Box, Triple

UNKNOWN = "not documented"

SOURCES = {
    "bucket": "google/neuroglancer, README: its example volumes, their licences",
    "info": "google/neuroglancer, README of the precomputed format: example of an info file",
    "flybrains": "navis-flybrains, README: template FAFB14",
    "fafbseg": "fafbseg-py.readthedocs.io, overview",
    "flyem": "Xu et al. 2017, eLife 6:e25916, Figure 4",
    "kasthuri11": "openconnectomeproject.org/kasthuri11",
    "datamap": "data map of the Open Connectome Project: extents of AC3, AC4 and membranes",
    "weih527": "weih527's code of Reinforced Consistency Learning and of Superhuman, READMEs",
    "29 nm": "README of a later code that trains on AC4 (6x6x29 nm), which names the archive too",
    "ms-con-em": "ydchen0806/MS-Con-EM-Seg at 8db8262, data_preprocess/",
    "release": "ydchen0806/TokenUnify at ef7ea3b: src/data_provider_labeled.py, provider_valid.py",
    "settings": "ydchen0806/TokenUnify at 0b28263: config/seg_3d_*.yaml",
    "tokenunify": "ydchen0806/TokenUnify, README of 2025: data table, licence, data information",
    "mec": "card of huggingface.co/datasets/haoyuan7/mec, other volumes of the tissue",
    "cad": "liuxy1103/CAD (CVPR 2024), README",
    "cremi": "cremi.org/data",
    "cremi-files": "download scripts of torch_em and dacapo; card of MedOtter/CREMI",
    "cremi-padded": "scripts of several participants of CREMI",
    "mitoem": "vcg.seas.harvard.edu/publications/mitoem; docs of pytorch_connectomics",
    "mitoem-files": "download script of torch_em; docs of pytorch_connectomics and BiaPy",
    "pytc": "card of huggingface.co/datasets/pytc/MitoEM",
    "vem": "JackieZhai/awesome-vem-datasets",
}
"""Where a fact stands, by a short name. All were read as stored copies, not where they are kept."""


def table(kind: Literal["facts", "places", "splits", "cite", "notes", "sources"] = "facts") -> str:
    """One of the tables of docs/datasets.md in Markdown, without a line break at the end."""
    return "\n".join(_TABLES[kind]())


def _facts() -> list[str]:
    rows = [
        (
            f"`{d.name}`",
            d.title,
            d.tissue,
            d.modality,
            _times(d.voxel_size),
            _times(d.shape),
            d.axes,
            d.licence or UNKNOWN,
            d.access,
        )
        for d in DATASETS.values()
    ]
    heads = ("name", "data set", "tissue", "modality", "voxel nm", "shape", "stored", "licence")
    return _markdown((*heads, "access"), rows)


def _places() -> list[str]:
    rows = [(f"`{d.name}`", f"`{d.location}`", f"`{d.copy}`") for d in DATASETS.values()]
    return _markdown(("name", "location", "a copy, as `--source` takes it"), rows)


def _splits() -> list[str]:
    rows = []
    for d in DATASETS.values():
        told = [f"{name} {_box(box, shape=d.shape)}" for name, box in d.splits.items()]
        read = "nothing: the paper tests on it"
        if not d.test_only:
            box = d.region()
            read = "all" if box is None else _box(box, shape=d.shape)
        rows.append((f"`{d.name}`", "; ".join(told) or UNKNOWN, read))
    return _markdown(("name", "splits (z y x, stop not included)", "pretraining reads"), rows)


def _cite() -> list[str]:
    return _by_text(
        (d, f"{d.citation}{f', doi:{d.doi}' if d.doi else ''}. <{d.page}>")
        for d in DATASETS.values()
    )


def _notes() -> list[str]:
    return _by_text((d, d.uncertain) for d in DATASETS.values())


def _sources() -> list[str]:
    rows = []
    for key, text in SOURCES.items():
        facts: dict[str, list[str]] = {}
        for d in DATASETS.values():
            for fact, keys in d.sources.items():
                if key in keys.split(", "):
                    facts.setdefault(fact.replace("_", " "), []).append(d.name)
        rows.append((text, "; ".join(f"{fact}: {_short(n)}" for fact, n in facts.items())))
    return _markdown(("source", "what it tells"), rows)


_TABLES = {
    "facts": _facts,
    "places": _places,
    "splits": _splits,
    "cite": _cite,
    "notes": _notes,
    "sources": _sources,
}


def _short(names: Sequence[str]) -> str:
    """Names in their order, those of a whole group by the group's name."""
    words: dict[str, None] = {}
    for name in names:
        groups = (g for g, members in GROUPS.items() if name in members and {*members} <= {*names})
        words[next(groups, name)] = None
    return ", ".join(words)


def _by_text(texts: Iterable[tuple[Dataset, str]]) -> list[str]:
    """A list of texts, each after the names of the data sets that share it."""
    names: dict[str, list[str]] = {}
    for dataset, text in texts:
        names.setdefault(text, []).append(f"`{dataset.name}`")
    return [f"- {', '.join(owners)}: {text}" for text, owners in names.items()]


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _times(sides: Sequence[float] | None) -> str:
    return UNKNOWN if sides is None else "x".join(f"{side:g}" for side in sides)


def _box(box: Box, *, shape: Triple | None) -> str:
    """A box in words: all of a volume, sections of it, or three ranges."""
    if shape is not None and box == Box.of(shape):
        return "all"
    ranges = [f"{a}:{b}" for a, b in zip(box.start, box.stop, strict=True)]
    whole = shape is not None and box.start[1:] == (0, 0) and box.stop[1:] == shape[1:]
    return f"sections {ranges[0]}" if whole else " ".join(ranges)
