"""Signals that ask a run to stop: each rank notes its own, and all of them stop at one step.

SIGTERM is what schedulers and launchers send some seconds before SIGKILL (Slurm's pre-emption too);
SIGUSR2 is the earlier warning that Slurm gives when asked (``--signal=USR2@300``: 300 s before);
SIGINT is Ctrl-C. A handler sets a flag and no more: training goes on to the end of its step, where
the flag is shared, so that no rank leaves another alone in a collective.

Whom a signal reaches is not decided here. Threads that load data get none: Python runs handlers in
the main thread. A child process that is executed starts with the default again, and a signal to the
whole process group (Ctrl-C, ``scancel``) ends it: what must outlive the save belongs into a session
of its own. DeepSpeed's launcher does not wait: told to end, it sends SIGTERM to one rank of the
host after the other and gives each 30 s before SIGKILL, while the first waits in a collective for
those that were not told. As the flag is shared, one is enough, but the save has to be done within
these 30 s. SIGUSR2 ends that launcher and leaves its ranks running: it must be sent to ranks.
"""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from tokenunify_scale.train.distributed import World, sum_over_ranks

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
"""In this order the most pressing is named first."""


class Stop:
    """Notes signals while it is entered, in place of being ended by them.

    The first SIGINT is noted; a second one is a KeyboardInterrupt at once, for who cannot wait.
    SIGINT stays ignored where it was, as in the background of a shell. Only the main thread of a
    process can enter.
    """

    def __init__(self, *, rank: int = 0) -> None:
        """Note nothing yet; ``rank`` is named in the line that answers a signal."""
        self._noted = dict.fromkeys(SIGNALS, False)
        self._before: dict[signal.Signals, Any] = {}
        # Made here: little may be done within a handler.
        end = ": stopping after this step, with a save\n"
        self._lines = {each: f"[rank {rank}] {each.name}{end}".encode() for each in SIGNALS}

    def __enter__(self) -> "Stop":
        """Put the handlers in place."""
        for each in SIGNALS:
            if each != signal.SIGINT or signal.getsignal(each) is not signal.SIG_IGN:
                self._before[each] = signal.signal(each, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        """Put back the handlers that were there."""
        for each, handler in self._before.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        which = signal.Signals(number)
        if which == signal.SIGINT and self._noted[which]:
            raise KeyboardInterrupt
        if not self._noted[which]:
            with suppress(OSError):  # a closed stderr must not end the run
                os.write(2, self._lines[which])
        self._noted[which] = True

    def votes(self, device: torch.device) -> Tensor:
        """What this rank has noted: float32 [3] of 0 and 1, in the order of ``SIGNALS``.

        To be summed over ranks together with other numbers, where those are summed anyway.
        """
        return torch.tensor([float(self._noted[each]) for each in SIGNALS], device=device)

    def asked(self, world: World) -> str | None:
        """The name of the signal by which any rank was asked to stop; the same on all ranks.

        Collective: every rank must call it, once a step and between batches of an evaluation. One
        sum of three numbers.
        """
        return name_of(sum_over_ranks(self.votes(world.device)).tolist())


def name_of(votes: Sequence[float]) -> str | None:
    """The most pressing signal of summed ``votes``, None where there was none."""
    return next((each.name for each, got in zip(SIGNALS, votes, strict=True) if got), None)
