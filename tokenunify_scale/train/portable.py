"""Go on from a checkpoint with another number of ranks or another ZeRO stage.

All ranks read for themselves, from the folder that they share, one parameter at a time; nothing is
sent between them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.train.atoms import Atom, Saved, unportable
from tokenunify_scale.train.zero_shards import Shapes


def restore(
    saved: Saved,
    objective: nn.Module,
    *,
    settings: Mapping[str, Any],
    place: Callable[[nn.Parameter, Atom], None],
) -> None:
    """Give a module the parameters and buffers of a checkpoint, one parameter at a time.

    Args:
        saved: as ``read_save`` opened it.
        objective: what was saved, with the same parameters trained; may be partitioned.
        settings: DeepSpeed's config of this run.
        place: takes a parameter and what it was, and keeps this rank's part; called alike on all
            ranks, in the same order.

    Raises:
        ConfigError: this run's config is of a kind that cannot take it.
        DataError: names, shapes or what is trained differ. Nothing is changed then.
    """
    if reason := unportable(settings):
        raise ConfigError(
            f"checkpoint {saved.folder} (stage {saved.stage}, {saved.world} ranks) cannot be "
            f"resumed by this run: {reason}"
        )
    parameters, kept = dict(objective.named_parameters()), objective.state_dict().keys()
    buffers = {name: buffer for name, buffer in objective.named_buffers() if name in kept}
    trained = {name: _shape(p) for name, p in parameters.items() if p.requires_grad}
    others = {name: _shape(p) for name, p in parameters.items() if not p.requires_grad}
    # A parameter that two modules share has one name here and two in a file of whole ones.
    again = {n for n, _ in objective.named_parameters(remove_duplicate=False)} - {*parameters}
    again |= {n for n, _ in objective.named_buffers(remove_duplicate=False)} - {*buffers}
    then = {name: shape for name, (shape, _) in saved.frozen.items()}
    _compare(saved, "trained parameters", now=trained, then=saved.shapes, but=set())
    _compare(saved, "frozen parameters", now=others, then=then, but=again)
    then = {name: buffer.shape for name, buffer in saved.buffers.items()}
    now = {name: buffer.shape for name, buffer in buffers.items()}
    _compare(saved, "buffers", now=now, then=then, but=again)
    for name, parameter in parameters.items():
        place(parameter, saved.atom(name))
    with torch.no_grad():
        for name, buffer in buffers.items():
            buffer.copy_(saved.buffers[name])


def _compare(saved: Saved, what: str, *, now: Shapes, then: Shapes, but: set[str]) -> None:
    names = {*now, *then} - but
    if differ := sorted(name for name in names if now.get(name) != then.get(name)):
        was, is_ = (
            tuple(shapes[differ[0]]) if differ[0] in shapes else "not one" for shapes in (then, now)
        )
        raise saved.refusal(
            f"{len(differ)} {what} differ from this run's, such as {differ[0]}: saved {was}, "
            f"here {is_}"
        )


def own_part(whole: Tensor, *, rank: int, size: int) -> Tensor:
    """The ``size`` numbers of a tensor that a rank keeps at stage 3; zeros beyond its end."""
    part = whole.flatten()[rank * size : (rank + 1) * size]
    return nn.functional.pad(part, (0, size - len(part)))


def _shape(parameter: Tensor) -> torch.Size:
    """A parameter's whole shape, partitioned or not."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))
