"""Features as colours: their three leading principal components as red, green and blue."""

import torch
from torch import Tensor

from tokenunify_scale.volumes.geometry import Triple

CUT = 0.02  # share of cells at either end of a component that gets the end's colour


def feature_colours(features: Tensor, *, sides: Triple, padded: Triple) -> Tensor:
    """Colour every voxel of a crop by the cell of the feature map that it lies in.

    Components are those of this crop's cells alone. Their sign is fixed: the channel with the
    largest share in a component counts positive. Colours of different networks cannot be compared,
    but what each tells apart can.

    Args:
        features: [c, d, h, w], of the padded crop.
        sides: of the crop (z, y, x) in voxels.
        padded: of the crop after padding at the ends, at least ``sides``.

    Returns:
        float32 [D, H, W, 3] in [0, 1]; a component that does not vary is 0.5.
    """
    cells = features.detach().double().cpu()
    places = [
        torch.arange(side) * count // whole
        for side, count, whole in zip(sides, cells.shape[1:], padded, strict=True)
    ]
    kept = [int(place[-1]) + 1 for place in places]  # cells of padding alone have no say
    cells = cells[:, : kept[0], : kept[1], : kept[2]]
    rows = cells.flatten(1).T
    rows = rows - rows.mean(0)
    _, _, axes = torch.linalg.svd(rows.T @ rows)
    axes = axes[:3]
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    components = rows @ (axes * signs).T
    colours = torch.full((len(rows), 3), 0.5, dtype=torch.float64)
    for i, component in enumerate(components.T):
        low, high = component.quantile(CUT), component.quantile(1 - CUT)
        if high > low:
            colours[:, i] = ((component - low) / (high - low)).clamp(0, 1)
    z, y, x = torch.meshgrid(*places, indexing="ij")
    return colours.reshape(*kept, 3)[z, y, x].float()
