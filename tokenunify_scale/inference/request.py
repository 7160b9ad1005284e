"""What is to be predicted: a part of a volume, by a network that is known to be fit for it."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.affinities import NEAREST, Offset
from tokenunify_scale.inference.views import Tta
from tokenunify_scale.models.load import build_described, choice
from tokenunify_scale.models.published import published
from tokenunify_scale.models.tiling import Windows, windows
from tokenunify_scale.train.checkpoint import Description, read_description
from tokenunify_scale.volumes.geometry import Box, Triple
from tokenunify_scale.volumes.volume import Volume, open_volume, sections_box


@dataclass(frozen=True)
class Request:
    """A part of a volume, a network, and how it looks there."""

    volume: Volume
    box: Box
    """The part, in voxels of the volume."""
    description: Description
    network: nn.Module
    """Without memory."""
    look: Windows
    offsets: tuple[Offset, ...]
    """Of the affinities, one a channel."""

    @property
    def seen(self) -> Triple:
        """Sides (z, y, x) of what the network is given at once."""
        look = self.look
        parts = zip(look.tile, look.margin, look.extra, strict=True)
        return tuple(side + 2 * margin + extra for side, margin, extra in parts)


def open_request(
    model: Path,
    volume: str,
    *,
    sections: tuple[int, int] | None = None,
    box: str | None = None,
    tile: Triple | None = None,
    overlap: Triple | None = None,
    context: Triple = (0, 0, 0),
    tta: Tta = "none",
) -> Request:
    """Open volume and weights' header, and fit tiles to both; the options as of ``predict``.

    Raises:
        ConfigError: the model does not predict affinities, the part is not there, the tile or
            overlap cannot be, or the network does not take the views.
        DataError: volume or model are missing or damaged.
    """
    description = read_description(model)
    if description.objective != "affinity":
        raise ConfigError(
            f"{model} was trained by {description.objective!r} and predicts no affinities: "
            "fine-tune it first"
        )
    offsets = tuple(tuple(o) for o in getattr(description, "offsets", None) or NEAREST)
    if len(offsets) != description.out_channels:
        raise ConfigError(
            f"{model}: its header has {description.out_channels} channels and the offsets of "
            f"{len(offsets)} affinities"
        )
    opened = open_volume(volume)
    part = sections_box(opened, sections) if box is None else parse_box(box)
    if not Box.of(opened.shape).contains(part):
        raise ConfigError(f"box {box} reaches out of {volume}, which has {opened.shape} voxels")
    with torch.device("meta"):
        network = build_described(description)
    look = windows(
        network,
        tile=tile or published(choice(description).name).crop,
        overlap=overlap,
        shape=opened.shape,
        context=context,
    )
    request = Request(opened, part, description, network, look, offsets)
    z, y, x = request.seen
    if tta == "all" and network.legal((z, x, y)) != (z, x, y):
        raise ConfigError(
            f"tta all: the network does not take a tile of {(z, y, x)} transposed: take tta flips, "
            "or a square tile"
        )
    return request


def parse_box(words: str) -> Box:
    """A box from ``z,y,x..z,y,x``, first to last corner.

    Raises:
        ConfigError: it is none, or has no voxel.
    """
    corner = r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*"
    match = re.fullmatch(rf"{corner}\.\.{corner}", words)
    if match is None:
        raise ConfigError(f"box {words!r}: expected z,y,x..z,y,x, as 0,0,0..64,512,512 (voxels)")
    numbers = [int(number) for number in match.groups()]
    start, stop = tuple(numbers[:3]), tuple(numbers[3:])
    if any(b <= a for a, b in zip(start, stop, strict=True)):
        raise ConfigError(f"box {words!r} has no voxel: each end must be above its start")
    return Box(start, stop)
