"""Networks: pure modules, ignorant of distribution, behind the registry MODELS."""

from typing import Any, Literal

from torch import nn

from tokenunify_scale.config import build_named
from tokenunify_scale.models import emmamba as emmamba  # these fill the registry
from tokenunify_scale.models import mala as mala
from tokenunify_scale.models import pea as pea
from tokenunify_scale.models import superhuman as superhuman
from tokenunify_scale.models import unetr as unetr
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
        preset: ``official`` keeps the release's behaviour to the letter; of emmamba only.
        in_channels: channels of the input.
        out_channels: channels of the output.
        options: fields of the entry's config to replace.

    Returns:
        A module with ``forward``, ``features``, ``groups`` (its parameters by part), ``margin``
        (voxels, zyx, by which its output is smaller than its input on either side) and ``legal``
        (the smallest crop, at least as large, that it takes as it is). Under
        ``torch.device("meta")`` nothing is allocated.

    Raises:
        ConfigError: unknown name, preset or option.
    """
    # Networks without presets have one way only; of them "official" is refused by name.
    habits = {} if preset == "default" else {"preset": preset}
    choice = build_named({"name": name, **habits, **options}, MODELS, where="model")
    factory = MODELS.get(name).factory
    return factory(choice.options, in_channels=in_channels, out_channels=out_channels)


def list_models() -> list[str]:
    """Names that ``build_model`` takes."""
    return MODELS.names()
