"""The network of an exported folder, for transformers.

Needs torch, transformers and safetensors, on a CPU or any device of torch's. On CUDA the kernels of
mamba-ssm and causal-conv1d run where both are installed.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from tokenunify_scale.hub.parts.configuration_tokenunify import TokenUnifyConfig
from tokenunify_scale.models.emmamba import EMmamba as Network
from tokenunify_scale.models.emmamba_config import EMmambaConfig as Options
from tokenunify_scale.train.sealed import verify

INTENSITIES = 255  # of a uint8


@dataclass
class TokenUnifyOutput(ModelOutput):
    """What a network makes of crops."""

    prediction: Tensor | None = None
    """[B, out_channels, D, H, W] in [0, 1], smaller by the config's margin on either side."""

    affinities: Tensor | None = None
    """The prediction of a network that was trained for affinities: channel c at voxel p is the
    edge (p, p - offset c)."""

    hidden_states: tuple[Tensor, ...] | None = None
    """Feature maps, fine to coarse, [B, C, D, H, W] each."""


class TokenUnifyModel(PreTrainedModel):
    """A network for electron-microscopy volumes: crops in, maps and features out."""

    config_class = TokenUnifyConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _auto_class = "AutoModel"

    def __init__(self, config: TokenUnifyConfig) -> None:
        """Build the layers; ``from_pretrained`` fills them."""
        super().__init__(config)
        options = {name: _frozen(value) for name, value in config.model.items() if name != "name"}
        self.network = Network(
            Options(**options), in_channels=config.in_channels, out_channels=config.out_channels
        )
        self.post_init()

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, *words: Any, **options: Any) -> Any:
        """Load a folder or a repository of the hub, all of it or nothing.

        Raises:
            ValueError: a file is missing, not the one that was exported, or of another network
                than config.json describes.
        """
        if os.path.isdir(name):
            verify(name)
        told = options.pop("output_loading_info", False)
        options["ignore_mismatched_sizes"] = True  # so that they are told below, in one line
        model, info = super().from_pretrained(name, *words, output_loading_info=True, **options)
        kinds = ("mismatched_keys", "missing_keys", "unexpected_keys")
        wrong = [(kind, sorted(map(str, info[kind]))) for kind in kinds if info.get(kind)]
        if wrong:
            network = model.config.model.get("name")
            found = "; ".join(f"{kind.partition('_')[0]}: {len(n)}, as {n[0]}" for kind, n in wrong)
            raise ValueError(f"{name}: the weights are not of config.json's {network}: {found}")
        return (model, info) if told else model

    def forward(
        self, pixel_values: Tensor, return_dict: bool | None = None, **others: Any
    ) -> TokenUnifyOutput | tuple[Tensor, ...]:
        """Map crops.

        Args:
            pixel_values: [B, in_channels, D, H, W], uint8, or float in [0, 1].
            return_dict: False for a tuple.
            others: what transformers passes and this network does not need.

        Raises:
            ValueError: another shape or type.
        """
        shape, channels = list(pixel_values.shape), self.config.in_channels
        if len(shape) != 5 or shape[1] != channels:
            raise ValueError(f"pixel_values must be [B, {channels}, D, H, W], got {shape}")
        if pixel_values.dtype == torch.uint8:
            pixel_values = pixel_values / INTENSITIES
        if not pixel_values.is_floating_point():
            raise ValueError(f"pixel_values must be uint8 or float, got {pixel_values.dtype}")
        crops = pixel_values.to(self.device, self.dtype)
        if hasattr(self.network, "both"):
            prediction, features = self.network.both(crops)
        else:
            prediction, features = self.network(crops), self.network.features(crops)
        affinities = prediction if self.config.objective == "affinity" else None
        output = TokenUnifyOutput(prediction, affinities, tuple(features))
        return output.to_tuple() if return_dict is False else output

    def _init_weights(self, module: nn.Module) -> None:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def _frozen(value: Any) -> Any:
    """Lists of config.json as tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value

