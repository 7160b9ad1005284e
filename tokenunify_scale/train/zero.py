"""What we reach for inside DeepSpeed: parts of a network, a step refused, a state put in.

Source: DeepSpeed 0.19.8, ``engine.py``, ``zero/stage_1_and_2.py`` and ``zero/stage3.py``.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokenunify_scale.train.atoms import Atom
from tokenunify_scale.train.construct import Keep
from tokenunify_scale.train.distributed import World
from tokenunify_scale.train.door import deepspeed
from tokenunify_scale.train.portable import own_part
from tokenunify_scale.train.strategy import is_narrow
from tokenunify_scale.train.zero_shards import MOMENTS


def sharder(config: dict[str, Any], world: World) -> Keep:
    """What takes a filled unit to the device, and leaves this rank its part of it."""
    first: list[nn.Parameter] = []

    def keep(unit: nn.Module) -> None:
        for buffer in unit.buffers():  # DeepSpeed leaves these where they are
            buffer.data = buffer.data.to(world.device)
        if is_narrow(config):  # and the type of what it shards
            for parameter in unit.parameters():
                parameter.data = parameter.data.bfloat16()
        if first:  # one Init for all: each would have its own buffers to disk
            first[0].convert_to_zero_parameters(param_list=[*unit.parameters()])
        elif whole := [*unit.parameters()]:
            deepspeed().zero.Init(module=unit, config_dict_or_path=config)
            first.append(whole[0])

    return keep


def refuse(engine: Any, *, stage: int) -> None:
    """In place of the step after a backward pass: drop its gradients and change nothing else.

    DeepSpeed takes the way it has for gradients that overflow, whatever these are: weights,
    moments and Adam's count of steps stay, gradients and counters of micro-batches begin anew.
    """
    optimizer, own = engine.optimizer, vars(engine.optimizer)

    def overflow(**_: Any) -> None:
        optimizer.overflow = True

    if stage == 0:  # plain AdamW knows no overflow: no step, and gradients go as ever
        instead = {"step": lambda: None}
    elif stage < 3:
        instead = {"check_grad_overflow": True, "check_overflow": overflow}
    else:
        instead = {"_overflow_check_and_loss_scale_update": overflow}
    kept = {name: own[name] for name in instead if name in own}
    own.update(instead)
    try:
        engine.step()
    finally:
        for name in instead:
            del own[name]  # a method of the class is seen again
        own.update(kept)


def settle(optimizer: Any, *, stage: int) -> None:
    """Do what DeepSpeed leaves undone where it refuses a step."""
    for flat in _flats(optimizer, stage=stage):
        if flat.grad is not None:  # of an optimizer that is offloaded
            flat.grad.zero_()
    if stage == 3:
        optimizer.grad_partitions_flat_buffer.zero_()
        if small := optimizer.persistent_parameters:  # kept whole between steps
            small[0].all_gather(small)


def in_parts(optimizer: Any, *, stage: int) -> None:
    """Leave each parameter in parts that stage 3 keeps in parts between steps."""
    if stage == 3:
        optimizer.checkpoint_event_prologue()
        optimizer.checkpoint_event_epilogue()


class Filler:
    """Puts parameters and AdamW's states, whole as a checkpoint has them, where a rank keeps them.

    As a context: between its ends, ``place`` takes one parameter at a time, on all ranks alike.
    """

    def __init__(self, optimizer: Any, *, stage: int, rank: int, step: float | None) -> None:
        """See where things are kept.

        Args:
            optimizer: DeepSpeed's; AdamW itself at stage 0.
            stage: ZeRO stage.
            rank: of this process.
            step: AdamW's count of steps, the same for all parameters; None where it has no states
                yet. Not used at stage 0, where each parameter has its own.
        """
        self._optimizer, self._stage, self._rank = optimizer, stage, rank
        self._step, self._utils = step, deepspeed().utils

    def __enter__(self) -> "Filler":
        """Make room."""
        if self._stage == 3:
            self._optimizer.checkpoint_event_prologue()
        if self._stage and self._step is not None:
            self._make_states(self._step)
        return self

    def __exit__(self, *error: object) -> None:
        """Let all ranks have the new parameters that they keep whole."""
        if self._stage == 3 and error[0] is None:
            self._optimizer.checkpoint_event_epilogue()

    def _make_states(self, step: float) -> None:
        """AdamW's states as they are after a first step, all zero."""
        zero = self._optimizer
        flats = [*_flats(zero, stage=self._stage)]
        for flat in flats:
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}
            zero.optimizer.state[flat] = {"step": torch.tensor(step), **moments}
        if self._stage < 3:  # DeepSpeed would link those of the first group alone
            link = self._utils.lazy_init_hp_params_optimizer_state
            for parameters, flat in zip(zero.bit16_groups, flats, strict=True):
                link(parameters, flat, zero.optimizer.state)

    @torch.no_grad()
    def place(self, parameter: nn.Parameter, was: Atom) -> None:
        """Give a parameter its weight and, where it is trained, what AdamW knows of it."""
        if self._stage == 3:
            self._place_part(parameter, was)
            return
        parameter.copy_(was.weight)
        if not parameter.requires_grad:
            return
        if self._stage == 0:
            if was.moments:
                like = {key: _like(parameter, whole) for key, whole in was.moments.items()}
                self._optimizer.state[parameter] = {"step": torch.tensor(was.step), **like}
            return
        self._utils.safe_set_full_fp32_param(parameter, was.weight)
        for key, whole in was.moments.items():
            self._utils.safe_set_full_optimizer_state(parameter, whole, key)

    def _place_part(self, parameter: nn.Parameter, was: Atom) -> None:
        part = partial(own_part, rank=self._rank, size=parameter.ds_tensor.numel())
        parameter.ds_tensor.copy_(part(was.weight))
        if parameter.requires_grad:
            self._utils.safe_set_local_fp32_param(parameter, part(was.weight))
            for key, whole in was.moments.items():
                self._utils.safe_set_local_optimizer_state(parameter, part(whole), key)


def _flats(optimizer: Any, *, stage: int) -> list[Tensor]:
    """This rank's fp32 weights, a flat tensor for each group or part of one."""
    name = "fp32_partitioned_groups_flat" if stage == 3 else "single_partition_of_fp32_groups"
    return getattr(optimizer, name, [])


def _like(parameter: Tensor, whole: Tensor) -> Tensor:
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(whole)
