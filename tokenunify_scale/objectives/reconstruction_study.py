"""Runs held against each other on the crops they reconstruct: their plan, numbers and files."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenunify_scale.models.load import load_model
from tokenunify_scale.objectives.errors import Targets
from tokenunify_scale.objectives.feature_colours import feature_colours
from tokenunify_scale.objectives.hiding import Hidden
from tokenunify_scale.objectives.kodak import published
from tokenunify_scale.objectives.reconstruction import (
    TASKS,
    draw_masks,
    even_lengths,
    flat,
    predict,
    task_errors,
)
from tokenunify_scale.objectives.reconstruction_picture import Row, draw_images, draw_sheet
from tokenunify_scale.objectives.reconstruction_table import Found, metrics_of, write_csv
from tokenunify_scale.objectives.sources import Photos, VolumeCrops
from tokenunify_scale.tokens.masks import hide, sample_generator
from tokenunify_scale.tokens.patches import patch_grid
from tokenunify_scale.train.runlog import track

MASK_STREAM = 2  # of sample_generator: 0 is the noise's, 1 the order's
STAGE = 1  # of the features that are drawn: the second finest


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run that is measured."""

    name: str
    folder: Path
    objective: str
    hidden: Hidden
    targets: Targets = "voxels"

    decodes: bool = True
    """Whether the training reached the decoder: if not, nothing is claimed of its output."""

    masked: bool = True
    """Whether the training hid patches: if not, such an input is new to the network."""

    @property
    def note(self) -> str:
        """What a reader of its numbers must know; empty if nothing."""
        if not self.decodes:
            return "decoder not trained"
        if self.targets == "normalised":
            return "true mean and contrast given"
        return "" if self.masked else "not trained on hidden patches"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A comparison that can be; ``reconstruction_setup.open_comparison`` makes one."""

    subjects: tuple[Subject, ...]
    source: VolumeCrops | Photos
    ratio: float
    prefixes: int
    seed: int

    def plan(self) -> dict[str, Any]:
        """What is measured: crops, and how each run hides patches."""
        about = {subject.name: self._about(subject) for subject in self.subjects}
        crop = list(self.source.crop)
        return {**self.source.facts(), "crop": crop, "ratio": self.ratio, "runs": about}

    def run(self, folder: Path) -> dict[str, Any]:
        """Measure; write reconstruct.csv, reconstruct.png and, of photographs, psnr.png.

        Returns:
            The plan's facts; ``metrics``: of each run and task the mean squared error and the PSNR
            in dB, means over crops or photographs, and those of the floor, None where a number
            does not exist; ``paper``: its mean PSNRs of these photographs, if it has them.

        Raises:
            DataError: weights or source are damaged.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        founds, rows = {}, [self._truth(self.subjects[0])]
        for subject in self.subjects:
            network = load_model(subject.folder).to(device)
            found = founds[subject.name] = self._measure(subject, network, device)
            rows.append(self._drawn(subject, network, device, found.mean_psnr()))
        names = self.source.names
        paper = published(names)
        about = {subject.name: self._about(subject) for subject in self.subjects}
        write_csv(folder / "reconstruct.csv", founds, names=names, about=about, paper=paper)
        size = self.source.voxel_size
        title = f"{self.source.title}, mean PSNR in dB of hidden patches"
        draw_sheet(folder / "reconstruct.png", rows, voxel_size=size, title=title)
        if isinstance(self.source, Photos):
            draw_images(folder / "psnr.png", founds, names=names, paper=paper)
        said = {"paper": {name: float(np.mean(psnrs)) for name, psnrs in paper.items()}}
        metrics = {name: metrics_of(found) for name, found in founds.items()}
        return {**self.plan(), **(said if paper else {}), "metrics": metrics}

    def _about(self, subject: Subject) -> dict[str, Any]:
        hidden = subject.hidden
        count = math.prod(patch_grid(self.source.crop, patch=hidden.patch))
        return {
            "model": str(subject.folder),
            "objective": subject.objective,
            "patch": list(hidden.patch),
            "path": hidden.path,
            "fill": hidden.fill,
            "patches": count,
            "prefixes": even_lengths(count, prefixes=self.prefixes),
            "note": subject.note,
        }

    def _measure(self, subject: Subject, network: nn.Module, device: torch.device) -> Found:
        """Errors of all crops, those of the tiles of a photograph averaged."""
        errors, floors, number = [], [], 0
        names = self.source.names
        items = track(self.source.items(), description=subject.name, total=len(names), unit="crop")
        for tiles in items:
            pairs = []
            for tile in tiles:
                crop = _to_gray(tile, device)
                pairs.append(self._errors(subject, network, crop, number))
                number += 1
            found, floor = np.mean(pairs, axis=0)
            errors.append(found)
            floors.append(floor)
        columns = (dict(zip(TASKS, np.stack(rows).T, strict=True)) for rows in (errors, floors))
        return Found(*columns)

    def _errors(
        self, subject: Subject, network: nn.Module, crop: Tensor, number: int
    ) -> tuple[list[float], list[float]]:
        """Mean squared errors by task of one crop [C, D, H, W], and those of the floor."""
        hidden = subject.hidden
        order = hidden.order(crop, seed=self.seed, number=number)
        source = sample_generator(self.seed, number, stream=MASK_STREAM)
        masks = draw_masks(order, ratio=self.ratio, prefixes=self.prefixes, generator=source)
        lowest = flat(crop, masks.hidden, patch=hidden.patch)
        floor = task_errors(lowest, crop, masks, patch=hidden.patch)
        if not subject.decodes:
            return [math.nan] * len(TASKS), list(floor.values())
        predicted = self._predict(subject, network, crop, masks.hidden, number)
        found = task_errors(predicted, crop, masks, patch=hidden.patch)
        return list(found.values()), list(floor.values())

    def _predict(
        self, subject: Subject, network: nn.Module, crop: Tensor, hidden: Tensor, number: int
    ) -> Tensor:
        content = subject.hidden.content(crop[None], seed=self.seed, first=number)
        patch = subject.hidden.patch
        targets = subject.targets
        return predict(network, crop, hidden, patch=patch, fill=content, targets=targets)

    def _masks_drawn(self, subject: Subject, crop: Tensor, number: int) -> tuple[Tensor, int]:
        """What the picture hides, bool [2, K]: at random, behind a prefix; and the section.

        The prefix is the one that shows half of the patches in the middle layer, where the section
        lies, so that there is something to see of both.
        """
        hidden = subject.hidden
        depth, *plane = patch_grid(tuple(crop.shape[1:]), patch=hidden.patch)
        order = hidden.order(crop, seed=self.seed, number=number)
        layer, area = depth // 2, math.prod(plane)
        ranks = torch.nonzero(order // area == layer).flatten()
        visible = min(int(ranks[max(area // 2, 1) - 1]) + 1, len(order) - 1)
        source = sample_generator(self.seed, number, stream=MASK_STREAM)
        masks = draw_masks(order, ratio=self.ratio, prefixes=1, generator=source).hidden
        masks[1] = True
        masks[1, order[:visible]] = False
        return masks, layer * hidden.patch[0] + hidden.patch[0] // 2

    def _truth(self, subject: Subject) -> Row:
        """The picture's first row: what is shown of the crop, and the crop."""
        tile, number = self.source.drawn()
        crop = _to_gray(tile, torch.device("cpu"))
        masks, section = self._masks_drawn(subject, crop, number)
        crops = crop.expand(2, -1, -1, -1, -1)
        shown = hide(crops, masks, crop.new_full((), math.nan), patch=subject.hidden.patch)
        at_random, behind = _images(shown[:, :, section])
        truth = _images(crop[None, :, section])[0]
        return Row("", "", at_random, behind, truth, {}, subject.hidden.patch)

    def _drawn(
        self, subject: Subject, network: nn.Module, device: torch.device, psnr: dict[str, float]
    ) -> Row:
        """A run's row of the picture: hidden patches as predicted, the others true; features."""
        tile, number = self.source.drawn()
        crop, patch = _to_gray(tile, device), subject.hidden.patch
        masks, section = self._masks_drawn(subject, crop, number)
        at_random = behind = None
        if subject.decodes:
            predicted = self._predict(subject, network, crop, masks, number)
            pasted = hide(crop.expand_as(predicted), masks.to(device), predicted, patch=patch)
            at_random, behind = _images(pasted[:, :, section])
        with torch.no_grad():
            features = network.features(crop[None])[STAGE][0]
        sides = tuple(crop.shape[1:])
        colours = feature_colours(features, sides=sides, padded=network.legal(sides))
        name = subject.name
        title = name if subject.objective in name else f"{name} ({subject.objective})"
        return Row(title, subject.note, at_random, behind, colours[section].numpy(), psnr, patch)


def _to_gray(tile: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(tile).to(device).float().div(255)


def _images(sections: Tensor) -> list[np.ndarray]:
    """Sections [R, C, H, W] as RGB [H, W, 3]."""
    colours = sections.cpu().expand(-1, 3, -1, -1)
    return list(colours.permute(0, 2, 3, 1).numpy())
