"""The rollout of a finished run on crops of a volume: its plan, its numbers, its picture."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tokenunify_scale.data.augment import generator, random_box
from tokenunify_scale.data.crops import CropReader
from tokenunify_scale.data.gray import check_no_labels, find_mapping
from tokenunify_scale.models.load import load_model
from tokenunify_scale.objectives.corruption import NOISE_MEAN, NOISE_STD, ORDER_STREAM
from tokenunify_scale.objectives.growth import INTERVAL, growth
from tokenunify_scale.objectives.rollout import Rollout, psnr, rollout
from tokenunify_scale.objectives.rollout_picture import draw_rollout
from tokenunify_scale.tokens.masks import sample_generator
from tokenunify_scale.tokens.order import visiting_order
from tokenunify_scale.tokens.patches import patch_grid
from tokenunify_scale.tokens.relevance import relevance
from tokenunify_scale.volumes.geometry import Triple
from tokenunify_scale.volumes.volume import open_volume, sections_box

AT_ONCE = 8  # crops in one forward pass


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """How an objective hides patches, as far as a rollout must do it likewise."""

    patch: Triple
    path: str = "raster"
    fill: str = "noise"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A rollout that can be; ``rollout_setup.open_study`` makes one."""

    model: Path
    objective: str
    volume: str
    sections: tuple[int, int] | None
    crop: Triple
    crops: int
    visible: int
    every: int
    seed: int
    hidden: Hidden

    def plan(self) -> dict[str, Any]:
        """What is measured: sizes, patches shown and predicted, forward passes a crop."""
        grid = patch_grid(self.crop, patch=self.hidden.patch)
        predicted = math.prod(grid) - self.visible
        return {
            "model": str(self.model),
            "objective": self.objective,
            "volume": self.volume,
            "crops": self.crops,
            "crop": list(self.crop),
            "patch": list(self.hidden.patch),
            "path": self.hidden.path,
            "fill": self.hidden.fill,
            "patches_shown": self.visible,
            "patches_predicted": predicted,
            "forward_passes_a_crop": -(-predicted // self.every),
        }

    def run(self, folder: Path) -> dict[str, Any]:
        """Measure, and write rollout.csv and rollout.png.

        Returns:
            The plan's facts and ``metrics``: PSNR in dB over all predicted patches, and exponents
            of the cumulative error with their intervals; None where a number does not exist.

        Raises:
            DataError: weights or volume are damaged.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = load_model(self.model).to(device)
        crops = torch.from_numpy(self._read()).unsqueeze(1).float().div(255)
        groups = []
        for start in range(0, self.crops, AT_ONCE):
            part = crops[start : start + AT_ONCE].to(device)
            orders = [self._order(crop, start + i) for i, crop in enumerate(part)]
            found = rollout(
                network,
                part,
                patch=self.hidden.patch,
                order=torch.stack(orders),
                visible=self.visible,
                fill=self._fill(part, start),
                every=self.every,
            )
            groups.append(Rollout(*(field.cpu() for field in found)))
        whole = Rollout(*(torch.cat(fields) for fields in zip(*groups, strict=True)))
        errors = {
            "sequential": whole.errors_sequential.double().numpy(),
            "at_once": whole.errors_at_once.double().numpy(),
            "flat": whole.errors_flat.double().numpy(),
        }
        _write(folder / "rollout.csv", errors)
        with open_volume(self.volume) as volume:
            voxel_size = volume.voxel_size
        draw_rollout(
            folder / "rollout.png",
            errors,
            truth=crops[0, 0].numpy(),
            whole=whole,
            patch=self.hidden.patch,
            voxel_size=voxel_size,
            title=f"{self.model.name} ({self.objective}), {self.crops} crops of {self.volume}",
        )
        return {**self.plan(), "interval": INTERVAL, "metrics": _metrics(errors)}

    def _read(self) -> np.ndarray:
        """Crops uint8 [B, D, H, W] at places that depend on the seed and their number alone."""
        with open_volume(self.volume) as volume:
            box = sections_box(volume, self.sections)
            check_no_labels(volume, box=box)
            reader = CropReader(volume, mapping=find_mapping(volume, box=box), box=box)
            places = [
                random_box(generator(self.seed, i), box.shape, crop=self.crop).shift(box.start)
                for i in range(self.crops)
            ]
            return np.stack([reader.read(place) for place in places])

    def _order(self, crop: Tensor, number: int) -> Tensor:
        """The path through one crop [1, D, H, W], drawn or ranked where training does so."""
        hidden = self.hidden
        return visiting_order(
            patch_grid(self.crop, patch=hidden.patch),
            path=hidden.path,
            generator=sample_generator(self.seed, number, stream=ORDER_STREAM),
            scores=relevance(crop[None], patch=hidden.patch)[0],
        )

    def _fill(self, crops: Tensor, first: int) -> Tensor | Literal["mean"]:
        """What stands for hidden voxels: noise of each crop's own, zero, or the mean."""
        if self.hidden.fill == "mean":
            return "mean"
        if self.hidden.fill == "zero":
            return crops.new_zeros(())
        sources = [sample_generator(self.seed, first + i) for i in range(len(crops))]
        noise = [torch.randn(crops.shape[1:], generator=source) for source in sources]
        return (torch.stack(noise) * NOISE_STD + NOISE_MEAN).to(crops)


def _metrics(errors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Plain numbers; None for what does not exist, as JSON has no infinity."""
    metrics: dict[str, Any] = {f"psnr_{name}": psnr(e.mean()) for name, e in errors.items()}
    fits = {name: growth(e) for name, e in errors.items()}
    fits["difference"] = growth(errors["sequential"], minus=errors["at_once"])
    for name, fit in fits.items():
        metrics[f"exponent_{name}"] = fit.exponent
        metrics[f"exponent_{name}_interval"] = [fit.low, fit.high]
    return {name: _plain(value) for name, value in metrics.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return float(value) if math.isfinite(value) else None


def _write(path: Path, errors: dict[str, np.ndarray]) -> None:
    """A row for each position, all numbers means over crops."""
    means = {name: e.mean(0) for name, e in errors.items()}
    columns = {
        "position": np.arange(1, len(means["flat"]) + 1),
        **{f"mse_{name}": mean for name, mean in means.items()},
        **{f"psnr_{name}": psnr(mean) for name, mean in means.items()},
        **{f"cumulative_{name}": mean.cumsum() for name, mean in means.items()},
    }
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
