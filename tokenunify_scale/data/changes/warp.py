"""Changes that move voxels; labels move with the image.

Flips, transposes and quarter turns only reorder voxels. All others - rotation, zoom, elastic
deformation, misalignment - are composed into one map from places in the new crop to places in the
old, so that a crop is resampled once, however many of them are drawn. What would come from beyond
the crop's border is its mirror image, as ``numpy.pad`` with ``reflect`` has it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.changes.change import Change

FOLD = 8  # spacing over amplitude: the least at which none of 200 random fields folded


@dataclass(frozen=True, kw_only=True)
class Flip(Change):
    """Mirror images."""

    p: float = 0.5
    """Probability of a mirror image, for each of the three axes by itself."""


@dataclass(frozen=True, kw_only=True)
class Transpose(Change):
    """Exchange of y and x, where crop and voxel are square in the plane."""

    p: float = 0.5
    """Probability that y and x are exchanged."""


@dataclass(frozen=True, kw_only=True)
class Rotate90(Change):
    """One to three quarter turns in the plane, where crop and voxel are square there."""


@dataclass(frozen=True, kw_only=True)
class Rotate(Change):
    """A free rotation in the plane, about the crop's middle."""

    LIMITS = {"angle": (0, 180)}

    angle: float = 180.0
    """Largest angle to either side, in degrees."""


@dataclass(frozen=True, kw_only=True)
class Rescale(Change):
    """A zoom in the plane, about the crop's middle.

    Source: PyTorch Connectomics (0.8 to 1.25).
    """

    LIMITS = {"low": (0.25, 1), "high": (1, 4)}

    low: float = 0.8
    """Smallest factor: below 1 more of the tissue is seen, the rim of it mirrored."""
    high: float = 1.25
    """Largest factor: above 1 everything is larger."""


@dataclass(frozen=True, kw_only=True)
class Elastic(Change):
    """A smooth deformation in the plane, the same in all sections.

    Source: Funke et al. 2018, in gunpowder (control points 40 voxels apart, moved by 2 voxels).
    """

    LIMITS = {"spacing": (1, math.inf)}

    spacing: float = 40.0
    """Distance of the control points, in voxels."""
    amplitude: float = 2.0
    """Standard deviation of a control point's displacement along y and x, in voxels."""
    jitter: float = 0.0
    """Standard deviation of a displacement of each section by itself, in voxels."""

    def __post_init__(self) -> None:
        """Refuse what would fold the image, too."""
        Change.__post_init__(self)
        if self.amplitude > self.spacing / FOLD:
            raise ConfigError(
                f"amplitude is at most 1/{FOLD} of spacing {self.spacing:g}, or the image folds; "
                f"got {self.amplitude:g}"
            )


@dataclass(frozen=True, kw_only=True)
class Misalignment(Change):
    """Sections displaced in the plane: one of them (slip), or all from a random one on (shift).

    Source: Lee et al. 2017 (up to 17 voxels).
    """

    LIMITS = {"displacement": (1, math.inf)}

    displacement: float = 17.0
    """Largest displacement, in voxels; whole voxels, at least 1."""


def orient(
    array: np.ndarray, *, flips: Sequence[int], transpose: bool, quarters: int
) -> np.ndarray:
    """Mirror, then exchange y and x, then turn an array [D, H, W].

    Args:
        array: any type.
        flips: axes to mirror.
        transpose: whether y and x change places.
        quarters: quarter turns in the plane, from y towards x.

    Returns:
        A contiguous array; the voxels of the old one where nothing moves.
    """
    array = np.flip(array, tuple(flips))
    array = np.rot90(array.swapaxes(1, 2) if transpose else array, quarters, axes=(1, 2))
    return np.ascontiguousarray(array)


