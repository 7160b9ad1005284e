"""Volumes: boxes of voxels, the formats they are read from, and synthetic ones.

Importing the package enters the readers into the registry.
"""

from tokenunify_scale.volumes import hdf5, images, nifti, synthetic, tensorstore, tiff

__all__ = ["hdf5", "images", "nifti", "synthetic", "tensorstore", "tiff"]
