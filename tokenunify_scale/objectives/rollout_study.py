"""The rollout of a finished run on crops of a volume: its plan, its numbers, its picture."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenunify_scale.models.load import load_model
from tokenunify_scale.objectives.growth import INTERVAL, growth
from tokenunify_scale.objectives.hiding import Hidden
from tokenunify_scale.objectives.rollout import Rollout, psnr, rollout
from tokenunify_scale.objectives.rollout_picture import draw_rollout
from tokenunify_scale.objectives.sources import VolumeCrops
from tokenunify_scale.tokens.patches import patch_grid

AT_ONCE = 8  # crops in one forward pass


@dataclass(frozen=True, kw_only=True)
class Study:
    """A rollout that can be; ``rollout_setup.open_study`` makes one."""

    model: Path
    objective: str
    source: VolumeCrops
    visible: int
    every: int
    hidden: Hidden

    def plan(self) -> dict[str, Any]:
        """What is measured: sizes, patches shown and predicted, forward passes a crop."""
        grid = patch_grid(self.source.crop, patch=self.hidden.patch)
        predicted = math.prod(grid) - self.visible
        return {
            "model": str(self.model),
            "objective": self.objective,
            **self.source.facts(),
            "crop": list(self.source.crop),
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
        crops = torch.from_numpy(self.source.voxels).float().div(255)
        seed, groups = self.source.seed, []
        for start in range(0, len(crops), AT_ONCE):
            part = crops[start : start + AT_ONCE].to(device)
            orders = [
                self.hidden.order(crop, seed=seed, number=start + i) for i, crop in enumerate(part)
            ]
            found = rollout(
                network,
                part,
                patch=self.hidden.patch,
                order=torch.stack(orders),
                visible=self.visible,
                fill=self.hidden.content(part, seed=seed, first=start),
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
        draw_rollout(
            folder / "rollout.png",
            errors,
            truth=crops[0, 0].numpy(),
            whole=whole,
            patch=self.hidden.patch,
            voxel_size=self.source.voxel_size,
            title=f"{self.model.name} ({self.objective}), {len(crops)} crops of {self.source.name}",
        )
        return {**self.plan(), "interval": INTERVAL, "metrics": _metrics(errors)}


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
