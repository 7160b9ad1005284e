"""Predict a volume's affinities tile by tile, blended where tiles overlap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tokenunify_scale.config import ConfigError, to_dict
from tokenunify_scale.data.affinities import NEAREST
from tokenunify_scale.data.crops import find_mapping, read_gray
from tokenunify_scale.models.load import load_model
from tokenunify_scale.ops import backend
from tokenunify_scale.train.checkpoint import read_description
from tokenunify_scale.train.runlog import RunFolder, track
from tokenunify_scale.volumes.geometry import Box, tiles
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.volume import Volume, open_volume, sections_box

WINDOW_SIGMA = 0.25  # of the blending window, as a share of the tile's side
WINDOW_FLOOR = 1e-3  # so that a voxel only corners see still has a weight


@dataclass(frozen=True, kw_only=True)
class Config:
    """One prediction."""

    model: Path
    """A finished fine-tuning run or an export of one."""

    volume: str
    """The raw volume, as file.h5:dataset, file.tif or synthetic:..."""

    sections: tuple[int, int] | None = None
    """Predict these sections only, as 150:250 (the end is excluded)."""

    out: Path = Path("runs/predict")
    """The run folder; affinities.h5 is written there."""

    tile: tuple[int, int, int] = (16, 160, 160)
    """Size (z, y, x) in voxels of what the network sees at once; best the training crop's."""

    overlap: tuple[int, int, int] = (4, 32, 32)
    """Voxels (z, y, x) that neighbouring tiles share at least."""

    batch: int = 1
    """Tiles computed at once."""

    def __post_init__(self) -> None:
        """Refuse an overlap that leaves no step, and empty batches."""
        if any(o < 0 or o >= t for t, o in zip(self.tile, self.overlap, strict=True)):
            raise ValueError(f"overlap {self.overlap} must be >= 0 and below tile {self.tile}")
        if self.batch < 1:
            raise ValueError(f"batch must be >= 1, got {self.batch}")


def plan(config: Config) -> dict[str, Any]:
    """What would be predicted: the box, the number of tiles, the output's size.

    Raises:
        ConfigError: the model does not predict affinities, or the sections are not there.
        DataError: volume or model are missing or damaged.
    """
    volume, box = _open(config)
    count = len(tiles(box.shape, tile=config.tile, overlap=config.overlap))
    return {
        "volume": volume.path,
        "voxels": list(box.shape),
        "tiles": count,
        "output_MiB": round(len(NEAREST) * math.prod(box.shape) * 4 / 2**20, 1),
    }


def run(config: Config) -> dict[str, Any]:
    """Predict and write ``affinities.h5``: float32 [3, D, H, W], edge (p, p - offset).

    Returns:
        What result.json holds.

    Raises:
        ConfigError: the model does not predict affinities, or the sections are not there.
        DataError: volume or model are missing or damaged.
    """
    volume, box = _open(config)
    raw = read_gray(volume, box, mapping=find_mapping(volume))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = RunFolder.create(
        config.out,
        verb="predict",
        config=to_dict(config),
        environment={"scan": backend.describe(device.type)},
    )
    affinities = predict_array(
        load_model(config.model).to(device),
        raw,
        tile=config.tile,
        overlap=config.overlap,
        batch=config.batch,
        device=device,
    )
    attributes = {
        "offsets": [list(offset) for offset in NEAREST],
        "axes": "czyx",
        "convention": "edge (p, p - offset)",
        "offset": list(box.start),
        "volume": config.volume,
        "model": str(config.model),
        "voxel_size": volume.voxel_size,
    }
    write_hdf5(
        config.out / "affinities.h5",
        {"affinities": affinities},
        attributes={"affinities": attributes},
    )
    return folder.finish(
        model=read_description(config.model).model["name"],
        volume=config.volume,
        voxels=list(box.shape),
        metrics={"mean_affinity": float(affinities.mean())},
    )


@torch.inference_mode()
def predict_array(
    model: nn.Module,
    raw: np.ndarray,
    *,
    tile: tuple[int, int, int],
    overlap: tuple[int, int, int],
    batch: int,
    device: torch.device,
) -> np.ndarray:
    """Blend a network's output over tiles that cover an array.

    Args:
        model: on ``device``, in evaluation mode.
        raw: uint8 [D, H, W].
        tile: size (z, y, x) in voxels, cut to the array's where that is smaller.
        overlap: voxels (z, y, x) shared by neighbouring tiles.
        batch: tiles computed at once.
        device: where to compute.

    Returns:
        float32 [C, D, H, W].
    """
    boxes = tiles(raw.shape, tile=tile, overlap=overlap)
    window = blending_window(boxes[0].shape)
    total: np.ndarray | None = None
    weight = np.zeros(raw.shape, np.float32)
    groups = [boxes[i : i + batch] for i in range(0, len(boxes), batch)]
    for group in track(groups, description="predict", unit="batch"):
        crops = np.stack([raw[box.slices] for box in group])
        inputs = torch.from_numpy(crops).to(device).unsqueeze(1).float() / 255
        outputs = model(inputs).float().cpu().numpy()
        if total is None:
            total = np.zeros((outputs.shape[1], *raw.shape), np.float32)
        for box, output in zip(group, outputs, strict=True):
            total[(slice(None), *box.slices)] += output * window
            weight[box.slices] += window
    return total / weight


def blending_window(shape: Sequence[int]) -> np.ndarray:
    """A Gaussian over a tile, highest in its middle, nowhere 0.

    Args:
        shape: (z, y, x) in voxels.

    Returns:
        float32 of that shape, values in (0, 1].
    """
    window = np.ones((), np.float32)
    for side in shape:
        place = (np.arange(side) + 0.5) / side - 0.5
        window = window[..., None] * np.exp(-0.5 * (place / WINDOW_SIGMA) ** 2)
    return np.maximum(window, WINDOW_FLOOR).astype(np.float32)


def _open(config: Config) -> tuple[Volume, Box]:
    """The volume and the part of it to predict, once the model is known to be fit for it."""
    description = read_description(config.model)
    if description.objective != "affinity":
        raise ConfigError(
            f"{config.model} was trained by {description.objective!r} and predicts no affinities: "
            "fine-tune it first"
        )
    volume = open_volume(config.volume)
    return volume, sections_box(volume, config.sections)
