"""The labelled volumes that the paper fine-tunes and tests on: AC3/AC4, CREMI, its own MEC data."""

from tokenunify_scale.data.facts.public import KASTHURI, Dataset, sections
from tokenunify_scale.volumes.geometry import Box


def _ac(number: int, *, depth: int, splits: dict[str, tuple[int, int]], uncertain: str) -> Dataset:
    """AC3 or AC4, parts of Kasthuri15."""
    shape = (depth, 1024, 1024)
    return Dataset(
        name=f"ac{number}",
        title=f"AC{number} (SNEMI3D)",
        **KASTHURI,
        axes="zyx",
        shape=shape,
        splits={name: sections(*ends, shape=shape) for name, ends in splits.items()},
        access="download",
        location="https://software.rc.fas.harvard.edu/lichtman/vast/AC3AC4Package.zip",
        page="https://drive.google.com/drive/folders/1JAdoKchlWrHnbTXvnFn6pWWwx6VIiMH3?usp=sharing",
        copy=f"AC{number}_inputs.h5:main",
        uncertain=f"{uncertain} What the archive holds is not documented here; the page is the one "
        "that the paper's release gives for its HDF5 files. Some give the sections 29 nm. No "
        "licence is documented for this part of Kasthuri15, which is ODC-By.",
        sources={
            "tissue": "kasthuri11",
            "modality": "kasthuri11",
            "voxel_size": "weih527",
            "shape": "weih527",
            "splits": "release, weih527",
            "location": "weih527, tokenunify",
            "uncertain": "29 nm, tokenunify, bucket",
        },
    )


AC = (
    _ac(3, depth=256, splits={"test": (0, 100)}, uncertain="Sections 100-255 have no use there."),
    _ac(
        4,
        depth=100,
        splits={"train": (0, 80), "validation": (80, 100)},
        uncertain="The pretraining region of Kasthuri15 holds it.",
    ),
)


def _cremi(letter: str) -> Dataset:
    """One of the three labelled volumes of CREMI."""
    file, shape = f"sample_{letter}_20160501.hdf", (125, 1250, 1250)
    return Dataset(
        name=f"cremi-{letter.lower()}",
        title=f"CREMI {letter}",
        tissue="Drosophila, adult brain",
        modality="ssTEM",
        axes="zyx",
        voxel_size=(40.0, 4.0, 4.0),
        shape=shape,
        splits={"train": sections(0, 100, shape=shape), "test": sections(100, 125, shape=shape)},
        access="download",
        location=f"https://cremi.org/static/data/{file}",
        page="https://cremi.org/data/",
        copy=f"{file}:volumes/raw",
        citation="Funke, Saalfeld, Bock, Turaga, Perlman, CREMI: MICCAI Challenge on Circuit "
        "Reconstruction from Electron Microscopy Images, https://cremi.org/",
        uncertain="The splits are those of the release's settings; no table of the paper has it. "
        "Labels: volumes/labels/neuron_ids of the same file. The padded files (200x3072x3072, "
        "labels at (37, 911, 911)) are other volumes. No licence is documented.",
        sources={
            "tissue": "cremi",
            "modality": "cremi",
            "voxel_size": "cremi-files",
            "shape": "cremi-files",
            "splits": "settings, release",
            "location": "cremi-files",
            "uncertain": "cremi, cremi-padded",
        },
    )


CREMI = tuple(_cremi(letter) for letter in "ABC")


def _wafer(number: str, *, split: str, uncertain: str = "") -> Dataset:
    """One of the six volumes of the paper's own data."""
    shape = (125, 1250, 1250)
    return Dataset(
        name=f"wafer{number}",
        title=f"MEC wafer {number}",
        tissue="mouse, medial entorhinal cortex",
        modality="multi-beam SEM",
        axes="zyx",
        # Paper: 4x4x35, 8x8x35 and 8x8x40 nm in three places; the data's own note is the second.
        voxel_size=(35.0, 8.0, 8.0),
        shape=shape,
        splits={split: Box.of(shape)},
        licence="research only: no commercial use, no redistribution",
        access="form",
        location="https://huggingface.co/datasets/cyd0806/wafer_EM",
        page="https://github.com/ydchen0806/TokenUnify",
        copy=f"wafer{number.replace('-', '_')}_inputs.h5:main",
        citation="Chen et al. 2025, TokenUnify: Scaling Up Autoregressive Pretraining for Neuron "
        "Segmentation, ICCV, arXiv:2405.16847",
        uncertain=f"{uncertain}The file is named as in the release's code; what lies behind the "
        "form is not documented. Other volumes of this tissue have sides of 1251 voxels.",
        sources={
            "tissue": "tokenunify, mec",
            "modality": "tokenunify",
            "voxel_size": "tokenunify",
            "shape": "tokenunify",
            "splits": "release",
            "licence": "tokenunify",
            "location": "tokenunify, vem",
            "uncertain": "cad, mec, release" if uncertain else "mec, release",
        },
    )


MEC = (
    _wafer(
        "4",
        split="test",
        uncertain="An older paper of the group (CAD) calls it olfactory cortex, and trains on 100 "
        "of its sections and tests on 25; this one tests on all. ",
    ),
    *(_wafer(number, split="train") for number in ("25", "26", "26-2", "36")),
    _wafer("36-2", split="test"),
)
