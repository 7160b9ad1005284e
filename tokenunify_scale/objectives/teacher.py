"""A teacher: a copy of a network that follows it as an exponential moving average."""

import math
from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn


def momentum_at(start: float, *, progress: float) -> float:
    """How much of itself a teacher keeps in a step: from ``start`` to 1, along a cosine.

    Args:
        start: at progress 0, in [0, 1].
        progress: share of training done, in [0, 1].

    Source: Grill et al. 2020, Sec. 3.3.
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


class Teacher(nn.Module):
    """The moving average of a network; without gradient, and always in evaluation mode.

    It follows the network once a step, before the step's first forward pass: call ``follow`` from
    a forward pre-hook that the objective registers on itself when it is built. Under ZeRO-3 that
    is before DeepSpeed's own hooks begin to gather parameters ahead, when all are at rest; within
    the objective's forward the teacher's first layers may be on their way already, as they were.

    A checkpoint needs nothing but the weights: a run that goes on follows in its first step, as it
    would have done had it never stopped, and in the first step of all both are equal.
    """

    drawn = False  # who holds both fills it, by copy_from

    def __init__(self, network: nn.Module, *, start: float) -> None:
        """Copy a network, but for parameters that are frozen: these both have in common.

        Args:
            network: whose weights are followed; stays as it is.
            start: momentum at the beginning.

        Raises:
            ValueError: the momentum is outside [0, 1].
        """
        super().__init__()
        if not 0 <= start <= 1:
            raise ValueError(f"momentum of a teacher is {start}, must be in [0, 1]")
        # A decoder that is not trained is most of a network: it is held once.
        common = {id(each): each for each in network.parameters() if not each.requires_grad}
        self.network = deepcopy(network, common).requires_grad_(False).eval()
        self.start = start
        self._seen: float | None = None
        self._owes = True  # a step to follow: not where the one before was not taken

    def refused(self) -> None:
        """Know that the step was not taken: the network is as it was, and was followed already."""
        self._owes = False

    def restored(self) -> None:
        """Know that the weights are those of a checkpoint: the first step from there follows."""
        self._seen, self._owes = None, True

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode, whatever the objective is in."""
        return super().train(False)

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the teacher's network gives, without gradient."""
        with torch.no_grad():
            return self.network(*inputs)

    @torch.no_grad()
    def copy_from(self, network: nn.Module) -> None:
        """Be equal to the network that was copied, once both have memory: whole or in shards."""
        for ours, theirs in self._tensors(network):
            ours.copy_(theirs)
        self._copy_buffers(network)

    @torch.no_grad()
    def follow(self, network: nn.Module, *, progress: float) -> None:
        """Move towards a network where a step begins; do nothing within a step.

        teacher <- m teacher + (1 - m) network, with m = ``momentum_at(start, progress)``; buffers
        (the running statistics of a batch norm) are copied.

        Args:
            network: that was copied.
            progress: share of training done; all micro-batches of a step have the same.

        Source: Grill et al. 2020, Eq. 1.
        """
        if progress == self._seen:
            return
        self._seen = progress
        if not self._owes:
            self._owes = True
            return
        share = 1 - momentum_at(self.start, progress=progress)
        for ours, theirs in self._tensors(network):
            ours.lerp_(theirs, share)
        self._copy_buffers(network)

    def _tensors(self, network: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """What this rank holds of each parameter that they do not share, and of its original."""
        for mine, other in zip(self.network.parameters(), network.parameters(), strict=True):
            if mine is not other:
                yield from zip(_shards(mine), _shards(other), strict=True)

    def _copy_buffers(self, network: nn.Module) -> None:
        for mine, other in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(other)


def _shards(parameter: nn.Parameter) -> list[Tensor]:
    """The tensors in which this rank keeps a parameter, without gradient.

    Under ZeRO-3 a parameter at rest is empty and its ``ds_tensor`` is this rank's part of it, the
    same part in both copies: a moving average is taken element by element, so the parts alone give
    what the whole would. Small parameters DeepSpeed also keeps whole between steps. These have to
    move along, but not twice: in a world of one rank part and whole share their memory.
    """
    whole, part = parameter.data, getattr(parameter, "ds_tensor", None)
    if part is None:
        return [whole]
    shared = whole.untyped_storage().data_ptr() == part.untyped_storage().data_ptr()
    return [part.data] if shared or not whole.numel() else [part.data, whole]
