"""How long a process is held up in collectives: what communication costs that is not hidden."""

import time
from collections.abc import Callable
from typing import Any

from torch import distributed as dist


class Blocked:
    """While entered, counts the seconds for which this process waits in collectives.

    Every collective of torch and DeepSpeed ends in ``Work.wait``, at once or, where it runs beside
    other work, later: what it is timed for is what was not hidden, waiting for slower ranks
    included. It costs two looks at the clock a collective and changes nothing in their order.

    This holds for gloo. NCCL's ``wait`` returns at once and lets the GPU wait, which only its own
    clock can time. DeepSpeed's comms logger would not do: it times a collective that runs beside
    other work for as long as it takes to start, and waits for the GPU after each.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Count from 0."""
        self.seconds = 0.0
        """Waited so far."""
        self._clock = clock
        self._wait: Callable[..., Any] | None = None

    def __enter__(self) -> "Blocked":
        """Begin to count."""
        waits, clock = dist.Work.wait, self._clock
        self._wait = waits

        def wait(work: dist.Work, *arguments: Any, **options: Any) -> Any:
            began = clock()
            try:
                return waits(work, *arguments, **options)
            finally:
                self.seconds += clock() - began

        dist.Work.wait = wait
        return self

    def __exit__(self, *error: object) -> None:
        """Put back what was there."""
        dist.Work.wait = self._wait
