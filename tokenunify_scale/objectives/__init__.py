"""What is learned: modules that own a backbone and turn a batch into a loss."""

from typing import Any

from torch import nn

from tokenunify_scale.config import Named
from tokenunify_scale.objectives import affinity as affinity  # these fill the registry
from tokenunify_scale.objectives import autoregressive as autoregressive
from tokenunify_scale.objectives import byol as byol
from tokenunify_scale.objectives import dbmim as dbmim
from tokenunify_scale.objectives import mae as mae
from tokenunify_scale.objectives import ms_con_em as ms_con_em
from tokenunify_scale.objectives import tokenunify as tokenunify
from tokenunify_scale.registry import OBJECTIVES


def needs_labels(name: str) -> bool:
    """Whether an objective is one of fine-tuning: others learn from crops alone.

    These give a picture back, so their ``OUT_CHANNELS`` is None: as many as the crops have.

    Raises:
        ConfigError: unknown objective.
    """
    return OBJECTIVES.get(name).factory.OUT_CHANNELS is not None


def out_channels(name: str, *, channels: int = 1, options: Any = None) -> int:
    """How many channels the backbone of an objective puts out, of crops of ``channels``.

    Args:
        name: of the objective.
        channels: C of the crops.
        options: of the objective; its defaults where there are none.

    Raises:
        ConfigError: unknown objective.
    """
    entry = OBJECTIVES.get(name)
    return entry.factory.outputs(options or entry.config) if needs_labels(name) else channels


def build_objective(
    choice: Named, *, backbone: nn.Module, seed: int, channels: int = 1
) -> nn.Module:
    """Wrap a backbone in the chosen objective.

    Args:
        choice: name and options.
        backbone: a network with ``channels`` input channels and
            ``out_channels`` of the choice's name and options as output channels.
        seed: of the run; what is drawn depends on it and on a sample's position only.
        channels: C of the crops: 1 is grey, 3 is RGB.

    Raises:
        ConfigError: unknown objective, or one that cannot learn with this network.
    """
    # What labels teach is the same whatever the crops show.
    seen = {} if needs_labels(choice.name) else {"channels": channels}
    factory = OBJECTIVES.get(choice.name).factory
    return factory(choice.options, backbone=backbone, seed=seed, **seen)
