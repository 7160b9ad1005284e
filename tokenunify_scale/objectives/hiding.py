"""How a finished run hid patches: what its folder tells, and the same done to other crops."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tokenunify_scale.config import ConfigError, build_named, did_you_mean, load_yaml
from tokenunify_scale.data.shards.reader import open_shards
from tokenunify_scale.objectives.corruption import ORDER_STREAM, noise_fill
from tokenunify_scale.registry import OBJECTIVES
from tokenunify_scale.tokens.masks import sample_generator
from tokenunify_scale.tokens.order import Path as Order
from tokenunify_scale.tokens.order import visiting_order
from tokenunify_scale.tokens.patches import patch_grid
from tokenunify_scale.tokens.relevance import relevance
from tokenunify_scale.train.checkpoint import Description, read_description
from tokenunify_scale.volumes.geometry import Triple

Fill = Literal["noise", "zero", "mean"]
CHOICES = ("patch", "path", "fill")  # the fields of Hidden


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """How patches are hidden: their size (z, y, x) in voxels, their path, what stands for them."""

    patch: Triple
    path: str = "raster"
    fill: str = "noise"

    def order(self, crop: Tensor, *, seed: int, number: int) -> Tensor:
        """The path through one crop [C, D, H, W], drawn or ranked where training does so.

        Args:
            crop: float in [0, 1]; only its sides count, but where the path is ``relevance``.
            seed: of the measurement.
            number: of the crop.

        Returns:
            int64 [K] on the CPU, raster indices in visiting order.
        """
        scored = self.path == "relevance"
        return visiting_order(
            patch_grid(tuple(crop.shape[1:]), patch=self.patch),
            path=self.path,
            generator=sample_generator(seed, number, stream=ORDER_STREAM),
            scores=relevance(crop[None], patch=self.patch)[0] if scored else None,
        )

    def content(self, crops: Tensor, *, seed: int, first: int) -> Tensor | Literal["mean"]:
        """What stands for hidden voxels: noise of each crop's own, zero, or the mean.

        Args:
            crops: [B, C, D, H, W].
            seed: of the measurement.
            first: number of the first crop; the others follow it.

        Returns:
            Like ``crops``, a single zero, or ``mean``: that of what is visible.
        """
        if self.fill == "mean":
            return "mean"
        if self.fill == "zero":
            return crops.new_zeros(())
        sources = [sample_generator(seed, first + i) for i in range(len(crops))]
        noise = [noise_fill(crops.shape[1:], generator=source) for source in sources]
        return torch.stack(noise).to(crops)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the folder of a run, or of an export of one, tells of its training."""

    folder: Path
    description: Description
    config: dict[str, Any]
    """The run's; an export's says nothing of training."""

    options: Any | None
    """Of the objective; None where the folder does not tell."""

    @property
    def normalised(self) -> bool:
        """Whether its predictions are patches less their mean, over their deviation."""
        return getattr(self.options, "targets", "voxels") == "normalised"

    @property
    def hiding(self) -> dict[str, Any]:
        """Patch, path and fill of the training, as far as the folder tells and it had them."""
        return {
            name: getattr(self.options, name) for name in CHOICES if hasattr(self.options, name)
        }

    @property
    def crop(self) -> Triple:
        """The training crop: as the run was asked to cut it, or as its shards store it.

        Raises:
            ConfigError: neither is known.
        """
        if self.config.get("crop"):
            return tuple(self.config["crop"])
        try:
            return open_shards(self.config["shards"][0]).index.crop
        except (KeyError, ValueError):
            raise ConfigError(
                f"{self.folder} does not say its crop: give --crop, as 16,160,160"
            ) from None


def read_facts(folder: Path) -> Facts:
    """What a folder tells.

    Raises:
        DataError: no weights there, or they are damaged.
        ConfigError: its config is of another version.
    """
    description = read_description(folder)
    file = folder / "config.yaml"
    config = load_yaml(file) if file.is_file() else {}
    options = None
    if "objective" in config:
        options = build_named(config["objective"], OBJECTIVES, where=str(file)).options
    return Facts(folder=folder, description=description, config=config, options=options)


def settle(facts: Facts, *, known: dict[str, Any], given: dict[str, Any]) -> Hidden:
    """How to hide: as is known, but for what is given.

    Args:
        facts: whom errors name.
        known: some of patch, path and fill.
        given: the same; None where nothing is given.

    Raises:
        ConfigError: the patch is not known, the fill cannot be had, there is no such path.
    """
    hidden = {**known, **{key: value for key, value in given.items() if value is not None}}
    if "patch" not in hidden:
        raise ConfigError(f"{facts.folder} does not say its patch size: give --patch, as 4,16,16")
    if hidden.get("fill") == "learned":
        raise ConfigError(
            f"the learned fill is not among {facts.folder}'s weights: give --fill, as mean"
        )
    order = hidden.get("path", "raster")
    if order not in get_args(Order):
        raise ConfigError(f"unknown path {order!r}: {did_you_mean(order, get_args(Order))}")
    return Hidden(**hidden)


def check_channels(facts: Facts, *, channels: int, source: str) -> None:
    """Refuse a network of gray crops for photographs, and the other way round.

    Raises:
        ConfigError: says both counts.
    """
    if facts.description.in_channels != channels:
        raise ConfigError(
            f"{facts.folder} takes crops of {facts.description.in_channels} channel(s), "
            f"{source} has {channels}"
        )
