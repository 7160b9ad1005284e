"""Predict a volume's affinities tile by tile, blended where tiles overlap."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tokenunify_scale.config import ConfigError, to_dict
from tokenunify_scale.data.affinities import NEAREST
from tokenunify_scale.data.crops import find_mapping, read_gray
from tokenunify_scale.data.reflect import grow, read_reflected
from tokenunify_scale.models.load import build_described, choice, load_model
from tokenunify_scale.models.published import published
from tokenunify_scale.models.tiling import Windows, blending_window, check_overlap, windows
from tokenunify_scale.ops import backend
from tokenunify_scale.train.checkpoint import read_description
from tokenunify_scale.train.runlog import RunFolder, track
from tokenunify_scale.volumes.geometry import Box, Triple, tiles
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.volume import Volume, open_volume, sections_box


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

    tile: Triple | None = None
    """Size (z, y, x) in voxels of what the network sees at once; best the training crop's. By
    default what it was published with, 16x160x160 for emmamba."""

    overlap: Triple | None = None
    """Voxels (z, y, x) that neighbouring predictions share at least; by default a quarter of the
    tile's sections and a fifth of its other sides, 0 for a network that predicts less than it
    sees."""

    batch: int = 1
    """Tiles computed at once."""

    def __post_init__(self) -> None:
        """Refuse an overlap that leaves no step, and empty batches."""
        if self.tile and self.overlap:
            check_overlap(self.overlap, self.tile)
        if self.batch < 1:
            raise ValueError(f"batch must be >= 1, got {self.batch}")


def plan(config: Config) -> dict[str, Any]:
    """What would be predicted: the box, the number of tiles, the output's size.

    Raises:
        ConfigError: the model does not predict affinities, or the sections are not there.
        DataError: volume or model are missing or damaged.
    """
    volume, box, look = _open(config)
    count = len(tiles(box.shape, tile=look.tile, overlap=look.overlap))
    return {
        "volume": volume.path,
        "voxels": list(box.shape),
        "tiles": count,
        "predicted_at_once": list(look.tile),
        "overlap": list(look.overlap),
        "seen_beyond_on_either_side": list(look.margin),
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
    volume, box, look = _open(config)
    seen = grow(box, look.margin).intersect(Box.of(volume.shape))
    raw = read_gray(volume, seen, mapping=find_mapping(volume))
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
        inside=box.shift(tuple(-start for start in seen.start)),
        look=look,
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
    inside: Box,
    look: Windows,
    batch: int,
    device: torch.device,
) -> np.ndarray:
    """Blend a network's output over tiles that cover a box of an array.

    What the network sees beyond the array is mirrored at its faces.

    Args:
        model: on ``device``, in evaluation mode.
        raw: uint8 [D, H, W].
        inside: the box of it to predict.
        look: as from ``windows``, for the shape of ``inside``.
        batch: tiles computed at once.
        device: where to compute.

    Returns:
        float32 [C, *inside.shape].
    """
    boxes = tiles(inside.shape, tile=look.tile, overlap=look.overlap)
    window = blending_window(look.tile)
    total: np.ndarray | None = None
    weight = np.zeros(inside.shape, np.float32)
    whole = Box.of(raw.shape)

    def seen(box: Box) -> np.ndarray:
        box = grow(box.shift(inside.start), look.margin, end=look.extra)
        return read_reflected(lambda part: raw[part.slices], box, within=whole)

    groups = [boxes[i : i + batch] for i in range(0, len(boxes), batch)]
    for group in track(groups, description="predict", unit="batch"):
        crops = np.stack([seen(box) for box in group])
        inputs = torch.from_numpy(crops).to(device).unsqueeze(1).float() / 255
        outputs = model(inputs).float().cpu().numpy()
        if total is None:
            total = np.zeros((outputs.shape[1], *inside.shape), np.float32)
        for box, output in zip(group, outputs, strict=True):
            predicted = output[(slice(None), *Box.of(look.tile).slices)]
            total[(slice(None), *box.slices)] += predicted * window
            weight[box.slices] += window
    return total / weight


def _open(config: Config) -> tuple[Volume, Box, Windows]:
    """The volume, the part of it to predict, and how, once the model is known to be fit for it."""
    description = read_description(config.model)
    if description.objective != "affinity":
        raise ConfigError(
            f"{config.model} was trained by {description.objective!r} and predicts no affinities: "
            "fine-tune it first"
        )
    volume = open_volume(config.volume)
    box = sections_box(volume, config.sections)
    chosen = choice(description)
    with torch.device("meta"):
        model = build_described(description)
    tile = config.tile or published(chosen.name).crop
    return volume, box, windows(model, tile=tile, overlap=config.overlap, shape=box.shape)
