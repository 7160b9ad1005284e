"""What of a network is loaded, adapted and trained when it is fine-tuned."""

from collections.abc import Sequence

from torch import Tensor, nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models.groups import GROUPS, HEAD, group_of, head_of, train_only
from tokenunify_scale.models.load import Transfer, parameters_of, start_from
from tokenunify_scale.models.lora import LoraConfig, adapt, thin


def tune(
    network: nn.Module,
    initial: dict[str, Tensor] | None,
    *,
    load: Sequence[str] = GROUPS,
    train: Sequence[str] = (),
    lora: LoraConfig,
) -> Transfer | None:
    """Load some groups of a network, add thin matrices, and freeze what is not trained.

    Always trained are thin matrices, what ``load`` asked for and the file does not have, and the
    last layer unless it is loaded. Never trained is a matrix that has thin ones.

    Args:
        network: in place; of one on the meta device it is only said what fits.
        initial: names to tensors; None for a network that stays as it was drawn.
        load: groups to take from ``initial``.
        train: groups to train, ``HEAD`` among them; () is all, or with ``lora`` none.
        lora: of which rank 0 adds nothing.

    Returns:
        What became of ``initial``; None without.

    Raises:
        ConfigError: nothing in ``initial`` fits; the network has none of the groups, or nothing
            that could be adapted.
    """
    transfer = None if initial is None else start_from(network, initial, groups=load)
    groups, head = group_of(network), head_of(network)
    chosen = train or (() if lora.rank else GROUPS)
    if train and not {*train} & {HEAD, *groups.values()}:
        raise ConfigError(
            f"train: {type(network).__name__} has no parameters in {', '.join(train)}, it has "
            f"{', '.join(dict.fromkeys(groups.values()))}"
        )
    names = {name for name, group in groups.items() if group in chosen}
    names |= transfer.fresh() | (head - {*transfer.loaded}) if transfer else head
    names |= head if HEAD in chosen else set()
    if lora.rank:
        names -= adapt(network, lora)
        names |= {name for name, _ in network.named_parameters() if thin(name)}
    train_only(network, names)
    return transfer


def share(network: nn.Module) -> str:
    """How many of a network's parameters are trained, in words."""
    trained, total = (parameters_of(network, trained=only) for only in (True, False))
    return f"{trained:,} of {total:,} parameters ({trained / total:.2%})"


def doubts(network: nn.Module, transfer: Transfer | None) -> list[str]:
    """What may be a mistake, a line each: groups that hardly fit, tensors that stay random."""
    known = {*transfer.loaded} if transfer else set()
    still = [n for n, p in network.named_parameters() if not p.requires_grad and n not in known]
    lines = transfer.warnings() if transfer else []
    if still:
        lines.append(
            f"{len(still)} tensors are neither loaded nor trained and stay as they are drawn, "
            f"such as {still[0]}"
        )
    return lines
