"""The processes that prepare data together: one, or as many as an MPI launcher started."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from tokenunify_scale.config import HostError
from tokenunify_scale.train.runlog import track

T = TypeVar("T")
S = TypeVar("S")
# Open MPI; MPICH, Intel MPI and Slurm's pmi2; MVAPICH; a step of srun. SLURM_NTASKS would not do:
# it stands in a batch script too, which is one process.
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
STOP, COUNT = 1, 2
POLL = 0.01
COUNT_SECONDS = 0.5


class _Stopped(Exception):
    """Another rank has failed."""


class Team:
    """This process's place among those that work together; alone without MPI.

    Work goes on inside ``together`` (or ``deal``), where nothing is exchanged; what is exchanged
    stands between. So ranks always meet at the same line, and an error on one ends all. A context
    manager: what goes wrong elsewhere, and Ctrl-C, ends all of them too, without agreement.
    """

    def __init__(self, comm: Any = None) -> None:
        """``comm`` is an mpi4py communicator, or None for a process alone."""
        self._comm = comm
        self.rank: int = comm.Get_rank() if comm is not None else 0
        self.size: int = comm.Get_size() if comm is not None else 1
        self._ended = False
        self._sent: list[Any] = []
        self._bar: Iterator[int] = iter(())
        self._uncounted, self._told = 0, 0.0

    def __enter__(self) -> "Team":
        """The team itself."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Let an agreed end pass; any other would leave the others waiting for this process."""
        if self._comm is not None and error is not None and not self._ended:
            traceback.print_exception(error)
            sys.stderr.flush()
            self._comm.Abort(exit_code(error))

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which speaks, and writes what is written once."""
        return self.rank == 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """A section that is over when every rank is through with it, or one has failed.

        Then the lowest rank that failed raises its error, and the others SystemExit with the exit
        code of that error, so that the error is said once. Within, ``check`` ends the work early.
        """
        error: Exception | None = None
        try:
            yield
        except _Stopped:
            pass
        except Exception as caught:
            if self._comm is None or self._ended:
                raise
            error = caught
            self._tell_others(STOP, None)
        if self._comm is None:
            return
        self._wait()
        codes = self._comm.allgather(None if error is None else exit_code(error))
        failed = [rank for rank, code in enumerate(codes) if code is not None]
        if failed:
            self._ended = True
            while self._comm.iprobe(tag=STOP):
                self._comm.recv(tag=STOP)
            if error is not None and self.rank == failed[0]:
                error.of_main = False  # this rank has to say it
                raise error
            raise SystemExit(codes[failed[0]])

    def check(self) -> None:
        """Leave the section if another rank has failed; call it now and then."""
        if self._comm is not None and self._comm.iprobe(tag=STOP):
            raise _Stopped

    def deal(self, items: Sequence[T], work: Callable[[T], S]) -> list[S]:
        """``work`` of every item, item ``i`` on rank ``i % size``; every rank gets all results."""
        with self.together():
            mine = []
            for item in items[self.rank :: self.size]:
                self.check()
                mine.append(work(item))
        if self._comm is None:
            return mine
        parts = self._comm.allgather(mine)
        return [parts[n % self.size][n // self.size] for n in range(len(items))]

    def ask(self, work: Callable[[], T]) -> T:
        """What rank 0 finds or does, on every rank."""
        with self.together():
            found = work() if self.leads else None
        return found if self._comm is None else self._comm.bcast(found)

    @contextmanager
    def progress(self, total: int, *, description: str, unit: str) -> Iterator[None]:
        """While it lasts, rank 0 shows the units that all ranks count with ``done``.

        Args:
            total: units of all ranks.
            description: what is being done.
            unit: what one unit is.
        """
        steps = track(
            range(total), description=description, total=total, unit=unit, enabled=self.leads
        )
        self._bar, self._uncounted, self._told = steps, 0, time.monotonic()
        next(steps, None)  # nothing is done until the next one is asked for
        try:
            yield
        finally:
            self._bar = iter(())
            steps.close()

    def done(self) -> None:
        """Count a unit of work; and leave the section if another rank has failed."""
        self.check()
        self._uncounted += 1
        if self.leads or time.monotonic() - self._told > COUNT_SECONDS:
            self._tell_progress()

    def _tell_progress(self) -> None:
        """Move the bar by what was counted here and elsewhere, or tell rank 0."""
        count, self._uncounted, self._told = self._uncounted, 0, time.monotonic()
        if not self.leads:
            if count:
                self._tell(0, COUNT, count)
            return
        while self._comm is not None and self._comm.iprobe(tag=COUNT):
            count += self._comm.recv(tag=COUNT)
        for _ in range(count):
            next(self._bar, None)

    def _tell_others(self, tag: int, value: Any) -> None:
        for rank in range(self.size):
            if rank != self.rank:
                self._tell(rank, tag, value)

    def _tell(self, rank: int, tag: int, value: Any) -> None:
        # Kept: the message lies in the request until it is received.
        self._sent = [request for request in self._sent if not request.Test()]
        self._sent.append(self._comm.isend(value, dest=rank, tag=tag))

    def _wait(self) -> None:
        """Wait for all ranks without keeping a core busy, as MPI's own barrier would."""
        self._tell_progress()
        arrived = self._comm.Ibarrier()
        while not arrived.Test():
            time.sleep(POLL)
            self._tell_progress()


def assemble(environment: Mapping[str, str] = os.environ) -> Team:
    """The team this process was started into; mpi4py is imported only if a launcher started it.

    Raises:
        HostError: started by an MPI launcher, and mpi4py is missing or of another MPI.
    """
    name = next((name for name in SIZES if environment.get(name, "").isdigit()), None)
    size = int(environment[name]) if name else 1
    if size == 1:
        return Team()
    started = f"started as one of {size} processes ({name})"
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise HostError(
            f"{started}, which need mpi4py: pip install 'tokenunify-scale[mpi]' ({error})"
        ) from error
    if MPI.COMM_WORLD.Get_size() != size:
        raise HostError(
            f"{started}, but mpi4py sees {MPI.COMM_WORLD.Get_size()}: use the launcher of the MPI "
            "that mpi4py was built for, or srun --mpi=pmix"
        )
    return Team(MPI.COMM_WORLD)


def exit_code(error: BaseException) -> int:
    """The code the command line ends with after an error."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return getattr(error, "exit_code", 4 if isinstance(error, OSError) else 1)
