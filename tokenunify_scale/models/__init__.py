"""Networks: pure modules, ignorant of distribution, behind the registry MODELS."""

import dataclasses
from typing import Any, Literal

from torch import nn

from tokenunify_scale.models import emmamba as emmamba  # fills the registry
from tokenunify_scale.registry import MODELS


def build_model(
    name: str,
    *,
    preset: Literal["default", "official"] = "default",
    in_channels: int = 1,
    out_channels: int = 3,
    **options: Any,
) -> nn.Module:
    """Build a network by name, with fresh weights.

    Args:
        name: one of ``list_models()``.
        preset: ``official`` keeps the release's behaviour to the letter.
        in_channels: channels of the input.
        out_channels: channels of the output.
        options: fields of the entry's config to replace.

    Returns:
        A module with ``forward``, ``features`` and ``groups``. Under ``torch.device("meta")``
        nothing is allocated.

    Raises:
        ConfigError: unknown name.
    """
    entry = MODELS.get(name)
    config = dataclasses.replace(entry.config, preset=preset, **options)
    return entry.factory(config, in_channels=in_channels, out_channels=out_channels)


def list_models() -> list[str]:
    """Names that ``build_model`` takes."""
    return MODELS.names()
