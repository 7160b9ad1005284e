"""How much there is to see in each patch: the score that the path ``relevance`` ranks by."""

import torch
from torch import Tensor

from tokenunify_scale.tokens.patches import patchify


@torch.no_grad()
def relevance(crops: Tensor, *, patch: tuple[int, int, int]) -> Tensor:
    """Standard deviation of the grey levels of each patch: membranes high, empty resin low.

    Each channel has its own, and the mean over channels counts: a flat patch scores 0 whatever its
    colour is, and an edge between two colours of one brightness scores.

    Paper: its first version lets Mamba order patches by their content and names no score. This one
    needs no network, so that the order does not change as training proceeds.

    Args:
        crops: [B, C, D, H, W], float in [0, 1].
        patch: patch size (z, y, x) in voxels; divides (D, H, W).

    Returns:
        [B, K] float32 in [0, 0.5], raster order, without a gradient.

    Raises:
        ValueError: the patch does not divide the crop.
    """
    planes = crops.float().flatten(0, 1).unsqueeze(1)
    scores = patchify(planes, patch=patch).std(-1, correction=0)
    return scores.unflatten(0, crops.shape[:2]).mean(1)
