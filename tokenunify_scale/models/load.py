"""Networks and weight files: load a finished run, start from one, say what fitted."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from tokenunify_scale.config import ConfigError, Named, build_named, to_dict
from tokenunify_scale.models.emmamba_config import size_above
from tokenunify_scale.models.groups import GROUPS, group_of
from tokenunify_scale.registry import MODELS
from tokenunify_scale.train.checkpoint import Description, read_weights
from tokenunify_scale.volumes.geometry import Triple

FEW = 6  # names that are said, not counted


@dataclass(frozen=True)
class Transfer:
    """What became of each tensor when weights met a network."""

    loaded: tuple[str, ...]
    """In both, of one shape."""

    new: tuple[str, ...]
    """Only in the network: they keep their fresh values."""

    refused: tuple[str, ...]
    """In both, of different shapes: ``name: file shape, network shape``. They stay fresh too."""

    unused: tuple[str, ...]
    """Only in the file."""

    left: tuple[str, ...] = ()
    """In groups of the network that were not asked for: they stay fresh."""

    groups: Mapping[str, str] = field(default_factory=dict)
    """The group of each tensor of the network."""

    def fresh(self) -> set[str]:
        """Names of what was asked for and was not there, or does not fit."""
        return {*self.new, *map(_name, self.refused)}

    def counts(self) -> dict[str, dict[str, int]]:
        """Tensors of each group by what became of them."""
        kinds = ("loaded", "new", "refused", "left")
        names = {kind: [*map(_name, getattr(self, kind))] for kind in kinds}
        return {
            group: {kind: sum(self.groups[n] == group for n in names[kind]) for kind in kinds}
            for group in GROUPS
            if group in self.groups.values()
        }

    def table(self) -> str:
        """One line a kind: tensors of each group, and the names where they are few."""
        counts = self.counts()
        lines = [f"  {'':8}{''.join(f'{group:>9}' for group in counts)}{'all':>9}"]
        for kind in ("loaded", "new", "refused", "left", "unused"):
            names = getattr(self, kind)
            cells = "".join(f"{counts[group].get(kind, ''):>9}" for group in counts)
            shown = f"  {'; '.join(names)}" if 0 < len(names) <= FEW else ""
            lines.append(f"  {kind:8}{cells}{len(names):>9}{shown}")
        return "\n".join(lines)

    def warnings(self) -> list[str]:
        """A line for each group of which less than half was there."""
        return [
            f"only {count['loaded']} of the {asked} tensors of the {group} are in the file; "
            "the others are drawn from the seed"
            for group, count in self.counts().items()
            if 2 * count["loaded"] < (asked := sum(count.values()) - count["left"])
        ]


def _name(entry: str) -> str:
    """The name of a tensor, of which a refused one is said with its shapes."""
    return entry.partition(":")[0]


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


def describe(
    model: Named,
    *,
    in_channels: int,
    out_channels: int,
    objective: str,
    offsets: tuple[Triple, ...] | None = None,
) -> Description:
    """The header of a weight file for this choice."""
    return Description(
        model=to_dict(model),
        in_channels=in_channels,
        out_channels=out_channels,
        objective=objective,
        offsets=offsets,
    )


def start_from(
    model: nn.Module, weights: dict[str, Tensor], *, groups: Sequence[str] = GROUPS
) -> Transfer:
    """Copy every tensor of some groups whose name and shape fit into a network.

    Args:
        model: gets the weights in place; of one on the meta device it is only said what fits.
        weights: names to tensors, as ``read_weights`` returns them.
        groups: which of the network's are asked for.

    Raises:
        ConfigError: the network has nothing in these groups; or nothing of one of them is in the
            file, or not even half of all that was asked for: that is another network.
    """
    own = model.state_dict()  # shares memory with the network
    parts = group_of(model)
    asked = {name for name in own if parts[name] in groups}
    if not asked:
        raise ConfigError(
            f"nothing to load: {type(model).__name__} has no tensors in {', '.join(groups)}, it "
            f"has {', '.join(dict.fromkeys(parts.values()))}"
        )
    both = asked & weights.keys()
    fits = {name for name in both if own[name].shape == weights[name].shape}
    refused = sorted(both - fits)
    shapes = [f"{n}: {tuple(weights[n].shape)}, {tuple(own[n].shape)}" for n in refused]
    transfer = Transfer(
        tuple(sorted(fits)),
        tuple(sorted(asked - weights.keys())),
        tuple(shapes),
        tuple(sorted(weights.keys() - own.keys())),
        tuple(sorted(own.keys() - asked)),
        parts,
    )
    _refuse_foreign(transfer, own=own, weights=weights)
    with torch.no_grad():
        for name in fits:
            own[name].copy_(weights[name])
    return transfer


def _refuse_foreign(
    transfer: Transfer, *, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> None:
    """Refuse weights of another network, of which a tensor or two fit by chance."""
    counts = {g: (c["loaded"], sum(c.values()) - c["left"]) for g, c in transfer.counts().items()}
    counts = {group: count for group, count in counts.items() if count[1]}
    fit, asked = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
    empty = [group for group, (found, _) in counts.items() if not found]
    if 2 * fit > asked and not empty:
        return
    name = next(iter([*map(_name, transfer.refused), *transfer.new]))
    there = tuple(weights[name].shape) if name in weights else "absent"
    example = f"{name} is {there} there, {tuple(own[name].shape)} here"
    if name not in weights and transfer.unused:
        other = transfer.unused[0]
        example += f"; {other} {tuple(weights[other].shape)} is there, and not here"
    some = [group for group, (found, of) in counts.items() if 2 * found > of]
    remedy = f"; load only what fits: {', '.join(some)}" if some else ""
    what = f" ({', '.join(empty)}: none)" if empty and fit else ""
    raise ConfigError(
        f"{fit} of the network's {asked} tensors asked for are in the file{what}: another "
        f"architecture or size? {example}{remedy}"
    )


def strategy_of(name: str) -> str:
    """The file of ds_configs that says how a network of this name is sharded.

    A network of a width between the sizes is sharded as the next larger one is.
    """
    if re.fullmatch(r"emmamba_w\d+", name, re.ASCII):
        return size_above(MODELS.get(name).config)
    return name.removeprefix("emmamba_")


def parameters_of(model: nn.Module, *, trained: bool = False) -> int:
    """Number of parameters, or of those that are ``trained`` alone."""
    return sum(math.prod(p.shape) for p in model.parameters() if p.requires_grad or not trained)
