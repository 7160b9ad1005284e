"""Attention of every patch to all visible ones: what next-all is held against."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tokenunify_scale.models.perceiver import PerceiverConfig


class PairwiseHead(nn.Module):
    """As wide, as deep and with as many heads as a ``PerceiverHead``, but O(K^2) and no latents.

    Its attention is torch's fused one, whose memory is linear; its other parts are linear in K.
    """

    def __init__(self, config: PerceiverConfig, *, feature_width: int, outputs: int) -> None:
        """``outputs`` voxels are predicted a patch."""
        super().__init__()
        width, self.heads = config.width, config.heads
        self.enter, self.leave = nn.Linear(feature_width, width), nn.Linear(width, outputs)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "before": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "join": nn.Linear(width, width),
                    "feed": nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, 4 * width),
                        nn.GELU(),
                        nn.Linear(4 * width, width),
                    ),
                }
            )
            for _ in range(config.layers)
        )

    def forward(self, tokens: Tensor, *, visible: int) -> Tensor:
        """Predict every patch.

        Args:
            tokens: [B, K, c], a feature vector a patch.
            visible: how many of them, the first ones, are attended.

        Returns:
            [B, K, outputs] in (0, 1).
        """
        x = self.enter(tokens)
        for layer in self.layers:
            parts = layer["qkv"](layer["before"](x)).unflatten(-1, (3, self.heads, -1))
            q, k, v = parts.permute(2, 0, 3, 1, 4)
            found = scaled_dot_product_attention(q, k[:, :, :visible], v[:, :, :visible])
            x = x + layer["join"](found.transpose(1, 2).flatten(2))
            x = x + layer["feed"](x)
        return self.leave(x).sigmoid()


def attention(layers: Tensor, *, visible: int) -> Tensor:
    """The attention of such a head alone, as it is written down: all weights are in memory.

    Args:
        layers: queries, keys and values of each layer, [layers, 3, B, heads, K, width / heads].
        visible: how many of the keys, the first ones, are attended.

    Returns:
        [layers, B, heads, K, width / heads].
    """
    found = []
    for q, k, v in layers:
        weights = (q * q.shape[-1] ** -0.5) @ k[:, :, :visible].transpose(-1, -2)
        found.append(weights.softmax(-1) @ v[:, :, :visible])
    return torch.stack(found)
