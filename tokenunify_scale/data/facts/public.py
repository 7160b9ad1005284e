"""What is known of a public data set, and the volumes that the paper pretrains on.

Each fact names where it stands (`Dataset.sources`); what no source told us is None, printed as
"not documented". Nothing here opens a file or a connection.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tokenunify_scale.volumes.geometry import Box, Triple


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One volume and what is known of it; sizes in voxels and voxel sizes in nm, both (z, y, x)."""

    name: str
    """What users type."""
    title: str
    """What others call it."""
    tissue: str
    """Animal and tissue."""
    modality: str
    """How it was imaged."""
    axes: str
    """Order of the axes as stored; readers hand over zyx in any case."""
    voxel_size: tuple[float, float, float]
    """Sides of a voxel (z, y, x) in nm."""
    shape: Triple | None = None
    """Of the volume as published (z, y, x)."""
    splits: Mapping[str, Box] = field(default_factory=dict)
    """Boxes by name: pretraining, train, validation, test. Empty: all of it is for pretraining."""
    licence: str | None = None
    """As its keepers state it."""
    access: Literal["open", "download", "form"]
    """open: read in place. download: a public file to fetch first. form: access on request."""
    location: str
    """What is read in place, the file to fetch, or the page with the form."""
    page: str
    """Where its keepers describe it."""
    copy: str
    """What a user's own copy may be called, as ``--source`` takes it."""
    citation: str
    """What to cite."""
    doi: str | None = None
    """Of the citation."""
    uncertain: str
    """What to know before trusting the rest."""
    sources: Mapping[str, str]
    """Where each fact stands: field to keys of `catalogue.SOURCES`, with commas between them."""

    @property
    def test_only(self) -> bool:
        """Whether the paper only tests on it, so that pretraining has no part of it."""
        return bool(self.splits) and not {"pretraining", "train"} & set(self.splits)

    def region(self, split: str | None = None) -> Box | None:
        """The box of a split, or None where it is the whole volume.

        Args:
            split: its name; None is what pretraining may read, which is the split ``pretraining``,
                else ``train``, else all of it.

        Raises:
            KeyError: the data set has no such split, or only a test split.
        """
        if split is None and not self.splits:
            return None
        box = self.splits[split or ("pretraining" if "pretraining" in self.splits else "train")]
        return None if self.shape is not None and box == Box.of(self.shape) else box


def sections(start: int, stop: int, *, shape: Triple) -> Box:
    """The box of sections ``[start, stop)`` of a volume of ``shape``."""
    return Box((start, 0, 0), (stop, *shape[1:]))


ODC_BY = "ODC-By 1.0 (attribution)"
_BUCKET = "precomputed://gs://neuroglancer-public-data"

FAFB = Dataset(
    name="fafb",
    title="FAFB v14",
    tissue="Drosophila, adult female brain",
    modality="ssTEM",
    axes="xyz",
    voxel_size=(40.0, 4.0, 4.0),
    # The brain's bounding box in nm, in whole voxels inward.
    splits={"pretraining": Box((51, 18964, 48050), (6780, 99708, 213421))},
    licence="CC BY-NC 4.0",
    access="open",
    location="precomputed://gs://neuroglancer-fafb-data/fafb_v14/fafb_v14_orig",
    page="https://temca2data.org/",
    copy="fafb.h5:main",
    citation="Zheng et al. 2018, A Complete Electron Microscopy Volume of the Brain of Adult "
    "Drosophila melanogaster, Cell 174:730-743",
    doi="10.1016/j.cell.2018.06.019",
    uncertain="The box is the brain's, in the nm of a template for this alignment. The paper's "
    "group cut pieces of sections 3000-4000 of an older one; which voxels of v14 they are is not "
    "documented. CREMI was cut from this brain, at places not documented here: pretraining may see "
    "its images. Contrast-normalised: fafb_v14_clahe beside it.",
    sources={
        "tissue": "fafbseg",
        "modality": "fafbseg",
        "voxel_size": "bucket, flybrains",
        "splits": "flybrains",
        "licence": "bucket",
        "location": "bucket",
        "uncertain": "ms-con-em, vem",
    },
)

