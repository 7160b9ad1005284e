import os
import socket

import pytest

from tokenunify_scale.config import HostError
from tokenunify_scale.train.elastic import ask, free_port, own_address, share

# Plays hosts by their names; "$1" is then what ssh would run there. All are this machine.
SSH = """#!/bin/sh
while [ "$1" = -o ]; do shift 2; done
host=$1; shift
case $host in
  fine) exec sh -c "$1";;
  worn) sh -c "$1" | sed -u 's/"torch_gpus": [a-z0-9]*/"torch_gpus": 3/';;
  gone) echo "ssh: connect to host gone port 22: Connection refused" >&2; exit 255;;
esac
"""


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """Hosts by their names."""
    path = tmp_path / "ssh"
    path.write_text(SSH)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_hosts_that_answer_are_there_with_the_gpus_they_have(ssh):
    there, address, lost = ask({"gone": 2, "fine": 1, "worn": 4}, timeout=20)
    assert there["worn"] == 3 and there["fine"] == 1 and "gone" not in there
    assert lost[0].startswith("gone (ssh: ") and lost[1] == "1 GPUs of worn"
    assert address == "" or socket.inet_aton(address)


def test_without_ssh_nobody_can_be_asked(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HostError, match="no ssh"):
        ask({"a": 1}, timeout=1)


@pytest.mark.parametrize(
    "slots, batch, shared",
    [
        ({"a": 8, "b": 8}, 64, {"a": 8, "b": 8}),
        ({"a": 8, "b": 8, "c": 8}, 64, {"a": 6, "b": 5, "c": 5}),
        ({"a": 8, "b": 4}, 16, {"a": 4, "b": 4}),
        ({"a": 1, "b": 1, "c": 1}, 4, {"a": 1, "b": 1}),
        ({"a": 3}, 7, {"a": 1}),
        ({}, 7, {}),
    ],
)
def test_as_many_ranks_go_on_as_can_share_the_batch(slots, batch, shared):
    assert share(slots, fits=lambda world: batch % world == 0) == shared


def test_the_own_address_is_that_of_the_way_to_the_other():
    assert own_address("127.0.0.1") == "127.0.0.1"
    with socket.create_server(("127.0.0.1", free_port())):
        pass
