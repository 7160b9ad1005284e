"""Which process this is among how many, and sums over all of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from tokenunify_scale.config import HostError
from tokenunify_scale.train.ranks import Seat, seat_of

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place in the job."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0


def place() -> World:
    """Read the launcher's environment, whichever it is, and put it into torch.distributed's terms.

    A process started by hand is a world of one, and leaves the environment as it is.

    Raises:
        HostError: the environment is incomplete or contradicts itself, or this rank has no GPU.
    """
    seat = seat_of(os.environ)
    os.environ.update(seat.variables())
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", _gpu_of(seat, count=torch.cuda.device_count()))
        torch.cuda.set_device(device)
    return World(seat.rank, seat.size, seat.local_rank, device)


def _gpu_of(seat: Seat, *, count: int) -> int:
    """Which of the ``count`` GPUs that this process sees is its own."""
    if seat.local_rank < count:
        return seat.local_rank
    if seat.own_gpus and count == 1:
        return 0
    raise HostError(
        f"this is local rank {seat.local_rank} of its host, which has {count} GPUs: start as many "
        "ranks on a host as it has GPUs (slots of the hostfile, --ntasks-per-node)"
    )


def meet(world: World, *, backend: str) -> None:
    """Start the process group, once; a world of one needs no port for it."""
    if dist.is_initialized():
        return
    if world.size == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group(backend, rank=world.rank, world_size=world.size)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, on every rank."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def on_main(world: World, work: Callable[[], T]) -> T:
    """Do something on rank 0 alone; all ranks get what came of it. Collective.

    Args:
        world: this process's place.
        work: gives something that can be pickled.

    Raises:
        Exception: on all ranks, what ``work`` raised; on others with the attribute ``of_main``.
    """
    if world.size == 1:
        return work()
    box: list = [None, None]
    if world.is_main:
        try:
            box[0] = work()
        except (ValueError, RuntimeError, OSError) as error:
            box[1] = error
    dist.broadcast_object_list(box, src=0)
    found, error = box
    if error is not None:
        error.of_main = not world.is_main
        raise error
    return found


def gather(world: World, value: T) -> list[T]:
    """What each rank has, by rank, on rank 0; an empty list elsewhere. Collective."""
    if world.size == 1:
        return [value]
    values: list | None = [None] * world.size if world.is_main else None
    dist.gather_object(value, values, 0)
    return values or []


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def leave() -> None:
    """Take the process group down, so that the interpreter ends without a complaint."""
    if dist.is_initialized():
        dist.destroy_process_group()