FIB25 = Dataset(
    name="fib25",
    title="FIB-25 (seven columns)",
    tissue="Drosophila, optic medulla",
    modality="FIB-SEM",
    axes="xyz",
    voxel_size=(8.0, 8.0, 8.0),
    shape=(8090, 6643, 6446),
    licence=f"{ODC_BY}; credit Janelia FlyEM / HHMI",
    access="open",
    location=f"{_BUCKET}/flyem_fib-25/image",
    page="https://www.janelia.org/project-team/flyem/data-and-software-release",
    copy="cube.h5:raw",
    citation="Takemura et al. 2015, Synaptic Circuits and Their Variations within Different "
    "Columns in the Visual System of Drosophila, PNAS 112:13711-13716",
    doi="10.1073/pnas.1509820112",
    uncertain="The bucket says 8 nm, the cubes of real_data.md say 10 nm of themselves. Where "
    "in this volume those cubes lie is not documented: pretraining may see their images. The "
    "paper's group cut the middle of 1000 sections of another export. Labels of a part: "
    "flyem_fib-25/ground_truth.",
    sources={
        "tissue": "bucket, flyem",
        "modality": "flyem",
        "voxel_size": "bucket, info",
        "shape": "info",
        "licence": "bucket",
        "location": "bucket",
        "uncertain": "ms-con-em",
    },
)

KASTHURI = {
    "tissue": "mouse, somatosensory cortex",
    "modality": "ATUM serial-section SEM",
    "voxel_size": (30.0, 6.0, 6.0),
    "citation": "Kasthuri et al. 2015, Saturated Reconstruction of a Volume of Neocortex, "
    "Cell 162:648-661",
    "doi": "10.1016/j.cell.2015.06.054",
}

KASTHURI15 = Dataset(
    name="kasthuri15",
    title="Kasthuri15 (kasthuri2011)",
    **KASTHURI,
    axes="xyz",
    shape=(1850, 12895, 10747),
    # The middle 1000 sections, of each the middle 4096x4096, as the group's script has it. AC3,
    # which the paper tests on, begins at y = 8712: outside.
    splits={"pretraining": Box((425, 4399, 3325), (1425, 8495, 7421))},
    licence=ODC_BY,
    access="open",
    location=f"{_BUCKET}/kasthuri2011/image_color_corrected",
    page="https://neurodata.io/data/kasthuri15/",
    copy="kasthuri.h5:main",
    uncertain="The box is what a script of the paper's group cuts, in the shape of another export "
    "of this stack. It holds AC4 and not AC3, which begin at (1100, 5440, 4400) and (1000, 8712, "
    "5472) where sections count from 1; whether the bucket's do is not documented. Also there: "
    "image (contrast as recorded), ground_truth.",
    sources={
        "tissue": "kasthuri11",
        "modality": "kasthuri11",
        "voxel_size": "bucket, weih527",
        "shape": "weih527",
        "splits": "ms-con-em",
        "licence": "bucket",
        "location": "bucket",
        "uncertain": "datamap",
    },
)


def _mitoem(letter: str, *, animal: str, url: str, uncertain: str) -> Dataset:
    """One of the two volumes of MitoEM; the challenge's labels are mitochondria."""
    shape = (1000, 4096, 4096)
    return Dataset(
        name=f"mitoem-{letter.lower()}",
        title=f"MitoEM-{letter}",
        tissue=f"{animal}, cortex",
        modality="multi-beam SEM",
        axes="zyx, a PNG a section",
        voxel_size=(30.0, 8.0, 8.0),
        shape=shape,
        # Paper: pretraining reads all sections, and nothing is tested on them.
        splits={
            "pretraining": Box.of(shape),
            "challenge-train": sections(0, 400, shape=shape),
            "challenge-validation": sections(400, 500, shape=shape),
            "challenge-test": sections(500, 1000, shape=shape),
        },
        access="download",
        location=url,
        page="https://mitoem.grand-challenge.org/",
        copy=f"EM30-{letter}-im/im",
        citation="Wei et al. 2020, MitoEM Dataset: Large-scale 3D Mitochondria Instance "
        "Segmentation from EM Images, MICCAI",
        doi="10.1007/978-3-030-59722-1_7",
        uncertain="Labels are mitochondria, not neurons; the card of their repository says MIT, of "
        f"the images no licence is documented. {uncertain}",
        sources={
            "tissue": "mitoem",
            "modality": "vem",
            "voxel_size": "mitoem",
            "shape": "mitoem",
            "splits": "ms-con-em, mitoem, mitoem-files",
            "location": "mitoem-files",
            "uncertain": "pytc, mitoem-files",
        },
    )


MITOEM = (
    _mitoem(
        "H",
        animal="human",
        url="https://www.dropbox.com/s/z41qtu4y735j95e/EM30-H-im.zip?dl=1",
        uncertain="EM30-H-im-pad.zip on Hugging Face is another, padded stack of 1040 sections.",
    ),
    _mitoem(
        "R",
        animal="rat",
        url="https://huggingface.co/datasets/pytc/EM30/resolve/main/EM30-R-im.zip",
        uncertain="The archive's folder __MACOSX is no part of the stack.",
    ),
)
