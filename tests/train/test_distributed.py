import os

import pytest
import torch
from torch import distributed as dist

from tokenunify_scale.train.distributed import (
    World,
    barrier,
    leave,
    meet,
    place,
    sum_over_ranks,
)

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch) -> dict[str, str]:
    """An environment of its own for one test, without a launcher's variables."""
    without = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    monkeypatch.setattr(os, "environ", without)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return without


def test_a_process_started_by_hand_is_a_world_of_one(environment):
    world = place()
    assert world == World(0, 1, 0, torch.device("cpu")) and world.is_main
    assert not set(VARIABLES) & environment.keys()  # processes it starts are nobody's ranks


def test_the_launchers_variables_are_taken_and_stay(environment):
    given = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    given |= {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}
    environment.update(given)
    world = place()
    assert (world.rank, world.size, world.local_rank) == (5, 8, 1) and not world.is_main
    assert {name: environment[name] for name in VARIABLES} == given


def test_a_world_of_one_meets_without_an_address_or_a_port(environment):
    try:
        meet(place(), backend="gloo")
        assert dist.get_world_size() == 1 and dist.get_rank() == 0
        meet(place(), backend="gloo")  # once is enough
        assert sum_over_ranks(torch.tensor([3.0])).tolist() == [3.0]
        barrier()
    finally:
        leave()
    assert not dist.is_initialized()


def test_a_process_alone_waits_for_nobody_and_sums_itself(environment):
    values = torch.tensor([1.0, 2.0])
    assert sum_over_ranks(values).tolist() == [1.0, 2.0]
    barrier()
    leave()
