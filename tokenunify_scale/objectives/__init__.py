"""What is learned: modules that own a backbone and turn a batch into a loss."""

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


def out_channels(name: str) -> int:
    """How many channels the backbone of an objective puts out.

    Raises:
        ConfigError: unknown objective.
    """
    return OBJECTIVES.get(name).factory.OUT_CHANNELS


def build_objective(choice: Named, *, backbone: nn.Module, seed: int) -> nn.Module:
    """Wrap a backbone in the chosen objective.

    Args:
        choice: name and options.
        backbone: a network with ``out_channels(choice.name)`` output channels.
        seed: of the run; what is drawn depends on it and on a sample's position only.

    Raises:
        ConfigError: unknown objective.
    """
    return OBJECTIVES.get(choice.name).factory(choice.options, backbone=backbone, seed=seed)
