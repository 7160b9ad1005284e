import base64
import json
import os
import shlex
import sys
from itertools import pairwise

import pytest

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.train import launchers
from tokenunify_scale.train.launchers import LOCAL, Places, commands, find_mpi, travellers

WORDS = ["pretrain", "--out", "my runs/one"]
TOLD = {"TOKENUNIFY_EXPECT_WORLD": "3"}
TWO = Places({"a": 2, "me@b": 1}, "10.0.0.1", 29500)
HERE = Places({LOCAL: 2}, "127.0.0.1", 4711)


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """A small environment of its own, in which an outer launcher has left its ranks."""
    small = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    small |= {"RANK": "3", "WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_MCA_x": "1"}
    small |= {"OMP_NUM_THREADS": "4", "GLOO_SOCKET_IFNAME": "eth1", "EDITOR": "vi"}
    small |= {"HF_TOKEN": "t", "HF_HOME": "/hf", "DS_ENV_FILE": str(tmp_path / "travels")}
    monkeypatch.setattr(os, "environ", small)
    return small


@pytest.fixture
def mpi(tmp_path, environment):
    """Put an mpirun of some kind first."""

    def install(version, name="mpirun"):
        tmp_path.joinpath(name).write_text(f"#!/bin/sh\necho '{version}'\n")
        tmp_path.joinpath(name).chmod(0o755)
        environment["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        return str(tmp_path / name)

    return install


def test_deepspeeds_launcher_is_started_on_each_host_over_ssh():
    first, second = commands("deepspeed", TWO, WORDS, variables=TOLD)
    assert first.words[0] == "ssh" and [first.words[-2], second.words[-2]] == ["a", "me@b"]
    assert second.name == "DeepSpeed's launcher on me@b"
    remote = shlex.split(second.words[-1])
    assert remote[:3] == ["cd", os.getcwd(), "&&"] and sys.executable in remote
    assert {"TOKENUNIFY_EXPECT_WORLD=3", "OMP_NUM_THREADS=4", "GLOO_SOCKET_IFNAME=eth1"} <= {
        *remote
    }
    assert remote[-4:] == ["tokenunify_scale", *WORDS] and "--node_rank=1" in remote
    info = next(word for word in remote if word.startswith("--world_info="))
    world = json.loads(base64.urlsafe_b64decode(info.partition("=")[2]))
    assert world == {"a": [0, 1], "me@b": [0]}


def test_on_this_machine_nothing_is_between_and_the_environment_is_inherited(environment):
    for name in ("deepspeed", "torchrun"):
        (command,) = commands(name, HERE, WORDS, variables=TOLD)
        assert command.words[0] == sys.executable and command.environment["EDITOR"] == "vi"
        assert command.environment["TOKENUNIFY_EXPECT_WORLD"] == "3"
        assert not {"RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_RANK"} & command.environment.keys()
        assert command.environment["OMPI_MCA_x"] == "1", "a user's setting"
        assert "--master_port=4711" in command.words


def test_devices_that_were_chosen_here_are_those_that_ranks_get(environment):
    environment["CUDA_VISIBLE_DEVICES"] = "2,3,5"
    (command,) = commands("deepspeed", HERE, WORDS, variables=TOLD)
    info = next(word for word in command.words if word.startswith("--world_info="))
    assert json.loads(base64.urlsafe_b64decode(info.partition("=")[2])) == {LOCAL: [2, 3]}


def test_torchruns_hosts_have_their_number_and_their_ranks():
    first, second = commands("torchrun", TWO, WORDS, variables=TOLD)
    remote = shlex.split(second.words[-1])
    wanted = {"--nnodes=2", "--node_rank=1", "--nproc_per_node=1", "--master_addr=10.0.0.1"}
    assert wanted | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", "--max_restarts=0"} <= {*remote}
    assert remote[-5:] == ["-m", "tokenunify_scale", *WORDS]
    assert "--nproc_per_node=2" in shlex.split(first.words[-1])


def test_each_mpi_has_its_own_words_and_all_variables_travel(mpi):
    places = Places({"a": 2, "b": 1}, "10.0.0.1", 29500)
    path = mpi("mpirun (Open MPI) 5.0.11")
    (command,) = commands("openmpi", places, WORDS, variables=TOLD)
    assert command.words[:3] == (path, "-n", "3") and "a:2,b:1" in command.words
    passed = {name for flag, name in pairwise(command.words) if flag == "-x"}
    assert {"MASTER_ADDR", "OMP_NUM_THREADS", "TOKENUNIFY_EXPECT_WORLD"} <= passed
    assert passed <= command.environment.keys() and "EDITOR" not in passed
    path = mpi("HYDRA build details:", "mpiexec.hydra")
    (command,) = commands("mpich", places, WORDS, variables=TOLD)
    assert command.words[:4] == (path, "-n", "3", "-genvall") and "a:2,b:1" in command.words
    assert command.environment["MASTER_PORT"] == "29500"
    with pytest.raises(ConfigError, match="no user as in me@b"):
        commands("mpich", TWO, WORDS, variables=TOLD)


def test_the_other_mpis_launcher_is_refused(mpi, tmp_path, monkeypatch):
    monkeypatch.setattr(launchers.sys, "executable", str(tmp_path / "python"))
    os.environ["PATH"] = ""
    with pytest.raises(HostError, match="no mpirun of MPICH .none at all"):
        find_mpi("MPICH")
    path = mpi("mpirun (Open MPI) 5.0.11")
    with pytest.raises(HostError, match=f"no mpirun of MPICH .*{path} is mpirun .Open MPI. 5"):
        find_mpi("MPICH")


def test_what_travels_is_what_counts_and_what_was_written_down(environment, tmp_path):
    found = travellers(environment)
    assert {"OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "HF_HOME", "PATH", "PYTHONPATH"} <= {*found}
    assert not {"EDITOR", "HF_TOKEN", "HOME"} & {*found}, "secrets would stand in a process list"
    (tmp_path / "travels").write_text("GLOO_SOCKET_IFNAME=eth9\nEDITOR=ed\n")
    found = travellers(environment)
    assert (found["GLOO_SOCKET_IFNAME"], found["EDITOR"]) == ("eth9", "ed")
    (tmp_path / "travels").write_text("\n")
    with pytest.raises(ConfigError, match="travels:1: a blank line"):
        travellers(environment)
