"""Gapless neurites that drift through all sections, their affinities, and jobs of 8 blocks."""

import numpy as np

from tokenunify_scale.postprocess.source import open_affinities
from tokenunify_scale.postprocess.stages import Job
from tokenunify_scale.postprocess.waterz import WaterzConfig
from tokenunify_scale.volumes.geometry import Box, edges
from tokenunify_scale.volumes.hdf5 import write_hdf5

SHAPE, BLOCK, HALO = (20, 96, 112), (10, 48, 56), (2, 12, 12)
OFFSETS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
FAR = ((2, 0, 0), (0, 5, 0), (0, 0, 5))


def columns(shape=SHAPE, *, count=24, seed=1):
    """Gapless neurites that run through all sections, drifting."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int64)
    centres = generator.uniform(0, shape[1:], (count, 2))
    rows, cols = np.mgrid[: shape[1], : shape[2]]
    for z in range(shape[0]):
        moved = centres + z * 0.4
        distance = (rows - moved[:, 0, None, None]) ** 2 + (cols - moved[:, 1, None, None]) ** 2
        labels[z] = distance.argmin(axis=0) + 1
    return labels


def perfect(labels, offsets=OFFSETS):
    """Affinities of labels without background; edges that leave the volume are 1."""
    affinities = np.ones((len(offsets), *labels.shape), np.float32)
    for channel, offset in zip(affinities, offsets, strict=True):
        here, there = edges(offset, sides=labels.shape)
        channel[here] = labels[here] == labels[there]
    return affinities


def flipped(affinities, share, *, seed=0):
    """A share of the affinities is the opposite."""
    generator = np.random.default_rng(seed)
    return np.where(generator.random(affinities.shape) < share, 1 - affinities, affinities)


def predicted(folder, affinities, offsets=OFFSETS):
    facts = {
        "offsets": [list(each) for each in offsets],
        "axes": "czyx",
        "voxel_size": [40.0, 8.0, 8.0],
    }
    write_hdf5(
        folder / "affinities.h5",
        {"affinities": affinities.astype(np.float32)},
        attributes={"affinities": facts},
    )
    return folder


def job(source, folder, *, method="waterz", options=None, **changes):
    folder.mkdir(exist_ok=True)
    settings = {
        "source": str(source),
        "method": method,
        "options": options or WaterzConfig(scoring="mean"),
        "folder": folder,
        "shape": open_affinities(source).sides,
        "block": BLOCK,
        "halo": HALO,
        "voxel_size": (40.0, 8.0, 8.0),
        "min_size": 0,
        "dissolve": "nearest",
        "facts": {"axes": "zyx"},
    }
    return Job(**{**settings, **changes})


def arrays(outcome):
    return {
        name: store.read(Box.of(store.shape)) if hasattr(store, "read") else store
        for name, store in outcome.arrays.items()
    }
