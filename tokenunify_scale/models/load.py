"""Networks and weight files: load a finished run, start from one, say what fitted."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tokenunify_scale.config import ConfigError, Named, build_named, to_dict
from tokenunify_scale.registry import MODELS
from tokenunify_scale.train.checkpoint import Description, read_weights


@dataclass(frozen=True)
class Transfer:
    """What became of each tensor when weights met a network."""

    loaded: tuple[str, ...]
    """In both, of one shape."""

    new: tuple[str, ...]
    """Only in the network: they keep their fresh values."""

    refused: tuple[str, ...]
    """In both, of different shapes: ``name: file shape, network shape``."""

    unused: tuple[str, ...]
    """Only in the file."""

    def table(self) -> str:
        """One line a kind, with the names where they are few."""
        lines = []
        for kind in ("loaded", "new", "refused", "unused"):
            names = getattr(self, kind)
            shown = f": {', '.join(names)}" if 0 < len(names) <= 6 else ""
            lines.append(f"  {kind:8} {len(names):4} tensors{shown}")
        return "\n".join(lines)


def choice(description: Description) -> Named:
    """The network a weight file describes, as a registry choice.

    Raises:
        ConfigError: a name or option this version does not know.
    """
    return build_named(description.model, MODELS, where="the weights' header")


def build_chosen(model: Named, *, in_channels: int, out_channels: int) -> nn.Module:
    """The network of a registry choice, with fresh weights."""
    factory = MODELS.get(model.name).factory
    return factory(model.options, in_channels=in_channels, out_channels=out_channels)


def build_described(description: Description) -> nn.Module:
    """The network a weight file describes, with fresh weights.

    Raises:
        ConfigError: a name or option this version does not know.
    """
    return build_chosen(
        choice(description),
        in_channels=description.in_channels,
        out_channels=description.out_channels,
    )


def load_model(folder: Path | str) -> nn.Module:
    """A trained network from a finished run or an export, on the CPU, in evaluation mode.

    Args:
        folder: what pretrain, finetune or export wrote.

    Raises:
        DataError: no weights there, or they are damaged.
        ConfigError: they are of a network this version does not know, or do not fit it.
    """
    weights, description = read_weights(folder)
    with torch.device("meta"):
        model = build_described(description)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ConfigError(f"{folder}: weights do not fit {description.model}: {error}") from None
    return model.eval()


def describe(model: Named, *, in_channels: int, out_channels: int, objective: str) -> Description:
    """The header of a weight file for this choice."""
    return Description(
        model=to_dict(model),
        in_channels=in_channels,
        out_channels=out_channels,
        objective=objective,
    )


def start_from(model: nn.Module, weights: dict[str, Tensor]) -> Transfer:
    """Copy every tensor whose name and shape fit into a network.

    Args:
        model: gets the weights in place; of one on the meta device it is only said what fits.
        weights: names to tensors, as ``read_weights`` returns them.

    Raises:
        ConfigError: not even half of the network's tensors are there.
    """
    own = model.state_dict()  # shares memory with the network
    fits = {name for name in own.keys() & weights.keys() if own[name].shape == weights[name].shape}
    refused = sorted((own.keys() & weights.keys()) - fits)
    if 2 * len(fits) <= len(own):
        name = next(iter([*refused, *(own.keys() - weights.keys())]))
        there = tuple(weights[name].shape) if name in weights else "absent"
        raise ConfigError(
            f"{len(fits)} of the network's {len(own)} tensors are in the file: another "
            f"architecture or size? {name} is {there} there, {tuple(own[name].shape)} here"
        )
    with torch.no_grad():
        for name in fits:
            own[name].copy_(weights[name])
    shapes = [f"{n}: {tuple(weights[n].shape)}, {tuple(own[n].shape)}" for n in refused]
    return Transfer(
        tuple(sorted(fits)),
        tuple(sorted(own.keys() - weights.keys())),
        tuple(shapes),
        tuple(sorted(weights.keys() - own.keys())),
    )


def strategy_of(name: str) -> str:
    """The file of ds_configs that says how a network of this name is sharded."""
    return name.removeprefix("emmamba_")


def parameters_of(model: nn.Module, *, trained: bool = False) -> int:
    """Number of parameters, or of those that are ``trained`` alone."""
    return sum(math.prod(p.shape) for p in model.parameters() if p.requires_grad or not trained)
