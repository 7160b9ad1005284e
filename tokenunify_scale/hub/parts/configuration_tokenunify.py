"""The configuration of an exported network."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig


class TokenUnifyConfig(PreTrainedConfig):
    """What a network is made of, what it was trained for, and what goes in and comes out."""

    model_type = "tokenunify"
    _auto_class = "AutoConfig"

    def __init__(
        self,
        model: Mapping[str, Any] | None = None,
        in_channels: int = 1,
        out_channels: int = 3,
        objective: str | None = None,
        offsets: Sequence[Sequence[int]] | None = None,
        margin: Sequence[int] = (0, 0, 0),
        output: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """Keep what config.json says.

        Args:
            model: ``name`` of the network, and its options; without any, the class's own defaults.
            in_channels: of the crops.
            out_channels: of the prediction.
            objective: what was learned last; None for fresh weights.
            offsets: of affinities beyond the three nearest, (z, y, x) in voxels, one a channel.
            margin: (z, y, x) in voxels by which the prediction is smaller on either side.
            output: what the channels of the prediction are.
            others: what transformers keeps.
        """
        super().__init__(**others)
        self.model = dict(model or {})
        self.in_channels, self.out_channels = in_channels, out_channels
        self.objective, self.offsets = objective, offsets
        self.margin = list(margin)
        self.output = dict(output or {})
