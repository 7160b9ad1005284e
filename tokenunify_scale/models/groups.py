"""The parts of a network that are loaded, trained or kept as they are. Source: Table 4."""

from collections.abc import Collection, Sequence
from functools import partial

from torch import nn

from tokenunify_scale.config import did_you_mean

GROUPS = ("mamba", "encoder", "decoder")
HEAD = "head"
"""The last layer, ``out``, which depends on what is predicted. It is also in the decoder."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def check_groups(names: Sequence[str], *, key: str, valid: Sequence[str] = GROUPS) -> None:
    """Refuse names that are no groups.

    Raises:
        ValueError: an unknown name; ``key`` says where.
    """
    for name in names:
        if name not in valid:
            raise ValueError(f"{key}: no group {name!r}: {did_you_mean(name, list(valid))}")


def group_of(network: nn.Module) -> dict[str, str]:
    """The group of each tensor of a network's state, by name.

    A buffer, such as the running statistics of a norm, is in the group of the parameters beside it.
    """
    parts = {id(each): part for part, found in network.groups().items() for each in found}
    groups = {name: parts[id(each)] for name, each in network.named_parameters()}
    for name in network.state_dict().keys() - groups.keys():
        place = name.rpartition(".")[0] + "."
        beside = (part for other, part in groups.items() if other.startswith(place))
        groups[name] = next(beside, GROUPS[-1])
    return groups


def head_of(network: nn.Module) -> set[str]:
    """Names of the tensors of the last layer."""
    return {name for name in network.state_dict() if name.startswith("out.")}


def train_only(network: nn.Module, names: Collection[str]) -> None:
    """Keep all parameters but these as they are: no gradient, and no moments in the optimizer.

    A batch norm none of whose parameters is trained keeps its running statistics too, and norms by
    them in training as it does in evaluation.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in names)
    for module in network.modules():
        if isinstance(module, NORMS) and not any(p.requires_grad for p in module.parameters()):
            module.eval()
            module.train = partial(_stay, module)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """In the place of ``module.train``."""
    return module
