import os

import pytest

from tokenunify_scale.config import HostError
from tokenunify_scale.train.ranks import EXPECT, PORTS, Seat, nodes_of, seat_of, world_size

DEEPSPEED = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
DEEPSPEED |= {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": "prterun-node-4711@1",
}  # fmt: skip
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
STEP = {
    "SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "123", "SLURM_STEP_ID": "0", "SLURM_JOB_NODELIST": "gpu[07-10]",
    "SLURM_STEP_NODELIST": "gpu[08-09]",
}  # fmt: skip
BATCH_SHELL = {
    "SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "123",
    "SLURM_JOB_NODELIST": "gpu[08-09]",
}  # fmt: skip
SALLOC_SHELL = {**BATCH_SHELL, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"}


def test_each_launchers_variables_say_rank_size_and_meeting_place():
    assert seat_of(DEEPSPEED) == Seat(5, 8, 1, "10.0.0.7", 29500)
    one = seat_of(OPEN_MPI)
    assert (one.rank, one.size, one.local_rank) == (1, 2, 1)
    assert one.address == "127.0.0.1" and one.port in PORTS
    assert seat_of(MPICH) == Seat(1, 2, 1, "127.0.0.1", 29500)
    step = seat_of(STEP)
    assert (step.rank, step.size, step.local_rank, step.address) == (9, 16, 1, "gpu08")
    assert step.port in PORTS and step.own_gpus


def test_all_ranks_of_a_job_find_one_port_and_another_job_another():
    assert seat_of({**STEP, "SLURM_PROCID": "0"}).port == seat_of(STEP).port
    assert seat_of({**STEP, "SLURM_JOB_ID": "124"}).port != seat_of(STEP).port
    given = {"MASTER_ADDR": "head", "MASTER_PORT": "4000"}
    for variables in (OPEN_MPI, MPICH, STEP):
        seat = seat_of({**variables, **given})
        assert (seat.address, seat.port) == ("head", 4000)


@pytest.mark.parametrize("variables", [{}, BATCH_SHELL, SALLOC_SHELL, {"WORLD_SIZE": "1"}])
def test_by_hand_and_in_a_shell_of_slurm_it_is_a_world_of_one(variables):
    assert seat_of(variables) == Seat() and seat_of(variables).variables() == {}


def test_a_launcher_within_another_counts():
    assert seat_of({**STEP, **DEEPSPEED}).size == 8
    assert seat_of({**STEP, **OPEN_MPI}).size == 2, "srun started mpirun's helper"
    assert seat_of({**STEP, **MPICH}).size == 2
    assert seat_of({**STEP, "PMI_RANK": "9", "PMI_SIZE": "16"}).address == "gpu08", "srun's own PMI"


def test_what_torch_reads_is_said_by_the_seat():
    assert seat_of(DEEPSPEED).variables() == DEEPSPEED
    assert seat_of(STEP).variables()["MASTER_ADDR"] == "gpu08"


@pytest.mark.parametrize(
    "variables, words",
    [
        ({**DEEPSPEED, "RANK": "8"}, "RANK is 8, which is not below WORLD_SIZE, 8"),
        ({**DEEPSPEED, "LOCAL_RANK": "x"}, "LOCAL_RANK is 'x', expected a number"),
        ({**DEEPSPEED, "MASTER_PORT": "x"}, "MASTER_PORT is 'x', expected a port"),
        ({"WORLD_SIZE": "8"}, "RANK is not set"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "MASTER_ADDR is not set"),
        ({**DEEPSPEED, "WORLD_SIZE": "0"}, "not below WORLD_SIZE, 0"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "mpirun -x MASTER_ADDR=HOST"),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, "MPI_LOCALRANKID is not set"),
        ({**STEP, "SLURM_STEP_NODELIST": "gpu[08-"}, "no node list of Slurm"),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_named_with_its_remedy(variables, words):
    with pytest.raises(HostError) as caught:
        seat_of(variables)
    assert words in str(caught.value) and ": " in str(caught.value)


@pytest.mark.parametrize(
    "text, nodes",
    [
        ("node1", ["node1"]),
        ("gpu[01-03,07],login1", ["gpu01", "gpu02", "gpu03", "gpu07", "login1"]),
        ("r[1-2]n[09-10]x", ["r1n09x", "r1n10x", "r2n09x", "r2n10x"]),
        ("a-b[8-11]", ["a-b8", "a-b9", "a-b10", "a-b11"]),
        ("n[099-101],m[1]", ["n099", "n100", "n101", "m1"]),
    ],
)
def test_slurms_node_lists_are_written_out(text, nodes):
    assert nodes_of(text) == nodes


@pytest.fixture
def environment(monkeypatch):
    """An environment of its own."""
    variables = dict(os.environ)
    for name in (*DEEPSPEED, EXPECT):
        variables.pop(name, None)
    monkeypatch.setattr(os, "environ", variables)
    return variables


def test_a_world_as_promised_is_told_and_any_other_refused(environment):
    assert world_size() == world_size(1) == 1
    environment.update(DEEPSPEED)
    assert world_size() == world_size(8) == 8
    with pytest.raises(HostError, match="--expect-world is 16, and this job has 8 ranks") as caught:
        world_size(16)
    assert caught.value.of_main, "rank 5 leaves it to rank 0 to say so"
    environment[EXPECT] = "16"
    with pytest.raises(HostError, match=f"{EXPECT} is 16"):
        world_size(8)
    environment[EXPECT] = "many"
    with pytest.raises(HostError, match="expected a number"):
        world_size()