@dataclass(frozen=True)
class Warp:
    """Where each voxel of a new crop comes from; ``p`` is its place (y, x) from the middle.

    A section's source is ``matrix @ (p - offset) + field[p]``.
    """

    matrix: np.ndarray
    """Rotation and zoom, [2, 2]."""
    offsets: np.ndarray
    """How far each section is displaced, [D, 2] voxels."""
    field: np.ndarray | None = None
    """Elastic deformation, [2, H, W] voxels."""

    def apply(
        self, crop: np.ndarray, labels: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Resample a crop uint8 [D, H, W] linearly, its labels of any type by the nearest voxel.

        Returns:
            New contiguous arrays of the same shapes and types, or None for labels that are None.
        """
        sides = crop.shape[1:]
        middle = (np.array(sides, np.float32) - 1)[:, None, None] / 2
        places = np.indices(sides, dtype=np.float32) - middle
        places = np.einsum("ij,jyx->iyx", self.matrix.astype(np.float32), places) + middle
        if self.field is not None:
            places += self.field
        moved = np.empty(crop.shape, crop.dtype)
        moved_labels = None if labels is None else np.empty(labels.shape, labels.dtype)
        for offset in np.unique(self.offsets, axis=0):
            sections = np.flatnonzero((self.offsets == offset).all(axis=1))
            source = places - (self.matrix @ offset).astype(np.float32)[:, None, None]
            source = _reflect(source, sides)
            moved[sections] = _linear(crop[sections], source)
            if labels is not None:
                moved_labels[sections] = _nearest(labels[sections], source)
        return moved, moved_labels


def rotation(degrees: float, *, voxel_size: tuple[float, float, float] | None) -> np.ndarray:
    """The matrix [2, 2] for ``Warp`` that turns the image from y towards x, in nm not in voxels."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    stretch = 1.0 if voxel_size is None else voxel_size[1] / voxel_size[2]
    return np.array([[cos, sin / stretch], [-sin * stretch, cos]])


def zoom(config: Rescale, *, rng: np.random.Generator) -> float:
    """A random factor, as likely to halve as to double where the limits allow both."""
    return math.exp(rng.uniform(math.log(config.low), math.log(config.high)))


def elastic_field(
    config: Elastic, sides: tuple[int, int], *, rng: np.random.Generator
) -> np.ndarray:
    """Displacements [2, H, W] in voxels, float32: cubic between random ones at control points."""
    nodes = [max(2, round((side - 1) / config.spacing) + 1) for side in sides]
    grid = config.amplitude * rng.standard_normal((1, 2, *nodes))
    grid = torch.from_numpy(grid.astype(np.float32))
    return F.interpolate(grid, sides, mode="bicubic", align_corners=True)[0].numpy()


def slip_offsets(config: Misalignment, depth: int, *, rng: np.random.Generator) -> np.ndarray:
    """Offsets [depth, 2] of one displaced section, or of none where there is but one."""
    offsets = np.zeros((depth, 2))
    if depth > 1:
        offsets[rng.integers(depth)] = _displacement(config.displacement, rng)
    return offsets


def shift_offsets(config: Misalignment, depth: int, *, rng: np.random.Generator) -> np.ndarray:
    """Offsets [depth, 2]: zero up to a random section, the same from there on."""
    offsets = np.zeros((depth, 2))
    if depth > 1:
        offsets[rng.integers(1, depth) :] = _displacement(config.displacement, rng)
    return offsets


def _displacement(largest: float, rng: np.random.Generator) -> np.ndarray:
    """A displacement (y, x) in a random direction, in whole voxels and never zero."""
    angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(1, largest)
    return np.rint(length * np.array([math.sin(angle), math.cos(angle)]))


def _reflect(places: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Places [2, H, W] beyond an image of ``sides`` mirrored into it at its outermost voxels."""
    last = np.array(sides, np.float32)[:, None, None] - 1
    places = np.abs(places)
    while (places > last).any():
        places = np.where(last > 0, np.abs(last - np.abs(places - last)), 0)
    return places


def _linear(sections: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Sections [n, H, W] uint8 at ``places`` [2, H, W] within them, interpolated."""
    last = [max(side - 1, 1) for side in sections.shape[1:]]
    y, x = (2 / side * place - 1 for side, place in zip(last, places, strict=True))
    # Sections are the channels of one image, so that weights are worked out once for all.
    moved = F.grid_sample(
        torch.from_numpy(sections.astype(np.float32))[None],
        torch.from_numpy(np.stack([x, y], axis=-1))[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return moved[0].round_().to(torch.uint8).numpy()


def _nearest(sections: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Sections [n, H, W] of any type at ``places`` [2, H, W] within them, the nearest voxel."""
    y, x = np.rint(places).astype(np.intp)
    flat = sections.reshape(len(sections), -1)
    return np.take(flat, y * sections.shape[2] + x, axis=1)
